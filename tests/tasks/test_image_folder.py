"""A user's folder of images: classes, sides, what is left out, and what is refused."""

import os

import numpy as np
import pytest

import ftbench
from ftbench.component import parse_reference
from ftbench.errors import FtbenchError, SpecError
from ftbench.plugins import load_catalogue
from ftbench.sweep import Progress, expand
from ftbench.task import Task
from tests.tasks.images import folder, write

CATALOGUE = load_catalogue(kinds=("task",))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))


def task(path, **options):
    text = ", ".join(f"{name}={value!r}" for name, value in {"path": str(path), **options}.items())
    [(name, made)] = parse_reference(f"image-folder({text})")
    return CATALOGUE.build(Task, name, made)


def names(examples):
    return [examples.source.names[row] for row in examples.rows]


def test_classes_are_the_folders_and_the_test_set_is_drawn_class_by_class(tmp_path):
    found = task(folder(tmp_path / "data", each=10))
    assert found.target.names == ("blue", "green", "red")
    assert np.bincount(found.pool().targets).tolist() == [8, 8, 8]
    assert np.bincount(found.test().targets).tolist() == [2, 2, 2]
    assert set(names(found.pool())).isdisjoint(names(found.test()))
    for examples in (found.pool(), found.test()):
        for name, label in zip(names(examples), examples.targets.tolist(), strict=True):
            assert name.split(os.sep)[0] == found.target.names[label]
    assert names(task(tmp_path / "data").test()) == names(found.test())


@pytest.mark.parametrize(
    ("folders", "pool", "test"),
    [
        (("train", "val", "test"), 2, 1),
        (("training", "testing"), 1, 1),
        (("train", "valid"), 1, 1),
        (("Train", "Test"), 1, 1),
    ],
)
def test_folders_above_the_classes_say_the_sides(tmp_path, folders, pool, test):
    for index, part in enumerate(folders):
        folder(tmp_path / "data" / part, each=3, first=1000 * index)
    found = task(tmp_path / "data")
    assert (len(found.pool()), len(found.test())) == (9 * pool, 9 * test)
    assert all(name.startswith(folders[-1]) for name in names(found.test()))
    with pytest.raises(SpecError, match="draws the test set anew"):
        task(tmp_path / "data", test="per-seed").pool()


def test_a_class_folder_that_is_called_train_alone_is_a_class(tmp_path):
    root = folder(tmp_path / "data", colours=("blue", "red"))
    (root / "red").rename(root / "train")
    assert task(root).target.names == ("blue", "train")


def test_an_empty_class_folder_in_one_side_shifts_no_label(tmp_path):
    root = tmp_path / "data"
    folder(root / "train", each=3)
    folder(root / "test", each=2, first=500, colours=("blue", "red"))
    (root / "test" / "green").mkdir()
    found = task(root)
    assert found.target.names == ("blue", "green", "red")
    assert sorted(set(found.test().targets.tolist())) == [0, 2]
    assert found.left_out == {"test/green": "a class folder without images"}


def test_a_class_that_the_pool_has_not_is_refused(tmp_path):
    root = tmp_path / "data"
    folder(root / "train", each=3, colours=("blue", "red"))
    folder(root / "test", each=2, first=500)
    with pytest.raises(SpecError, match="classes that the pool has not: green; give the pool"):
        task(root).pool()


def test_what_cannot_be_used_is_named_and_strict_refuses_it(tmp_path):
    root = folder(tmp_path / "data", each=10)
    (root / "red" / "notes.txt").write_text("not an image")
    (root / "red" / "zero.png").write_bytes(b"")
    (root / "blue" / "fake.jpg").write_text("no jpeg")
    (root / "blue" / "link.png").symlink_to(root / "nowhere.png")
    (root / "README.md").write_text("about")
    (root / ".DS_Store").write_text("")
    (root / "blue" / ".hidden.png").write_text("")
    found = task(root)
    assert found.left_out == {
        "README.md": "a file beside the class folders",
        "blue/fake.jpg": "no image that Pillow knows",
        "blue/link.png": "a link that leads nowhere",
        "red/notes.txt": "no image by its name (.txt)",
        "red/zero.png": "an empty file",
    }
    assert len(found.pool()) + len(found.test()) == 30
    with pytest.raises(SpecError, match=r"5 files cannot be used, and strict=True refuses that: "):
        task(root, strict=True).pool()


def test_a_class_whose_images_are_all_damaged_is_no_class(tmp_path):
    root = folder(tmp_path / "data", each=5)
    for path in (root / "green").iterdir():
        path.write_bytes(b"")
    assert task(root).target.names == ("blue", "red")


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    real = folder(tmp_path / "elsewhere", each=5)
    root = tmp_path / "data"
    root.mkdir()
    for name in ("blue", "red"):
        (root / name).symlink_to(real / name)
    (real / "blue" / "again").symlink_to(real / "blue")
    found = task(root)
    assert len(found.pool()) + len(found.test()) == 10


def test_copies_stay_on_one_side_of_a_drawn_split(tmp_path):
    root = folder(tmp_path / "data", each=8)
    for index in range(8):
        write(root / "red" / f"copy{index}.bmp", "red", 200 + index)
    for share in (0.2, 0.4):
        found = task(root, test_share=share)
        sides = [{e.scan.contents[row] for row in e.rows} for e in (found.pool(), found.test())]
        assert sides[0].isdisjoint(sides[1])
        assert len(found.test())


def test_copies_across_given_sides_are_refused_unless_allowed(tmp_path):
    root = tmp_path / "data"
    folder(root / "train", each=4)
    folder(root / "test", each=2, first=500)
    write(root / "test" / "red" / "copy.bmp", "red", 201)
    with pytest.raises(
        SpecError, match=r"1 images of the pool .*train/red/01.png is test/red/copy"
    ):
        task(root).pool()
    assert len(task(root, duplicates="drop").pool()) == 11
    assert len(task(root, duplicates="allow").pool()) == 12
    assert len(task(root, duplicates="drop").test()) == 7


def test_each_seed_draws_a_test_set_where_it_is_asked_for(tmp_path):
    found = task(folder(tmp_path / "data", each=10), test="per-seed")
    drawn = [names(found.at_seed(seed).test()) for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert found.at_seed(0).fingerprint() == found.at_seed(1).fingerprint()
    runs = ftbench.run_sweep(
        spec(
            tmp_path / "data",
            seeds=(0, 1),
            tasks=(found.label.replace("'data'", repr(found.options.path)),),
        ),
        tmp_path / "out",
    )
    drawn = {(r.identity["seed"], r.protocol["test_fingerprint"]) for r in runs.done.values()}
    assert len(drawn) == len({seed for seed, _ in drawn}) == len({test for _, test in drawn}) == 2
    fixed = task(tmp_path / "data")
    assert names(fixed.at_seed(0).test()) == names(fixed.at_seed(1).test())


def test_a_changed_file_changes_the_fingerprint_and_a_renamed_or_touched_one_does_not(tmp_path):
    root = folder(tmp_path / "data")
    first = task(root).fingerprint()
    os.utime(root / "red" / "00.png", ns=(1, 1))
    assert task(root).fingerprint() == first
    (root / "red" / "00.png").rename(root / "red" / "00a.png")
    assert task(root).fingerprint() == first
    write(root / "red" / "00a.png", "red", 999)
    second = task(root).fingerprint()
    assert second != first
    (root / "red" / "00a.png").unlink()
    assert task(root).fingerprint() not in (first, second)
    (root / "blue" / "00.png").rename(root / "red" / "00.png")
    assert task(root).fingerprint() not in (first, second)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, r"there is no folder .*data"),
        (lambda root: root.write_text(""), r"data is a file; name the folder that holds it"),
        (lambda root: root.mkdir(), r"holds no class folder with images; expected DIR/CLASS"),
        (lambda root: write(root / "a.png", "red", 1), r"it holds a.png: a file beside the class"),
        (lambda root: folder(root, colours=("red",)), r"there is one class alone, 'red'"),
        (lambda root: folder(root, each=1, colours=("red", "blue")), "leave no room for a test"),
    ],
)
def test_folders_that_cannot_be_used_say_why(tmp_path, make, said):
    make(tmp_path / "data")
    with pytest.raises(SpecError, match=said):
        task(tmp_path / "data").pool()


def test_a_near_name_is_suggested_and_no_name_is_said(tmp_path):
    folder(tmp_path / "flowers")
    with pytest.raises(SpecError, match="did you mean 'flowers'"):
        task(tmp_path / "flower").pool()
    with pytest.raises(SpecError, match="image-folder needs a folder"):
        CATALOGUE.build(Task, "image-folder", {}).pool()


def spec(root, **changes):
    settings = {
        "tasks": (f"image-folder(path={str(root)!r})",),
        "backbones": ("torchvision/resnet18(weights='random', size=32)",),
        "strategies": ("head-only", "full"),
        "sizes": (6,),
        "seeds": (0,),
        "recipe": {"steps": 2, "batch_size": 4},
    }
    return ftbench.SweepSpec(**{**settings, **changes})


def test_a_folder_is_swept_and_resumed_and_a_changed_image_makes_new_runs(tmp_path):
    root = folder(tmp_path / "data", each=6)
    plan = ftbench.run_sweep(spec(root), tmp_path / "out")
    assert [record.status for record in plan.done.values()] == ["ok", "ok"]
    record = next(iter(plan.done.values()))
    assert record.protocol["left_out_rows"] == 0
    assert record.protocol["pool_rows"] + record.protocol["test_rows"] == 18
    assert {"accuracy", "balanced_accuracy", "macro_auroc", "f1:red"} <= record.scores.keys()
    assert str(tmp_path) not in str(record.identity)
    assert record.labels["task"] == "image-folder(path='data')"
    again = ftbench.run_sweep(spec(root), tmp_path / "out")
    assert (len(again.pending), len(again.done)) == (0, 2)
    moved = root.rename(tmp_path / "moved")
    assert len(ftbench.run_sweep(spec(moved), tmp_path / "out").pending) == 0
    write(moved / "red" / "00.png", "red", 999)
    assert len(ftbench.run_sweep(spec(moved), tmp_path / "out").done) == 2
    assert len(ftbench.load_results(tmp_path / "out")) == 4


def test_a_folder_that_changes_during_the_sweep_is_said(tmp_path):
    root = folder(tmp_path / "data", each=6)

    class Changes(Progress):
        def started(self, run):
            write(root / "red" / "00.png", "red", 1234)

    plan = ftbench.run_sweep(spec(root), tmp_path / "out", progress=Changes())
    assert {record.status for record in plan.done.values()} == {"failed"}
    message = next(iter(plan.done.values())).message
    assert (
        "the data or weights of task 'image-folder' changed since the sweep was planned" in message
    )


def test_a_size_below_the_classes_names_the_smallest(tmp_path):
    with pytest.raises(FtbenchError, match="the smallest size that can is 3"):
        ftbench.run_sweep(spec(folder(tmp_path / "data"), sizes=(2,)), tmp_path / "out")


@pytest.mark.parametrize(
    "augmentation",
    ["none", "standard", "strong", "crop-flip(padding=2)", "resized-crop(scale=(0.5, 1.0))"],
)
@pytest.mark.parametrize("mixing", ["none", "mixup"])
def test_images_are_augmented_and_mixed(tmp_path, augmentation, mixing):
    recipe = {"steps": 2, "batch_size": 4, "augmentation": augmentation, "mixing": mixing}
    plan = ftbench.run_sweep(
        spec(folder(tmp_path / "data"), recipe=recipe, strategies=("full",)), tmp_path / "out"
    )
    assert [record.message for record in plan.done.values()] == [""]


def test_grey_backbones_take_a_users_images_too(tmp_path):
    root = folder(tmp_path / "data")
    plan = ftbench.run_sweep(spec(root, backbones=("glyphnet",)), tmp_path / "out")
    for record in plan.done.values():
        assert (record.status, record.message) == ("ok", "")
        assert 0 <= record.scores["drift_agreement"] <= 1
    kept = {record.labels["strategy"]: record.scores for record in plan.done.values()}
    assert (kept["head-only"]["drift_kl"], kept["head-only"]["drift_agreement"]) == (0.0, 1.0)
    assert kept["full"]["drift_kl"] > 0


@pytest.fixture
def letters(tmp_path):
    """A folder of letters that glyphnet was pre-trained on, by its own class names."""
    from PIL import Image

    from ftbench import glyphs

    images, labels = glyphs.letters(200, "held out")
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "letters" / glyphs.CLASSES[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "letters"


def test_retention_is_measured_on_a_source_of_the_users(tmp_path, letters):
    for name in list("abcdefghijklmnopqrstuvwxyz"):  # case is not told apart
        for path in (letters / name).glob("*"):
            path.unlink()
    root = folder(tmp_path / "data")
    task_text = f"image-folder(path={str(root)!r}, source='image-folder:{letters}')"
    grid = spec(root, tasks=(task_text,), backbones=("glyphnet",), strategies=("head-only", "ewc"))
    plan = ftbench.run_sweep(grid, tmp_path / "out")
    records = {record.labels["strategy"]: record for record in plan.done.values()}
    for record in records.values():
        assert record.status == "ok", record.message
        assert "drift_kl" not in record.scores
        assert record.scores["source_accuracy_before"] > 0.8
        assert record.protocol["source_rows"] > 10
        assert record.protocol["remark"] == ""
    scores = records["head-only"].scores
    assert scores["source_accuracy_after"] == scores["source_accuracy_before"]
    assert str(letters) not in str(records["ewc"].identity)
    first = task(root, source=f"image-folder:{letters}").fingerprint()
    assert first != task(root).fingerprint()


def test_a_source_of_other_classes_is_refused(tmp_path):
    root, source = folder(tmp_path / "data"), folder(tmp_path / "source", first=5000)
    task_text = f"image-folder(path={str(root)!r}, source='image-folder:{source}')"
    grid = spec(root, tasks=(task_text,), backbones=("glyphnet",))
    expected = r"3 classes of its source are none of backbone 'glyphnet' \(blue, green, red"
    with pytest.raises(SpecError, match=expected):  # before anything trains
        ftbench.run_sweep(grid, tmp_path / "out")
    with pytest.raises(SpecError, match="expected image-folder:DIR"):
        task(root, source="folder/of/images")


def test_a_class_of_one_image_is_in_the_pool(tmp_path):
    root = folder(tmp_path / "data", each=10, colours=("blue", "red"))
    write(root / "green" / "only.png", "green", 1)
    found = task(root)
    assert np.bincount(found.pool().targets).tolist() == [8, 1, 8]
    assert sorted(set(found.test().targets.tolist())) == [0, 2]


def test_what_cannot_change_a_score_is_no_part_of_the_key(tmp_path):
    root = folder(tmp_path / "data")
    keys = set()
    for options in ("", ", strict=True"):
        grid = spec(root, tasks=(f"image-folder(path={str(root)!r}{options})",))
        keys.add(tuple(run.key for run in expand(grid, ftbench.load_catalogue())))
    assert len(keys) == 1

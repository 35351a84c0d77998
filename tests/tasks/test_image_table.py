"""A table of images: classes, several labels, numbers, groups, splits, and what is refused."""

import numpy as np
import pytest
import torch

import ftbench
from ftbench.component import parse_reference
from ftbench.errors import SpecError
from ftbench.plugins import load_catalogue
from ftbench.targets import Classes, Labels, Numbers
from ftbench.task import Task
from tests.tasks.images import write

CATALOGUE = load_catalogue(kinds=("task",))
COLOURS = ("blue", "green", "red")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path):
    """A function that writes 30 images and a table of them; columns are functions of a row."""

    def make(text=None, rows=30, encoding="utf-8", newline="\n", **columns):
        names = [
            write(tmp_path / "pictures" / f"{i}.png", COLOURS[i % 3], i).name for i in range(rows)
        ]
        lines = [",".join(["path", *columns])]
        for i, name in enumerate(names):
            cells = [f"pictures/{name}", *(str(value(i)) for value in columns.values())]
            lines.append(",".join(cells))
        path = tmp_path / "table.csv"
        content = newline.join(lines) + newline if text is None else text
        path.write_bytes(content.encode(encoding))
        return path

    return make


def task(path, **options):
    options = {"path": str(path), "image": "path", **options}
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    [(name, made)] = parse_reference(f"csv({text})")
    return CATALOGUE.build(Task, name, made)


def colour(i):
    return COLOURS[i % 3]


def test_a_column_of_words_is_classes(table):
    found = task(table(label=colour), label="label")
    assert found.target == Classes(COLOURS)
    assert len(found.pool()) == 24
    assert np.bincount(found.test().targets).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("columns", "options", "kind", "names"),
    [
        ({"label": lambda i: i % 3}, {}, Classes, ("0", "1", "2")),
        ({"y": lambda i: i / 7}, {"label": "y"}, Numbers, ("y",)),
        ({"y": lambda i: i % 3}, {"label": "y", "target": "number"}, Numbers, ("y",)),
        ({"y": lambda i: i / 7}, {"label": "y", "target": "class", "test_share": 0.01}, None, ()),
        (
            {"a": lambda i: i % 2, "b": lambda i: i % 3 // 2},
            {"label": ("a", "b")},
            Labels,
            ("a", "b"),
        ),
        ({"a": lambda i: i % 2, "b": lambda i: i / 3}, {"label": ("a", "b")}, Numbers, ("a", "b")),
        (
            {"tags": lambda i: "x;y" if i % 2 else "y"},
            {"label": "tags", "separator": ";"},
            Labels,
            ("x", "y"),
        ),
        (
            {"tags": lambda i: "x;y" if i % 2 else ""},
            {"label": "tags", "target": "labels"},
            Labels,
            ("x", "y"),
        ),
    ],
)
def test_what_is_learned_is_what_the_columns_hold(table, columns, options, kind, names):
    found = task(table(**columns), **options)
    if kind is None:
        with pytest.raises(SpecError, match="leave no room for a test set"):
            found.pool()
        return
    assert type(found.target) is kind
    assert found.target.names == names


def test_labels_and_numbers_are_those_of_the_rows(table):
    found = task(table(tags=lambda i: "x;y" if i % 2 else "y"), label="tags", separator=";")
    pool = found.pool()
    assert torch.equal(
        pool.targets, torch.tensor([[row % 2, 1] for row in pool.rows]).to(torch.int8)
    )
    found = task(table(y=lambda i: i / 8, z=lambda i: -i), label=("y", "z"))
    pool = found.pool()
    assert torch.equal(pool.targets, torch.tensor([[row / 8, -row] for row in pool.rows]).float())


@pytest.mark.parametrize(
    ("encoding", "newline"), [("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("utf-8-sig", "\r\n")]
)
def test_byte_order_marks_and_line_ends_are_no_part_of_it(table, encoding, newline):
    found = task(table(encoding=encoding, newline=newline, label=colour))
    assert found.target.names == COLOURS


def test_quotes_spaces_and_commas_are_read_as_tables_write_them(table):
    named = {"blue": '"blue, deep"', "green": " green ", "red": '"say ""red"""'}
    found = task(table(label=lambda i: named[colour(i)]))
    assert found.target.names == ("blue, deep", "green", 'say "red"')
    plan = ftbench.run_sweep(
        ftbench.SweepSpec(
            tasks=(found.label.replace("table.csv", found.options.path),),
            backbones=("glyphnet",),
            strategies=("head-only",),
            sizes=(6,),
            seeds=(0,),
            recipe={"steps": 2},
        ),
        found.options.path + ".out",
    )
    (record,) = plan.done.values()
    assert record.status == "ok", record.message
    assert "f1:blue, deep" in record.scores


def test_a_group_is_on_one_side(table):
    found = task(table(label=colour, patient=lambda i: i // 5), group="patient")
    sides = [{row // 5 for row in examples.rows} for examples in (found.pool(), found.test())]
    assert sides[0].isdisjoint(sides[1])
    assert sides[1]
    assert found.pool().groups is not None


def test_validation_rows_are_of_other_groups_than_those_that_train(table):
    from ftbench import subsets

    found = task(table(label=colour, patient=lambda i: i // 5), group="patient")
    pool = found.pool()
    kept, held = subsets.split_validation(pool.strata, 0.25, 0, pool.groups)
    assert {*pool.groups[kept]}.isdisjoint(pool.groups[held])
    assert len(held)


def test_a_split_column_says_the_sides(table):
    said = ("train", "VAL", "test")
    found = task(table(label=lambda i: i % 2, part=lambda i: said[i % 3]), split="part")
    assert [int(row) % 3 for row in found.test().rows] == [2] * 10
    assert len(found.pool()) == 20
    with pytest.raises(SpecError, match="say neither train, val nor test in 'label'"):
        task(table(label=lambda i: i % 2, part=colour), split="label").pool()
    with pytest.raises(SpecError, match="no row says test in 'part'"):
        task(table(label=lambda i: i % 2, part=lambda i: "train"), split="part").pool()
    grouped = table(label=lambda i: i % 2, part=lambda i: said[i % 3], who=lambda i: "p")
    with pytest.raises(SpecError, match=r"1 groups are in the pool and in the test set \(p\)"):
        task(grouped, split="part", group="who").pool()


def test_images_are_found_from_another_root(table, tmp_path):
    path = table(label=colour)
    moved = tmp_path / "tables" / "table.csv"
    moved.parent.mkdir()
    path.rename(moved)
    found = task(moved, root=str(tmp_path))
    assert len(found.pool()) == 24
    first = found.fingerprint()
    assert task(moved, root=str(tmp_path)).fingerprint() == first


def test_missing_images_are_left_out_and_named(table, tmp_path):
    path = table(label=colour)
    (tmp_path / "pictures" / "3.png").unlink()
    found = task(path)
    assert found.left_out == {"pictures/3.png": "cannot be read: No such file or directory"}
    with pytest.raises(SpecError, match=r"strict=True refuses that: pictures/3\.png"):
        task(path, strict=True).pool()


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"label": lambda i: "NaN" if i == 1 else "x"}, {}, r"1 rows have no value .* \(line 3\)"),
        (
            {"label": colour},
            {"label": "lable"},
            r"no column 'lable'; did you mean 'label'\? \(it has",
        ),
        ({"label": colour}, {"image": "file"}, "has no column 'file'"),
        ({"label": colour}, {"group": "patient"}, "has no column 'patient'"),
        (
            {"label": lambda i: "" if i in (1, 4) else "x"},
            {},
            r"2 rows have no value in 'label' \(line 3, 6\)",
        ),
        (
            {"y": lambda i: "inf" if i == 2 else i / 7},
            {"label": "y"},
            r"1 rows have no finite number in 'y' \(line 4\)",
        ),
        (
            {"y": lambda i: "nan" if i == 2 else i / 7},
            {"label": "y", "target": "number"},
            "have no value in",
        ),
        (
            {"y": lambda i: "many" if i == 2 else i / 7},
            {"label": "y", "target": "number"},
            "no finite number",
        ),
        (
            {"a": lambda i: 2, "b": lambda i: 1},
            {"label": ("a", "b"), "target": "labels"},
            "neither 0 nor 1",
        ),
        (
            {"a": colour, "b": colour},
            {"label": ("a", "b"), "target": "class"},
            "a class is one column",
        ),
        ({"label": lambda i: "x"}, {}, "there is one class alone, 'x'"),
        ({"label": lambda i: "rare" if i == 0 else "x"}, {"test_share": 0.001}, "leave no room"),
        ({"label": colour}, {"split": "label", "test": "per-seed"}, "draws them anew"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_lines(table, columns, options, said):
    with pytest.raises(SpecError, match=said):
        task(table(**columns), **options).pool()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no CSV table"),
        ("path,label\n", "has no row below its header"),
        ("path,label,label\na.png,x,y\n", "has 2 columns 'label'; rename them"),
        (
            "path,label\n../../etc/passwd,x\n",
            r"1 rows lie outside .* \(line 2\); set root= to a folder above them",
        ),
        ("path,label\n/etc/passwd,x\n", "1 rows lie outside"),
        ("path,label\n,x\n", "1 rows have no path in 'path'"),
        ("path,label\na.png,x\n", "0 of 1 images can be read; a.png: cannot be read"),
    ],
)
def test_tables_that_cannot_be_used_say_why(table, text, said):
    with pytest.raises(SpecError, match=said):
        task(table(text=text)).pool()


def test_a_missing_table_and_bytes_that_are_no_text_are_said(tmp_path):
    with pytest.raises(SpecError, match=r"cannot read .*gone\.csv: No such file"):
        task(tmp_path / "gone.csv").pool()
    (tmp_path / "bytes.csv").write_bytes(b"path,label\n\xff\xfe\x00,x\n")
    with pytest.raises(SpecError, match="is no CSV table in UTF-8"):
        task(tmp_path / "bytes.csv").pool()


@pytest.mark.parametrize("seeds", [(0,)])
@pytest.mark.parametrize(
    ("columns", "options", "scores"),
    [
        ({"y": lambda i: 40 + 3 * (i % 3)}, "label='y', target='number'", {"rmse", "mae", "r2"}),
        ({"t": lambda i: "x;y" if i % 2 else "y"}, "label='t', separator=';'", {"map", "micro_f1"}),
        ({"a": lambda i: i / 7, "b": lambda i: -i}, "label=('a', 'b')", {"rmse:a", "r2:b"}),
    ],
)
def test_numbers_and_labels_are_swept(table, tmp_path, seeds, columns, options, scores):
    path = table(**columns)
    plan = ftbench.run_sweep(
        ftbench.SweepSpec(
            tasks=(f"csv(path={str(path)!r}, image='path', {options})",),
            backbones=("glyphnet",),
            strategies=("full",),
            sizes=(12,),
            seeds=seeds,
            recipe={"steps": 40, "mixing": "mixup", "label_smoothing": 0.1},
        ),
        tmp_path / "out",
    )
    (record,) = plan.done.values()
    assert record.status == "ok", record.message
    assert scores <= record.scores.keys()
    if "mae" in scores:  # three shades of grey tell three numbers
        assert record.scores["rmse"] < 2.5

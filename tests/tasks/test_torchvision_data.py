"""torchvision's data sets by name, on files that the tests make."""

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ftbench
from ftbench.component import parse_reference
from ftbench.errors import SpecError
from ftbench.plugins import load_catalogue
from ftbench.task import Task
from ftbench.tasks.torchvision_data import DATA_SETS
from tests.tasks.images import folder

CATALOGUE = load_catalogue(kinds=("task",))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))


def task(name, root, **options):
    text = ", ".join(f"{k}={v!r}" for k, v in {"name": name, "root": str(root), **options}.items())
    [(kind, made)] = parse_reference(f"torchvision-data({text})")
    return CATALOGUE.build(Task, kind, made)


def write_mnist(root, name, counts=(40, 20)):
    """Write ``name`` in MNIST's format; an image's value is its label, its place counts."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, count, first in (("train", counts[0], 0), ("t10k", counts[1], 1000)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.repeat(labels[:, None, None] * 20, 28, axis=1).repeat(28, axis=2)
        images[:, 0, 0], images[:, 0, 1] = (
            np.arange(count) % 256,
            first // 256 + np.arange(count) // 256,
        )
        header = np.array([0x0803, count, 28, 28], dtype=">u4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.astype(np.uint8).tobytes())
        header = np.array([0x0801, count], dtype=">u4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return root


def test_a_data_set_with_a_test_part_keeps_it(tmp_path):
    found = task("FashionMNIST", write_mnist(tmp_path, "FashionMNIST"))
    assert (len(found.pool()), len(found.test())) == (40, 20)
    assert found.target.names[:2] == ("T-shirt/top", "Trouser")
    assert found.pool().targets.tolist() == [i % 10 for i in range(40)]
    pixels = found.test().prepared(CATALOGUE_GREY).unprepared(np.arange(20)).inputs
    assert pixels[:, 0, 5, 5].tolist() == [20 * (i % 10) for i in range(20)]


CATALOGUE_GREY = ftbench.load_catalogue(kinds=("backbone",)).find("backbone", "glyphnet").value()
CATALOGUE_GREY = CATALOGUE_GREY.preprocessing()


def test_cifars_labels_and_names_are_read(tmp_path):
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        draws = np.random.default_rng(len(name) + ord(name[-1]))
        data = draws.integers(0, 256, (20, 3072), dtype=np.uint8)
        (base / name).write_bytes(
            pickle.dumps({"data": data, "labels": [i % 10 for i in range(20)]})
        )
    names = [f"class {i}" for i in range(10)]
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    from torchvision import datasets

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
        patched.setattr(datasets.cifar, "check_integrity", lambda *_: True)
        found = task("CIFAR10", tmp_path)
        assert (len(found.pool()), len(found.test())) == (100, 20)
        assert found.target.names == tuple(names)


def test_a_data_set_without_parts_has_its_test_set_drawn(tmp_path):
    folder(tmp_path / "eurosat" / "2750", each=10)
    found = task("EuroSAT", tmp_path)
    assert (len(found.pool()), len(found.test())) == (24, 6)
    assert found.target.names == ("blue", "green", "red")
    seeds = task("EuroSAT", tmp_path, test="per-seed")
    assert seeds.at_seed(0).test().rows.tolist() != seeds.at_seed(1).test().rows.tolist()
    with pytest.raises(SpecError, match="has a test part of its own"):
        task("FashionMNIST", write_mnist(tmp_path, "FashionMNIST"), test="per-seed").pool()


def test_data_that_are_not_there_are_said(tmp_path):
    with pytest.raises(SpecError, match=r"torchvision.datasets.CIFAR100\(root=.*, train=True\): .*"
                       r"put its files there, or add download=True"):  # fmt: skip
        task("CIFAR100", tmp_path).pool()
    with pytest.raises(SpecError, match="does not know 'CIFAR'; did you mean 'CIFAR10"):
        task("CIFAR", tmp_path).pool()
    with pytest.raises(SpecError, match="option 'name': Field required"):
        CATALOGUE.build(Task, "torchvision-data", {})


def test_every_name_is_torchvisions():
    from torchvision import datasets

    for name, known in DATA_SETS.items():
        accepted = set(datasets.__dict__[name].__init__.__code__.co_varnames)
        for arguments in (*known.pool, known.test or {}):
            assert arguments.keys() <= accepted, name


def test_at_most_so_many_test_rows_class_by_class_and_the_same_always(tmp_path):
    write_mnist(tmp_path, "FashionMNIST", (40, 40))
    found = task("FashionMNIST", tmp_path, test_rows=20)
    assert np.bincount(found.test().targets).tolist() == [2] * 10
    assert task("FashionMNIST", tmp_path, test_rows=20).test().rows.tolist() == (
        found.test().rows.tolist()
    )
    assert len(task("FashionMNIST", tmp_path, test_rows=99).test()) == 40


PACKAGED = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))


@pytest.mark.skipif(not PACKAGED.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_png_files_give_the_scores_of_the_packaged_data(tmp_path):
    """A folder of PNG files is the same data in another form."""
    counts = {"train": 120, "t10k": 60}
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in counts.items():
        with gzip.open(PACKAGED / f"{part}-images-idx3-ubyte.gz") as file:
            images = np.frombuffer(file.read(16 + count * 784), np.uint8)[16:].reshape(
                count, 28, 28
            )
        with gzip.open(PACKAGED / f"{part}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(8 + count), np.uint8)[8:]
        header = np.array([0x0803, count, 28, 28], dtype=">u4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            np.array([0x0801, count], dtype=">u4").tobytes() + labels.tobytes()
        )
        side = "train" if part == "train" else "test"
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = tmp_path / "folder" / side / str(label) / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    # The rows stand in another order, so budgets that hold all of them are compared.
    tasks = (
        f"torchvision-data(name='FashionMNIST', root={str(tmp_path / 'root')!r})",
        f"image-folder(path={str(tmp_path / 'folder')!r})",
    )
    plan = ftbench.run_sweep(
        ftbench.SweepSpec(
            tasks=tasks,
            backbones=("glyphnet",),
            strategies=("full", "head-only"),
            sizes=("full",),
            seeds=(0,),
            recipe={"steps": 6, "batch_size": 120},
        ),
        tmp_path / "out",
    )
    found = {}
    for record in plan.done.values():
        assert record.status == "ok", record.message
        found.setdefault(record.labels["strategy"], []).append(record.scores)
    for first, second in found.values():
        for name in ("accuracy", "macro_f1", "nll", "balanced_accuracy"):
            assert first[name] == pytest.approx(second[name], abs=1e-4), name

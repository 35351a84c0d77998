"""What is kept of a look at images, and when they are looked at again."""

import importlib
import threading

import numpy as np
import pytest
from PIL import Image

from ftbench.images import DatasetImages, FileImages, scan
from ftbench.images import decode as decoding
from ftbench.images.folders import write_whole
from ftbench.images.scan import forget

# As an attribute of its package, the name is the function's.
scans = importlib.import_module("ftbench.images.scan")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))


class Counting(FileImages):
    """Counts how often an image is read."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.reads = []

    def read(self, index):
        self.reads.append(index)
        return super().read(index)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(4)]
    for index, path in enumerate(paths):
        Image.new("RGB", (4, 3), (index, 0, 0)).save(path)
    return Counting(paths, folder)


def refuse(monkeypatch, error, name="2.png"):
    """Let Pillow fail to open a file of that name."""
    opened = Image.open

    def fails(file, *arguments, **options):
        if str(file).endswith(name):
            raise error
        return opened(file, *arguments, **options)

    monkeypatch.setattr(decoding.Image, "open", fails)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
        (OSError(5, "Input/output error"), "cannot be read: Input/output error"),
        (MemoryError(), "cannot be read: not enough memory"),
    ],
)
def test_a_problem_that_passes_is_looked_at_again(source, monkeypatch, error, said):
    with monkeypatch.context() as patched:
        refuse(patched, error)
        assert scan(source).problems == {2: said}
    source.reads.clear()
    assert scan(source).problems == {}
    assert source.reads == [2]


def test_damage_is_kept_and_not_looked_at_again(source, monkeypatch):
    with monkeypatch.context() as patched:
        refuse(patched, OSError("broken data stream"))
        assert scan(source).problems == {2: "damaged: broken data stream"}
    source.reads.clear()
    assert scan(source).problems == {2: "damaged: broken data stream"}
    assert source.reads == []


def test_a_data_sets_passing_problem_is_looked_at_again(tmp_path):
    class Rows:
        error = PermissionError(13, "Permission denied")

        def __len__(self):
            return 1

        def __getitem__(self, index):
            if self.error:
                raise self.error
            return Image.new("RGB", (2, 2)), index

    rows = Rows()
    source = DatasetImages([rows], str(tmp_path), "rows")
    assert "Permission denied" in scan(source).problems[0]
    rows.error = None
    assert scan(source).problems == {}


def test_other_decoders_look_for_themselves(source, monkeypatch):
    first = scan(source)
    monkeypatch.setattr(scans, "decoders", lambda: "pil 99")
    source.reads.clear()
    assert scan(source) == first
    assert sorted(source.reads) == [0, 1, 2, 3]


def test_decoders_are_named_with_their_versions():
    assert f"pil {Image.__version__}" in decoding.decoders()


def test_what_is_forgotten_is_looked_at_again(source):
    first = scan(source)
    source.reads.clear()
    forget(source, 1)
    assert scan(source) == first
    assert source.reads == [1]


def test_what_another_process_found_meanwhile_is_kept(source, tmp_path):
    class Meanwhile(Counting):
        def read(self, index):
            if index == 0:
                scan(others)  # as if by another process
            return super().read(index)

    paths = [tmp_path / "images" / f"{index}.png" for index in range(4)]
    others = Counting(paths[:2], tmp_path / "images")
    scan(Meanwhile(paths[2:], tmp_path / "images"))
    scan(source)
    assert source.reads == []


def test_a_scan_is_saved_while_it_goes_on(source, monkeypatch):
    monkeypatch.setattr(scans, "SAVE_EVERY", -1.0)
    monkeypatch.setattr(scans, "_LOOKING", 0)
    monkeypatch.setattr(scans, "workers", lambda: 1)
    saved = []
    monkeypatch.setattr(scans, "_save", lambda _path, _known, found: saved.append(sorted(found)))
    scan(source)
    assert saved[:2] == [["0.png"], ["0.png", "1.png"]]


def test_pixels_are_the_same_for_a_copy_in_another_format(source, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    paths = [tmp_path / "images" / name for name in ("a.bmp", "b.png")]
    for path in paths:
        Image.fromarray(pixels).save(path)
    first, second = scan(FileImages(paths, tmp_path / "images")).contents
    assert first == second != ""


def test_writers_of_one_file_do_not_share_a_temporary_one(tmp_path):
    contents = [bytes([number]) * 100_000 for number in range(8)]
    writers = [
        threading.Thread(target=write_whole, args=(tmp_path / "file", content))
        for content in contents
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

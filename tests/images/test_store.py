"""Images are looked at once, decoded once, and shared by all runs and processes."""

import multiprocessing
import os
import resource
import signal
import time

import numpy as np
import pytest
from PIL import Image

from ftbench.errors import StoreError
from ftbench.images import (
    DatasetImages,
    FileImages,
    open_store,
    read_image,
    reporting,
    resized,
    scan,
)
from ftbench.images import store as stores
from ftbench.images.decode import UnreadableError
from ftbench.preprocessing import Preprocessing

WANTED = Preprocessing((8, 8), 10, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))


def write(path, seed, size=(12, 14)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / "images" / f"{index}.png", index) for index in range(6)]


@pytest.fixture
def source(files, tmp_path):
    return FileImages(files, tmp_path / "images")


class Counting(FileImages):
    """Counts how often an image is read."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.reads = []

    def read(self, index):
        self.reads.append(index)
        return super().read(index)


def test_a_look_tells_size_content_and_what_cannot_be_read(files, source):
    files[2].write_bytes(b"")
    write(files[3], 0)  # a copy of the first
    found = scan(source)
    assert (found.entries[0].width, found.entries[0].height) == (14, 12)
    assert found.problems == {2: "an empty file"}
    assert found.contents[3] == found.contents[0] != found.contents[1]
    assert found.contents[2] == ""


def test_what_did_not_change_is_not_read_again(files, tmp_path):
    source = Counting(files, tmp_path / "images")
    first = scan(source)
    assert scan(Counting(files, tmp_path / "images")) == first
    again = Counting(files, tmp_path / "images")
    write(files[4], 99)
    changed = scan(again)
    assert again.reads == [4]
    assert changed.contents[4] != first.contents[4]
    assert changed.contents[:4] == first.contents[:4]


def test_a_damaged_cache_is_looked_past(source, tmp_path):
    first = scan(source)
    (path,) = (tmp_path / "cache" / "images").glob("scan-*.json")
    for content in ("", "{", '{"version": 1}', '{"version": 1, "images": {"0.png": 3}}', "[]"):
        path.write_text(content)
        assert scan(source) == first


def test_how_far_it_is_can_be_heard(source):
    heard = []
    with reporting(lambda *said: heard.append(said)):
        open_store(source, scan(source), WANTED)
    assert heard[:6] == [("looking at images", done, 6) for done in range(1, 7)]
    assert heard[6:] == [("decoding images", 6, 6)]


def test_the_store_holds_what_resizing_makes(files, source):
    files[1].write_bytes(b"no image")
    found = open_store(source, scan(source), WANTED)
    assert (found.shape, found.dtype) == ((6, 10, 10, 3), np.uint8)
    for index, path in enumerate(files):
        expected = np.zeros((10, 10, 3)) if index == 1 else resized(read_image(path), WANTED)
        assert np.array_equal(found[index], expected)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


def test_a_finished_store_is_mapped_without_decoding(files, tmp_path):
    source = Counting(files, tmp_path / "images")
    found = scan(source)
    first = np.array(open_store(source, found, WANTED))
    source.reads.clear()
    assert np.array_equal(open_store(source, found, WANTED), first)
    # Of the middle and of means the store knows nothing.
    other = Preprocessing((6, 6), 10, mean=(0.1,) * 3, std=(1.0,) * 3)
    assert np.array_equal(open_store(source, found, other), first)
    assert source.reads == []
    assert open_store(source, found, Preprocessing((8, 8), 11)).shape == (6, 11, 11, 3)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "of another shape"])
def test_a_damaged_store_is_made_again(source, damage):
    found = scan(source)
    first = np.array(open_store(source, found, WANTED))
    path = stores.store_path(found, WANTED)
    content = path.read_bytes()
    if damage == "of another shape":
        np.save(path, np.zeros((2, 10, 10, 3), dtype=np.uint8))
    else:
        path.write_bytes(content[:-50] if damage == "truncated" else b"")
    assert np.array_equal(open_store(source, found, WANTED), first)


class Slow(FileImages):
    """Waits for ever at its fourth image."""

    def read(self, index):
        if index >= 4:
            time.sleep(600)
        return super().read(index)


def _build_slowly(files, root, found):
    stores._AT_ONCE = 2
    open_store(Slow(files, root), found, WANTED)


def test_a_killed_writer_is_gone_on_with(files, tmp_path, monkeypatch):
    root = tmp_path / "images"
    found = scan(FileImages(files, root))
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=_build_slowly, args=(files, root, found))
    writer.start()
    count = stores.store_path(found, WANTED).with_suffix(".count")
    while not (count.exists() and count.read_text() == "4"):
        assert writer.is_alive()
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert not stores.store_path(found, WANTED).exists()
    source = Counting(files, root)
    pixels = open_store(source, found, WANTED)
    assert sorted(source.reads) == [4, 5]
    for index, path in enumerate(files):
        assert np.array_equal(pixels[index], resized(read_image(path), WANTED))
    assert not count.exists()
    assert list((tmp_path / "cache" / "images").glob("*.part")) == []


def test_a_count_without_its_rows_is_not_believed(source):
    found = scan(source)
    count = stores.store_path(found, WANTED).with_suffix(".count")

    def killed(*_):
        raise KeyboardInterrupt

    # A writer that was killed between its last two steps, and the next before its first count.
    count.write_text("6")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stores, "_row", killed)
        with pytest.raises(KeyboardInterrupt):
            open_store(source, found, WANTED)
    assert open_store(source, found, WANTED).any(axis=(1, 2, 3)).all()


def _open_within(limit, files, root, found, queue):
    stores._AT_ONCE = 2
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        open_store(FileImages(files, root), found, WANTED)
    except StoreError as error:
        queue.put(str(error))


def test_no_more_room_for_a_file_ends_in_an_error_that_keeps_what_was_written(files, tmp_path):
    root = tmp_path / "images"
    found = scan(FileImages(files, root))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    limit = 128 + 5 * 300  # the header, and five of six rows
    writer = context.Process(target=_open_within, args=(limit, files, root, found, queue))
    writer.start()
    assert "File too large; set FTBENCH_CACHE" in queue.get(timeout=60)
    writer.join()
    assert stores.store_path(found, WANTED).with_suffix(".count").read_text() == "4"
    source = Counting(files, root)
    open_store(source, found, WANTED)
    assert sorted(source.reads) == [4, 5]


def _open(files, root, found, queue):
    queue.put(np.array(open_store(FileImages(files, root), found, WANTED)))


def test_two_processes_write_one_store(files, tmp_path):
    root = tmp_path / "images"
    found = scan(FileImages(files, root))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_open, args=(files, root, found, queue)) for _ in range(2)]
    for process in both:
        process.start()
    first, second = queue.get(timeout=60), queue.get(timeout=60)
    for process in both:
        process.join()
    assert np.array_equal(first, second)


def test_an_image_that_changed_since_the_look_is_named(files, source):
    found = scan(source)
    write(files[3], 77)
    with pytest.raises(StoreError, match=r"3\.png in .* changed since .*its pixels are others"):
        open_store(source, found, WANTED)
    files[3].unlink()
    with pytest.raises(StoreError, match=r"3\.png .* changed .*No such file"):
        open_store(source, found, WANTED)
    assert not stores.store_path(found, WANTED).exists()


def test_an_image_that_changed_behind_an_equal_stamp_is_looked_at_again(files, source, monkeypatch):
    stamps = source.stamps()
    monkeypatch.setattr(source, "stamps", lambda: stamps)
    found = scan(source)
    write(files[3], 77)
    with pytest.raises(StoreError, match=r"3\.png .* changed"):
        open_store(source, scan(source), WANTED)
    again = scan(source)
    assert again.contents[3] != found.contents[3]
    assert len(open_store(source, again, WANTED)) == 6


def test_a_disk_without_room_is_said_before_anything_is_written(source, monkeypatch, tmp_path):
    found = scan(source)
    usage = stores.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(StoreError, match=r"decoded images take 1 MB, and .* set FTBENCH_CACHE"):
        open_store(source, found, WANTED)
    assert list((tmp_path / "cache" / "images").glob("store-*.part")) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_that_is_read(source, monkeypatch):
    found = scan(source)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(stores, "_count", full)
        with pytest.raises(StoreError, match=r"No space left on device; set FTBENCH_CACHE"):
            open_store(source, found, WANTED)
    assert not stores.store_path(found, WANTED).exists()
    assert len(open_store(source, found, WANTED)) == 6


def test_a_folder_that_cannot_be_is_said(source, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="decoded images cannot be kept"):
        scan(source)


class Rows:
    """A data set of PIL images."""

    def __init__(self, count, bad=()):
        self.count, self.bad = count, bad

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise RuntimeError("its file is gone")
        pixels = np.full((5, 5), 10 * index, dtype=np.uint8)
        return Image.fromarray(pixels), index


def test_a_data_set_of_several_parts_is_one_source(tmp_path):
    source = DatasetImages([Rows(3), Rows(2, bad=(1,))], str(tmp_path), "some")
    assert source.names == [f"some[{index}]" for index in range(5)]
    found = scan(source)
    assert found.problems == {4: "RuntimeError: its file is gone"}
    pixels = open_store(source, found, Preprocessing((5, 5), 5))
    assert [int(image[0, 0, 0]) for image in pixels[:4]] == [0, 10, 20, 0]
    with pytest.raises(UnreadableError):
        source.read(4)


def test_a_changed_file_of_a_data_set_makes_all_its_images_new(tmp_path):
    (tmp_path / "Rows").mkdir()
    (tmp_path / "Rows" / "data").write_text("1")
    source = DatasetImages([Rows(2)], str(tmp_path), "some")
    before = source.stamps()
    assert source.stamps() == before
    (tmp_path / "Rows" / "data").write_text("12")
    assert set(source.stamps()).isdisjoint(before)

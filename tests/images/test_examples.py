"""Batches of stored images: their middle, normalised, the same however rows are asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as peers

from ftbench.errors import FtbenchError
from ftbench.images import FileImages, ImageExamples, read_image, resized, scan
from ftbench.images.examples import gathered
from ftbench.plugins.recipe import make_recipe
from ftbench.preprocessing import Preprocessing
from ftbench.recipe import Recipe
from ftbench.train.mixing import BatchMixer
from ftbench.train.rows import StepRows

WANTED = Preprocessing((8, 8), 10, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(6)]
    for seed, path in enumerate(paths):
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def examples(files):
    source = FileImages(files, files[0].parent)
    found = scan(source)
    labels = torch.arange(6) % 3
    return ImageExamples(source, found, np.arange(6), labels, strata=labels.numpy())


def test_batches_are_the_middle_normalised_as_torchvision_does(examples, files):
    prepared = examples.prepared(WANTED)
    batch = prepared.batch(np.array([4, 1]))
    for image, index in zip(batch.inputs, (4, 1), strict=True):
        whole = torch.from_numpy(resized(read_image(files[index]), WANTED)).permute(2, 0, 1)
        middle = peers.center_crop(whole, [8, 8]).float() / 255
        expected = peers.normalize(middle, list(WANTED.mean), list(WANTED.std))
        assert torch.allclose(image, expected, atol=1e-6)
    assert batch.targets.tolist() == [1, 1]
    assert (batch.inputs.dtype, batch.inputs.shape) == (torch.float32, (2, 3, 8, 8))


def test_a_row_has_the_same_bits_in_every_batch_and_subset(examples):
    prepared = examples.prepared(WANTED)
    whole = prepared.batch(np.arange(6)).inputs
    for rows in ([3], [5, 3, 0], [3, 3]):
        assert torch.equal(prepared.batch(np.array(rows)).inputs, whole[rows])
    part = prepared.subset(np.array([5, 3]))
    assert torch.equal(part.batch(np.array([1])).inputs[0], whole[3])
    assert torch.equal(part.subset(np.array([1])).batch(np.array([0])).inputs[0], whole[3])
    early = examples.subset(np.array([3])).prepared(WANTED)
    assert torch.equal(early.batch(np.array([0])).inputs[0], whole[3])
    assert (part.strata.tolist(), len(part), part.targets.tolist()) == ([2, 0], 2, [2, 0])


def test_stored_images_come_as_they_are(examples):
    prepared = examples.prepared(WANTED)
    batch = prepared.unprepared(np.array([2, 0]))
    assert (batch.inputs.shape, batch.inputs.dtype) == ((2, 3, 10, 10), torch.uint8)
    assert torch.equal(
        batch.inputs[0], torch.from_numpy(np.array(prepared.stored[2])).permute(2, 0, 1)
    )


def test_images_without_a_size_have_no_batches(examples):
    for ask in (lambda: examples.batch(np.array([0])), lambda: examples.to("cpu")):
        with pytest.raises(FtbenchError, match=r"prepared\(preprocessing\)"):
            ask()


def test_no_file_of_the_user_is_written_to(examples, tmp_path):
    before = {p: p.read_bytes() for p in (tmp_path / "images").iterdir()}
    examples.prepared(WANTED)
    assert {p: p.read_bytes() for p in (tmp_path / "images").iterdir()} == before


def test_stored_images_are_gathered_in_parts(examples, monkeypatch):
    monkeypatch.setattr("ftbench.images.examples._AT_ONCE", 2)
    prepared, rows = examples.prepared(WANTED), np.array([5, 0, 3, 3, 1])
    found = gathered(prepared.stored, rows, "cpu")
    assert np.array_equal(found.numpy(), prepared.stored[rows])
    assert gathered(prepared.stored, rows[:0], "cpu").shape == (0, 10, 10, 3)


def test_images_held_in_a_tensor_move_with_it(examples):
    prepared = examples.prepared(WANTED)
    held = replace(prepared, stored=torch.from_numpy(np.array(prepared.stored)), device="meta")
    assert held.to("meta").stored.device.type == "meta"
    back = held.to("cpu")
    rows = np.array([4, 1])
    assert torch.equal(back.batch(rows).inputs, prepared.batch(rows).inputs)
    assert back.device == "cpu"


@pytest.mark.cuda
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_stored_images_live_on_the_gpu_where_they_fit(examples, monkeypatch, share):
    monkeypatch.setattr("ftbench.images.examples._SHARE", share)
    here, there = examples.prepared(WANTED), examples.prepared(WANTED).to("cuda:0")
    assert isinstance(there.stored, torch.Tensor) == (share > 0)
    for rows in (np.array([4, 1]), np.arange(6)):
        found, expected = there.batch(rows), here.batch(rows)
        assert found.inputs.is_cuda
        assert found.targets.is_cuda
        assert torch.allclose(found.inputs.cpu(), expected.inputs, atol=1e-6)
        assert torch.equal(there.unprepared(rows).inputs.cpu(), here.unprepared(rows).inputs)
    part = there.subset(np.array([5, 3]))
    assert torch.allclose(part.batch(np.array([1])).inputs.cpu(), here.batch(np.array([3])).inputs)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
def test_training_sees_views_made_from_stored_bytes_as_by_parts(
    examples, mixing, accumulation, catalogue
):
    prepared = examples.prepared(WANTED)
    recipe = Recipe(
        steps=3, batch_size=5, accumulation=accumulation, mixing=mixing, augmentation="resized-crop"
    )
    made = make_recipe(recipe, catalogue)
    step_rows = StepRows(prepared, recipe, made, 0)
    for step in range(3):
        parts = step_rows.at(step, 0)
        assert len(parts) == accumulation
        rows = step_rows.order.batch(step)
        batch = prepared.unprepared(rows)
        views = made.augmentation.augment(batch.inputs, size=WANTED.size, seed=0, step=step)
        for index, (part, chosen) in enumerate(
            zip(parts, np.array_split(np.arange(len(rows)), accumulation), strict=True)
        ):
            mixer = BatchMixer(made.mixing, 0)
            expected, plan = mixer.normalised(views[chosen], WANTED, step * accumulation + index)
            assert (part.see() - expected).abs().max() < 1e-4
            assert torch.equal(part.targets, batch.targets[chosen])
            assert (part.plan is None) == (mixing == "none") == (plan is None)

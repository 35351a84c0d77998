import pytest
import torch

from ftbench import ops
from ftbench.errors import FtbenchError
from ftbench.recipes.mixings import MixupOrCutMix, MixupOrCutMixOptions, NoMixing
from ftbench.train.mixing import BatchMixer

EITHER = MixupOrCutMix(MixupOrCutMixOptions(mixup=0.5))


def test_a_batch_is_mixed_by_the_plan_of_its_step():
    images = torch.randn(6, 3, 8, 8)
    mixer = BatchMixer(EITHER, seed=3)
    for step in range(5):
        mixed, plan = mixer(images, step)
        expected = ops.sample_mix(6, 8, 8, mixup_alpha=0.5, cutmix_alpha=1.0, seed=3, step=step)
        assert torch.equal(plan.partner, expected.partner)
        assert torch.equal(mixed, ops.mix(images, expected))


def test_the_batch_itself_is_not_written_to():
    data = torch.randn(10, 3, 8, 8)
    kept = data.clone()
    mixer = BatchMixer(EITHER, seed=0)
    for step in range(4):
        mixer(data[2:8], step)  # a view of the data set
    assert torch.equal(data, kept)


def test_memory_is_kept_while_batches_are_alike():
    mixer = BatchMixer(EITHER, seed=0)
    first, _ = mixer(torch.randn(6, 3, 8, 8), 0)
    again, _ = mixer(torch.randn(6, 3, 8, 8), 1)
    assert again.data_ptr() == first.data_ptr()
    last, _ = mixer(torch.randn(4, 3, 8, 8), 2)
    assert last.shape == (4, 3, 8, 8)
    turned, _ = mixer(torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last), 3)
    assert turned.is_contiguous(memory_format=torch.channels_last)


def test_gradients_reach_inputs_that_want_them():
    images = torch.randn(4, 3, 8, 8, requires_grad=True)
    mixed, _ = BatchMixer(EITHER, seed=0)(images, 0)
    mixed.sum().backward()
    assert images.grad is not None


def test_a_recipe_that_does_not_mix_passes_anything_on():
    batch = {"tokens": [1, 2]}
    assert BatchMixer(NoMixing(), seed=0)(batch, 0) == (batch, None)


@pytest.mark.parametrize("channels", [1, 3])
def test_strided_batches_are_mixed_into_dense_memory(channels):
    images = torch.randn(4, channels, 8, 16)[..., ::2]
    mixed, plan = BatchMixer(EITHER, seed=0)(images, 0)
    assert torch.equal(mixed, ops.mix(images, plan))


def test_every_image_of_a_dict_is_mixed_by_one_plan():
    batch = {"left": torch.randn(4, 3, 8, 8), "right": torch.randn(4, 1, 8, 8)}
    mixer = BatchMixer(EITHER, seed=0)
    mixed, plan = mixer(batch, 0)
    for name, images in batch.items():
        assert torch.equal(mixed[name], ops.mix(images, plan))
    with pytest.raises(FtbenchError, match=r"needs images .*; 'ids' of its inputs is none"):
        mixer({**batch, "ids": torch.ones(4, 7)}, 0)
    with pytest.raises(FtbenchError, match=r"needs images of one size, not \[\(8, 8\), \(9, 8\)\]"):
        mixer({**batch, "wide": torch.ones(4, 1, 9, 8)}, 0)

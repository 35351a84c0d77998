import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbench.ops import accumulate_fisher_

SHAPES = [(), (5,), (3, 4), (2, 3, 3, 3)]


@given(st.integers(0, 99), st.integers(0, 7), st.lists(st.sampled_from(SHAPES), max_size=4))
def test_squared_gradients_are_summed_over_samples_onto_what_is_there(seed, batch, shapes):
    generator = np.random.default_rng(seed)
    before = [generator.random(shape, dtype=np.float32) for shape in shapes]
    gradients = [generator.normal(size=(batch, *shape)).astype(np.float32) for shape in shapes]
    fisher = [torch.tensor(value) for value in before]
    accumulate_fisher_(fisher, [torch.tensor(value) for value in gradients])
    for found, start, gradient in zip(fisher, before, gradients, strict=True):
        expected = start.astype(np.float64) + (gradient.astype(np.float64) ** 2).sum(axis=0)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_fisher_is_changed_in_place_and_gradients_are_not():
    fisher, gradient = torch.zeros(3), torch.randn(2, 3)
    kept, pointer = gradient.clone(), fisher.data_ptr()
    accumulate_fisher_([fisher], [gradient])
    assert fisher.data_ptr() == pointer
    assert torch.equal(gradient, kept)
    assert (fisher > 0).all()


def test_channels_last_and_transposed_tensors_are_taken():
    gradient = torch.randn(4, 2, 3, 5, 5)
    fisher = torch.zeros(2, 3, 5, 5).to(memory_format=torch.channels_last)
    turned = torch.zeros(5, 5, 3, 2).permute(3, 2, 0, 1)
    accumulate_fisher_(
        [fisher, turned], [gradient, gradient.transpose(3, 4).contiguous().transpose(3, 4)]
    )
    torch.testing.assert_close(fisher, gradient.square().sum(0))
    torch.testing.assert_close(turned, fisher, check_stride=False)


def test_graphs_are_neither_read_nor_grown():
    fisher, gradient = torch.zeros(3), torch.randn(2, 3, requires_grad=True)
    accumulate_fisher_([fisher], [gradient])
    assert not fisher.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_half_precision_gradients_are_squared_in_float32(dtype):
    fisher = torch.zeros(2)
    accumulate_fisher_([fisher], [torch.full((3, 2), 1e-4, dtype=dtype)])
    torch.testing.assert_close(fisher, torch.full((2,), 3e-8), rtol=2e-2, atol=0)


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="fisher has 1 tensors, gradients has 2"):
        accumulate_fisher_([torch.zeros(2)], [torch.zeros(3, 2), torch.zeros(3, 2)])


@pytest.mark.parametrize(
    ("fisher", "gradient"), [((2,), (3, 4)), ((2,), (2,)), ((2, 3), (4, 3, 2)), ((), ())]
)
def test_a_gradient_of_the_wrong_shape_is_named_with_its_shape(fisher, gradient):
    good = torch.zeros(2), torch.zeros(5, 2)
    with pytest.raises(ValueError, match=r"gradients\[1\] has shape .* expected \(B, "):
        accumulate_fisher_([good[0], torch.zeros(fisher)], [good[1], torch.zeros(gradient)])

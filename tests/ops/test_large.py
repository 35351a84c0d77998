"""Tensors of more than 2³¹ elements, without the memory: all but their ends is one small piece.

Reading such a tensor gives zeros, and writing zeros to it changes nothing, so that what a kernel
puts elsewhere than at the ends shows there.
"""

import ctypes
import mmap
import os
import sys

import pytest
import torch

from tests.ops.cases import arguments, referenced, same_bits
from tests.support import make_plan

pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="maps memory as Linux does"),
    pytest.mark.usefixtures("compiled"),
]
OPERATORS = torch.ops.ftbench
MANY = 2**31
# Linux's numbers; Python's mmap names them only from 3.13 on, or not at all.
MAP_FIXED, MAP_NORESERVE = 0x10, 0x4000
PIECE = 2**25  # bytes


class Sparse:
    """A flat tensor whose first and last elements are its own; between them lies one piece."""

    def __init__(self, elements, dtype, own_bytes=PIECE):
        size = elements * torch.empty((), dtype=dtype).element_size()
        page = mmap.PAGESIZE
        self.size = -(-size // page) * page
        libc = ctypes.CDLL(None, use_errno=True)
        self._map, self._unmap = libc.mmap, libc.munmap
        self._map.restype = ctypes.c_void_p
        self._map.argtypes = (
            [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_int64]
        )
        self._unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self.address = self._mapped(None, self.size, anonymous, -1)
        file = os.memfd_create("piece")
        os.ftruncate(file, PIECE)
        begin = (-(-own_bytes // page) + 1) * page
        end = self.size - begin
        for start in range(begin, end, PIECE):
            length = min(PIECE, end - start)
            self._mapped(self.address + start, length, mmap.MAP_SHARED | MAP_FIXED, file)
        os.close(file)
        self.between = (self.address + begin, self.address + end)
        buffer = (ctypes.c_char * size).from_address(self.address)
        self.tensor = torch.frombuffer(buffer, dtype=dtype)

    def _mapped(self, address, size, flags, file):
        rights = mmap.PROT_READ | mmap.PROT_WRITE
        found = self._map(address, size, rights, flags, file, 0)
        if found in (None, ctypes.c_void_p(-1).value):
            pytest.skip(f"{size} bytes cannot be mapped: {os.strerror(ctypes.get_errno())}")
        return found

    def untouched_between(self):
        """Return whether the piece between the ends is zero still."""
        start, end = self.between
        piece = (ctypes.c_char * min(PIECE, end - start)).from_address(start)
        return not torch.frombuffer(piece, dtype=torch.uint8).any()

    def close(self):
        del self.tensor
        self._unmap(self.address, self.size)


@pytest.fixture
def sparse():
    """A function that makes sparse tensors, which end with the test."""
    made = []

    def make(elements, dtype, **options):
        made.append(Sparse(elements, dtype, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ends(tensor, count=70_000):
    """Set the first and last elements to random numbers, and return copies of them."""
    generator = torch.Generator().manual_seed(0)
    for part in (tensor[:count], tensor[-count:]):
        part.copy_(torch.randn(count, generator=generator))
    return tensor[:count].clone(), tensor[-count:].clone()


@pytest.fixture(params=["CPU", pytest.param("emulated GPU", marks=pytest.mark.slow)])
def mix_into(request):
    """Mixing into a buffer by the CPU, and as a GPU does it."""
    if request.param == "CPU":
        return OPERATORS.mix_into
    return request.getfixturevalue("emulated").mix_into


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_penalty_of_more_than_two_to_the_31_elements_is_added(sparse, threads, dtype):
    threads(2)
    elements = MANY + 70_001
    parameter, gradient = sparse(elements, dtype), sparse(elements, dtype)
    theta, start = ends(parameter.tensor), ends(gradient.tensor)
    lists = [parameter.tensor], [None], [None], [0.5]
    value = OPERATORS.add_quadratic_gradient_(*lists, [gradient.tensor], [0], 2.0)
    expected = 0.25 * sum(float(part.double().square().sum()) for part in theta)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    for part, before, at in zip(theta, start, (slice(70_000), slice(-70_000, None)), strict=True):
        expected = (before.float() + part.float()).to(dtype)
        assert same_bits(gradient.tensor[at].clone(), expected)
    assert gradient.untouched_between()


def test_the_gpus_program_reaches_elements_beyond_two_to_the_31(sparse, emulated):
    """Two of three tensors are short: blocks, and not elements, are what is counted on."""
    elements = MANY + 3
    parameter = sparse(elements, torch.bfloat16)
    ends(parameter.tensor)
    tail = parameter.tensor[MANY - 65536 * 2 + 3 :]
    small = torch.ones(5)
    emulated.run_blocks_at_ends(64)  # what lies between is zero
    whole = emulated.add_quadratic_gradient_(
        [small, parameter.tensor], [None, None], [None, None], [1.0, 1.0], [], [], 1.0
    )
    first = parameter.tensor[: 65536 * 2]
    expected = 2.5 + 0.5 * sum(float(part.double().square().sum()) for part in (first, tail))
    assert whole == pytest.approx(expected, rel=1e-6)


# A batch of images of 2²³ pixels, so that the last begins beyond 2³¹ and holds 2³¹ itself.
SIDE = 2896
BATCH = 257
LAST = SIDE * SIDE


def plan_of_the_ends():
    """The first and last image trade places, the second last is mixed, all others stay."""
    partner = list(range(BATCH))
    partner[0], partner[-1], partner[-2] = BATCH - 1, 0, BATCH - 1
    weight = [1.0] * BATCH
    weight[0], weight[-1], weight[-2] = 0.25, 0.0, 0.75
    box = [[0, 0, 0, 0]] * BATCH
    box[0] = [SIDE - 3, SIDE - 5, 2**31 - 1, 2**31 - 1]
    return make_plan(partner, weight, box, SIDE, SIDE)


def three_images(batch):
    """Return copies of the images that the plan mixes: (3, C, H, W) or (3, H, W, C)."""
    return torch.stack([batch[0], batch[-2], batch[-1]]).clone()


def plan_of_three():
    box = [[SIDE - 3, SIDE - 5, SIDE, SIDE], [0] * 4, [0] * 4]
    return make_plan([2, 2, 0], [0.25, 0.75, 0.0], box, SIDE, SIDE)


def test_a_batch_of_more_than_two_to_the_31_values_is_mixed(sparse, threads, mix_into):
    threads(2)
    shape = (BATCH, 1, SIDE, SIDE)
    assert BATCH * LAST > MANY + 2**21
    images = sparse(BATCH * LAST, torch.uint8, own_bytes=2 * LAST)
    batch = images.tensor.view(BATCH, SIDE, SIDE, 1)
    for index in (0, -2, -1):
        batch[index].random_(generator=torch.Generator().manual_seed(index % 5))
    out = sparse(BATCH * LAST, torch.bfloat16, own_bytes=4 * LAST)
    mix_into(*arguments(batch, plan_of_the_ends()), out.tensor.view(shape))
    expected = referenced(three_images(batch), plan_of_three(), torch.bfloat16)
    assert same_bits(three_images(out.tensor.view(shape)), expected)
    assert out.untouched_between()


def test_a_batch_of_more_than_two_to_the_31_values_overwrites_itself(sparse, threads, mix_into):
    threads(2)
    images = sparse(BATCH * LAST, torch.bfloat16, own_bytes=4 * LAST)
    batch = images.tensor.view(BATCH, 1, SIDE, SIDE)
    for index in (0, -2, -1):
        batch[index].normal_(generator=torch.Generator().manual_seed(index % 5))
    expected = referenced(three_images(batch), plan_of_three(), torch.bfloat16)
    mix_into(*arguments(batch, plan_of_the_ends()), batch)
    assert same_bits(three_images(batch), expected)
    assert images.untouched_between()


def test_images_of_more_than_two_to_the_31_pixels_are_mixed(sparse, threads, mix_into):
    """Rows times width, and a box at the far corner, are beyond 32 bits."""
    threads(2)
    height, width = 2**15 + 8, 2**16
    assert height * width > MANY
    images = sparse(2 * height * width, torch.uint8)
    batch = images.tensor.view(2, height, width, 1)
    batch[1, -4:].random_(1, 256, generator=torch.Generator().manual_seed(0))
    out = sparse(2 * height * width, torch.float16)
    result = out.tensor.view(2, 1, height, width)
    # The last has zeros of the first in the box alone.
    box = [height - 2, width // 2 + 1, height, width - 3]
    plan = make_plan([0, 0], [1.0, 1.0], [[0] * 4, box], height, width)
    if mix_into is not OPERATORS.mix_into:
        # A thread a pixel: all would take minutes, the rows looked at are in the last blocks.
        torch.ops.ftbench_emulated.run_blocks_at_ends(4096)
    mix_into(*arguments(batch, plan), result)
    expected = batch[1, -4:, :, 0].half()
    expected[-2:, box[1] : box[3]] = 0
    assert same_bits(result[1, 0, -4:].clone(), expected)
    assert out.untouched_between()


def test_cutmix_touches_the_box_alone(sparse):
    """In place, with weight 1: images that stay are neither read nor written."""
    images = sparse(BATCH * LAST, torch.float32, own_bytes=4 * LAST)
    batch = images.tensor.view(BATCH, 1, SIDE, SIDE)
    batch[0].fill_(1.0)
    batch[-1].fill_(2.0)
    box = [SIDE - 2, SIDE - 20, SIDE, SIDE - 1]
    partner = [BATCH - 1, *range(1, BATCH - 1), 0]
    plan = make_plan(partner, [1.0] * BATCH, [box] * BATCH, SIDE, SIDE)
    OPERATORS.mix_(*arguments(batch, plan))
    for index, own, other in ((0, 1.0, 2.0), (-1, 2.0, 1.0)):
        pasted = batch[index, 0, SIDE - 2 :, SIDE - 20 : SIDE - 1]
        assert (pasted == other).all()
        assert int((batch[index] != own).sum()) == pasted.numel()

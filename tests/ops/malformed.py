"""Arguments that the operators must refuse or get right, and what they mean where they are taken.

``python -m tests.ops.malformed`` tries every pair of them in a process that may crash alone.
"""

import faulthandler
import itertools
import math
import sys

import torch

from ftbench.ops import reference, serving
from tests.ops import emulated

OPERATORS = torch.ops.ftbench
REFUSALS = (TypeError, ValueError, IndexError, RuntimeError, NotImplementedError)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
BATCH, CHANNELS, HEIGHT, WIDTH = 3, 3, 4, 5
SHAPE = BATCH, CHANNELS, HEIGHT, WIDTH
FAR = 2**31 - 1


def values(*shape, dtype=torch.float32):
    """Return the same numbers each time, bytes included."""
    numbers = torch.arange(math.prod(shape), dtype=torch.float64).mul(7).remainder(31)
    return numbers.reshape(shape).to(dtype)


def spaced(tensor):
    """Return the tensor with gaps between its elements."""
    wide = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]


def sparse(tensor):
    return tensor.to_sparse()


def good_mix():
    """Return arguments of mix_into that are right, fresh each time."""
    return {
        "images": values(*SHAPE),
        "partner": torch.tensor([1, 2, 0]),
        "weight": torch.tensor([0.25, 1.0, 0.0]),
        "box": torch.tensor([[0, 0, 0, 0], [1, 1, 3, 4], [-1, 2, 9, 9]], dtype=torch.int32),
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.25, 1.0],
        "out": torch.zeros(SHAPE),
        "dtype": torch.float32,
    }


def _boxes(*rows):
    return torch.tensor(rows, dtype=torch.int32)


# For each argument, makers of what might stand in its place.
BAD_MIX = {
    "images": [
        *(lambda d=d: values(*SHAPE).to(d) for d in (
            torch.float64, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn,
            torch.float16, torch.bfloat16, torch.uint8,
        )),
        *(lambda s=s: values(*s) for s in (
            (), (5,), (3, 4, 5), (1, 3, 3, 4, 5), (0, 3, 4, 5), (3, 0, 4, 5), (3, 3, 0, 5),
            (3, 3, 4, 0), (0, 0, 0, 0), (2, 3, 4, 5), (4, 3, 4, 5), (3, 2, 4, 5), (3, 3, 5, 4),
        )),
        lambda: values(BATCH, HEIGHT, WIDTH, CHANNELS, dtype=torch.uint8),
        lambda: values(BATCH, CHANNELS, HEIGHT, WIDTH, dtype=torch.uint8).permute(0, 2, 3, 1),
        lambda: values(1, 3, 4, 5).expand(SHAPE),
        lambda: spaced(values(*SHAPE)),
        lambda: values(*SHAPE).requires_grad_(),
        lambda: sparse(values(*SHAPE)),
        lambda: values(*SHAPE).fill_(math.nan),
        lambda: None,
    ],
    "partner": [
        *(lambda p=p: torch.tensor(p) for p in (
            [0, 1, 3], [-1, 0, 1], [0, 1, 2**62], [0, 1, -(2**63)], [0, 0, 0], [1, 1, 1],
            [0, 1], [0, 1, 2, 2], [[0, 1, 2]], [], 0,
        )),
        lambda: torch.tensor([1.0, 2.0, 0.0]),
        lambda: torch.tensor([1, 2, 0], dtype=torch.int32),
        lambda: spaced(torch.tensor([1, 2, 0])),
        lambda: torch.tensor([2]).expand(3),
        lambda: sparse(torch.tensor([1, 2, 0])),
        lambda: None,
    ],
    "weight": [
        *(lambda w=w: torch.tensor(w) for w in (
            [math.nan] * 3, [math.inf, -math.inf, 0.5], [2.0, -0.5, -0.0], [1e-45, 100.0, -100.0],
            [0.5, 0.5], [0.5] * 4, [[0.5] * 3], [], 0.5,
        )),
        lambda: torch.tensor([0.25, 1.0, 0.0]).double(),
        lambda: torch.tensor([0.25, 1.0, 0.0]).half(),
        lambda: spaced(torch.tensor([0.25, 1.0, 0.0])),
        lambda: torch.tensor([0.25]).expand(3),
        lambda: torch.tensor([0.25, 1.0, 0.0], requires_grad=True),
        lambda: None,
    ],
    "box": [
        lambda: _boxes([-FAR - 1, -FAR - 1, FAR, FAR], [FAR, FAR, -FAR - 1, -FAR - 1], [0] * 4),
        lambda: _boxes([FAR] * 4, [-FAR - 1] * 4, [0, -FAR - 1, 1, FAR]),
        lambda: _boxes([3, 4, 1, 1], [0, 4, 4, 0], [4, 0, 0, 5]),
        lambda: _boxes([0, 0, 4, 5], [0, 0, 5, 6], [3, 4, 4, 5]),
        lambda: _boxes([0, 0, 4, 5]),
        lambda: _boxes([0] * 3, [0] * 3, [0] * 3),
        lambda: torch.zeros(12, dtype=torch.int32),
        lambda: torch.zeros(3, 4, dtype=torch.int64),
        lambda: torch.zeros(3, 4),
        lambda: torch.zeros(3, 0, dtype=torch.int32),
        lambda: spaced(good_mix()["box"]),
        lambda: torch.tensor([[1], [1], [3], [4]], dtype=torch.int32).expand(4, 3).T,
        lambda: None,
    ],
    "mean": [
        list, lambda: [0.5], lambda: [0.5] * 4, lambda: [math.nan] * 3,
        lambda: [math.inf, -1e308, 1e308], lambda: [0] * 3, lambda: None, lambda: ["x"] * 3,
    ],
    "std": [
        list, lambda: [0.5], lambda: [0.5] * 4, lambda: [0.0] * 3, lambda: [-0.0, 1.0, 1.0],
        lambda: [math.nan, 1.0, 1.0], lambda: [5e-324, 1e-300, 1e308], lambda: [math.inf] * 3,
        lambda: [-1.0, -2.0, -3.0], lambda: None,
    ],
    "out": [
        *(lambda d=d: torch.zeros(SHAPE, dtype=d) for d in (
            torch.float64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float16,
            torch.bfloat16, torch.float8_e4m3fn,
        )),
        *(lambda s=s: torch.zeros(s) for s in (
            (), (3,), (3, 3, 4), (0, 3, 4, 5), (3, 3, 0, 5), (2, 3, 4, 5), (3, 2, 4, 5),
            (3, 3, 5, 4), (3, 4, 5, 3), (3, 5, 3, 4), (1, 3, 3, 4, 5),
        )),
        lambda: torch.zeros(1, 3, 4, 5).expand(SHAPE),
        lambda: torch.zeros(3, 3, 4, 1).expand(SHAPE),
        lambda: torch.zeros(SHAPE).to(memory_format=torch.channels_last),
        lambda: spaced(torch.zeros(SHAPE)),
        lambda: torch.zeros(SHAPE, requires_grad=True) * 1,
        lambda: sparse(torch.zeros(SHAPE)),
        lambda: None,
    ],
    "dtype": [
        lambda: torch.float16, lambda: torch.bfloat16, lambda: torch.float64, lambda: torch.uint8,
        lambda: torch.int64, lambda: torch.bool, lambda: torch.complex64,
        lambda: torch.float8_e4m3fn, lambda: None, lambda: "float32",
    ],
}  # fmt: skip


def good_penalty():
    """Return arguments of add_quadratic_gradient_ that are right, fresh each time."""
    return {
        "parameters": [values(2, 3), values(19), values(0)],
        "anchors": [None, values(19) / 2, None],
        "weights": [values(2, 3) / 4, None, None],
        "strength": [0.0, 0.5, 1.0],
        "gradients": [values(19), values(2, 3)],
        "trained": [1, 0],
        "scale": 0.5,
    }


def _replaced(name, index, maker):
    def make():
        whole = list(good_penalty()[name])
        whole[index] = maker()
        return whole

    return make


_ODD_TENSORS = [
    *(lambda s=s: values(*s) for s in ((), (1,), (18,), (20,), (19, 1), (1, 19), (3, 2), (0,))),
    *(lambda d=d: values(19).to(d) for d in (
        torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64,
        torch.float8_e4m3fn,
    )),
    lambda: values(1).expand(19), lambda: spaced(values(19)), lambda: values(19).requires_grad_(),
    lambda: sparse(values(19)), lambda: values(19).fill_(math.nan), lambda: None, lambda: 0.5,
]  # fmt: skip

BAD_PENALTY = {
    "parameters": [
        *(_replaced("parameters", 1, maker) for maker in _ODD_TENSORS),
        list, lambda: [values(2, 3)], lambda: [values(2, 3)] * 4, lambda: None,
    ],
    "anchors": [
        *(_replaced("anchors", 1, maker) for maker in _ODD_TENSORS),
        list, lambda: [None], lambda: [None] * 4, lambda: None,
    ],
    "weights": [
        *(_replaced("weights", 1, maker) for maker in _ODD_TENSORS),
        list, lambda: [None], lambda: [None] * 4, lambda: None,
    ],
    "strength": [
        list, lambda: [0.5], lambda: [0.5] * 4, lambda: [math.nan] * 3,
        lambda: [-1.0, -2.0, 0.0], lambda: [1, 2, 3], lambda: None, lambda: ["x"] * 3,
    ],
    "gradients": [
        *(_replaced("gradients", 0, maker) for maker in _ODD_TENSORS),
        list, lambda: [values(19)], lambda: [values(19)] * 3, lambda: None,
    ],
    "trained": [
        list, lambda: [0], lambda: [0, 1], lambda: [1, 1], lambda: [1, 3], lambda: [1, -1],
        lambda: [1, 2], lambda: [2**62, 0], lambda: [-(2**63), 0], lambda: [1, 0, 2],
        lambda: None, lambda: [0.5, 1.5],
    ],
    "scale": [
        lambda: math.nan, lambda: math.inf, lambda: 0.0, lambda: -1e308, lambda: None,
        lambda: "x",
    ],
}  # fmt: skip


def meaning_of_mix(images, partner, weight, box, mean, std, dtype):
    """Return what plain torch makes of arguments that were taken."""
    height, width = images.shape[1:3] if images.dtype == torch.uint8 else images.shape[2:]
    limit = torch.tensor([height, width, height, width])
    clipped = torch.minimum(box.long().clamp(min=0), limit)
    return reference.mix(images.detach(), partner, weight.detach(), clipped, mean, std).to(dtype)


def _tame(numbers):
    return all(1e-30 < abs(n) < 1e30 or n == 0 for n in numbers)


def assert_mixed(result, arguments):
    """Check what an operator returned or filled; the arguments must have been sound."""
    images, partner, weight, box, mean, std, dtype = arguments
    integer = images.dtype == torch.uint8
    assert images.dtype in (*FLOATS, torch.uint8)
    assert images.dim() == 4
    assert (partner.dtype, weight.dtype, box.dtype) == (torch.int64, torch.float32, torch.int32)
    assert partner.shape == weight.shape == (len(images),)
    assert box.shape == (len(images), 4)
    assert len(mean) == len(std)
    channels = images.shape[3 if integer else 1]
    assert len(mean) in (0, channels)
    assert not len(partner) or 0 <= partner.min() <= partner.max() < len(images)
    assert result.dtype == dtype
    assert dtype in FLOATS
    if not _tame([*mean, *std]) or 0 in std:
        return  # Infinite or NaN: nothing to compare.
    expected = meaning_of_mix(*arguments)
    assert result.shape == expected.shape
    torch.testing.assert_close(result.detach(), expected, rtol=2e-2, atol=1e-4, equal_nan=True)


MIXES = ["mix", "mix_", "mix_into"]
PENALTIES = ["quadratic_value", "add_quadratic_gradient_"]
EMULATED_MIXES = ["emulated mix_into"]
EMULATED_PENALTIES = ["emulated add_quadratic_gradient_"]


def operator_named(name):
    """Return an operator of MIXES or PENALTIES, or of the emulated ones."""
    where, _, own = name.rpartition(" ")
    return getattr(torch.ops.ftbench_emulated if where else OPERATORS, own)


def try_mix(name, arguments):
    """Call one of the operators; return whether it took the arguments, which it then got right."""
    given = [arguments[key] for key in ("images", "partner", "weight", "box", "mean", "std")]
    kept = [each.detach().clone() if isinstance(each, torch.Tensor) else each for each in given]
    if name == "mix":
        extra, dtype = [arguments["dtype"]], arguments["dtype"]
    elif name == "mix_":
        extra, dtype = [], getattr(arguments["images"], "dtype", None)
    else:
        extra, dtype = [arguments["out"]], getattr(arguments["out"], "dtype", None)
    try:
        result = operator_named(name)(*given, *extra)
    except REFUSALS:
        return False
    assert_mixed(given[0] if name == "mix_" else extra[0] if result is None else result,
                 [*kept, dtype])  # fmt: skip
    return True


def meaning_of_penalty(arguments):
    """Return ½ Σ s (θ − a)² and what the gradients become, in float64."""
    value, pulls = 0.0, []
    for theta, anchor, weights, strength in zip(
        *(arguments[key] for key in ("parameters", "anchors", "weights", "strength")), strict=True
    ):
        for each in (anchor, weights):
            assert each is None or each.shape == theta.shape
        gap = theta.detach().double() - (0 if anchor is None else anchor.detach().double())
        pulls.append((strength if weights is None else weights.detach().double()) * gap)
        value += 0.5 * float((pulls[-1] * gap).sum())
    return value, pulls


def try_penalty(name, arguments):
    """Call one of the operators; return whether it took the arguments, which it then got right."""
    lists = [arguments[key] for key in ("parameters", "anchors", "weights", "strength")]
    extra = [arguments[key] for key in ("gradients", "trained", "scale")]
    adds = name != "quadratic_value"
    before = None
    if isinstance(extra[0], list):
        before = [
            each.detach().clone() if isinstance(each, torch.Tensor) else each for each in extra[0]
        ]
    try:
        found = operator_named(name)(*lists, *(extra if adds else []))
    except REFUSALS:
        return False
    value, pulls = meaning_of_penalty(arguments)
    torch.testing.assert_close(
        torch.as_tensor(found, dtype=torch.float64).detach(), torch.tensor(value).double(),
        rtol=1e-5, atol=1e-6, equal_nan=True,
    )  # fmt: skip
    if not adds:
        return True
    assert len(extra[0]) == len(extra[1]) == len(set(extra[1]))
    for gradient, start, index in zip(extra[0], before, extra[1], strict=True):
        assert gradient.shape == pulls[index].shape
        expected = start.double() + extra[2] * pulls[index]
        if math.isfinite(extra[2]) and abs(extra[2]) < 1e30:
            torch.testing.assert_close(
                gradient.detach().double(), expected, rtol=2e-2, atol=1e-3, equal_nan=True
            )
    return True


def try_every_pair(mixes, penalties):
    """Try every argument and pair of arguments replaced; return how many were (taken, refused)."""
    counts = {True: 0, False: 0}
    for good, bad, attempt, names in (
        (good_mix, BAD_MIX, try_mix, mixes),
        (good_penalty, BAD_PENALTY, try_penalty, penalties),
    ):
        makers = [(name, maker) for name in bad for maker in bad[name]]
        for first, second in itertools.combinations_with_replacement(makers, 2):
            if first[0] == second[0] and first is not second:
                continue
            for name in names:
                arguments = good()
                for key, maker in (first, second):
                    arguments[key] = maker()
                counts[attempt(name, arguments)] += 1
    return counts[True], counts[False]


if __name__ == "__main__":
    faulthandler.enable()
    torch.set_num_threads(1)
    if serving.implementation().name != "compiled":
        sys.exit("nothing is compiled")
    names = MIXES, PENALTIES
    if sys.argv[1] == "emulated":
        emulated.operators()
        names = EMULATED_MIXES, EMULATED_PENALTIES
    sys.stdout.write("{} taken, {} refused\n".format(*try_every_pair(*names)))

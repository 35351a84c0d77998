"""The GPU's programs on small tensors: what compute-sanitizer watches. Needs a GPU."""

from __future__ import annotations

import functools
import itertools
import sys

import torch

from ftbench import ops

NORMALIZE = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FORMATS = (torch.contiguous_format, torch.channels_last)


def main() -> int:
    """Run the programs; return 1 where a number is not the CPU's."""
    serving = ops.implementation()
    if not serving.serves(torch.device("cuda")):
        sys.stderr.write(f"no kernels for the GPU: {serving.reason}\n")
        return 1
    wrong = [*_mixing(), *_penalty()]
    sys.stdout.write("".join(f"differs from the CPU: {name}\n" for name in wrong))
    return 1 if wrong else 0


def _mixing() -> list[str]:
    wrong = []
    kinds = itertools.product(((9, 7), (16, 32)), (0.0, 1.0), (*FLOATS, torch.uint8), FORMATS)
    for (height, width), cutmix_alpha, dtype, layout in kinds:
        plan = ops.sample_mix(
            10, height, width, mixup_alpha=1.0, cutmix_alpha=cutmix_alpha, seed=0, step=1
        )
        # Each kind of share: both images, the own one, the partner.
        plan.weight[:2] = torch.tensor([0.0, 1.0])
        if not torch.equal(plan.to("cuda").label_weight.cpu(), plan.label_weight):
            wrong.append(f"label weights at {height}×{width}")
        pixels = torch.randint(256, (10, height, width, 3), dtype=torch.uint8)
        planes = pixels.permute(0, 3, 1, 2).to(memory_format=layout)
        images = pixels if dtype == torch.uint8 else planes.to(dtype)
        for wanted, to in itertools.product(FLOATS, FORMATS):
            out = torch.empty(planes.shape, dtype=wanted, device="cuda", memory_format=to)
            ops.mix(images.cuda(), plan.to("cuda"), normalize=NORMALIZE, out=out)
            expected = ops.mix(images, plan, normalize=NORMALIZE, dtype=wanted)
            if not torch.allclose(out.cpu().float(), expected.float(), atol=0.05, rtol=0.01):
                wrong.append(f"mix {dtype} {layout} to {wanted} {to} at {height}×{width}")
        if dtype != torch.uint8:
            expected, moved = ops.mix(images, plan), images.cuda()
            ops.mix(moved, plan.to("cuda"), out=moved)
            if not torch.equal(moved.cpu(), expected):
                wrong.append(f"mix {dtype} {layout} in place at {height}×{width}")
    return wrong


def _penalty() -> list[str]:
    alike = [(dtype, dtype, 0, 0) for dtype in (*FLOATS, torch.float64)]
    # Narrow beside wide, and elements that cannot be moved by fours: all of them, the gradient's.
    others = itertools.product(FLOATS, (torch.float32, torch.bfloat16), (0, 1), (0, 1))
    return [f"penalty {case}" for case in (*alike, *others) if not _agrees(*case)]


def _agrees(dtype: torch.dtype, factors: torch.dtype, offset: int, grad_offset: int) -> bool:
    """Return whether value and gradients of L2-SP and EWC terms are the CPU's.

    Parameters begin ``offset`` elements into their memory, gradients ``grad_offset``.
    """
    found = {}
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        parameters, strength = [], []
        for size in (1, 5, 4096, 70_001):
            memory = torch.randn(size + offset, generator=generator).to(device, dtype)
            parameter = torch.nn.Parameter(memory[offset:])
            parameter.grad = torch.zeros(size + grad_offset, device=device, dtype=dtype)[
                grad_offset:
            ]
            parameters.append(parameter)
            strength.append(torch.full((size,), 2.0, device=device, dtype=factors))
        anchors = [None, *(parameter.detach() * 0.5 for parameter in parameters[1:])]
        penalty = ops.QuadraticPenalty(parameters, anchors, [0.5, 0.1, *strength[2:]])
        value = penalty.add_gradient_()
        gradients = [parameter.grad for parameter in parameters]
        found[device] = [
            each.detach().cpu().double() for each in (value, *gradients) if each is not None
        ]
    close = functools.partial(torch.allclose, rtol=0.01 if dtype.itemsize == 2 else 1e-5)
    return all(map(close, found["cuda"], found["cpu"]))


if __name__ == "__main__":
    sys.exit(main())

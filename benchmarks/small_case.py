"""Every GPU program once, on small tensors: what compute-sanitizer watches. Needs a GPU."""

from __future__ import annotations

import sys

import torch

from ftbench import ops

NORMALIZE = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


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
    for height, width in ((9, 7), (16, 32)):
        plan = ops.sample_mix(10, height, width, cutmix_alpha=1.0, seed=0, step=1)
        for dtype in (*FLOATS, torch.uint8):
            pixels = torch.randint(256, (10, height, width, 3), dtype=torch.uint8)
            images = pixels if dtype == torch.uint8 else pixels.permute(0, 3, 1, 2).to(dtype)
            for wanted in FLOATS:
                expected = ops.mix(images, plan, normalize=NORMALIZE, dtype=wanted)
                found = ops.mix(images.cuda(), plan.to("cuda"), normalize=NORMALIZE, dtype=wanted)
                if not torch.allclose(found.cpu().float(), expected.float(), atol=0.05):
                    wrong.append(f"mix {dtype} to {wanted} at {height}×{width}")
            if dtype != torch.uint8:
                expected, moved = ops.mix(images, plan), images.cuda()
                ops.mix(moved, plan.to("cuda"), out=moved)
                if not torch.equal(moved.cpu(), expected):
                    wrong.append(f"mix {dtype} in place at {height}×{width}")
    return wrong


def _penalty() -> list[str]:
    values = {}
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        parameters = [
            torch.nn.Parameter(torch.randn(size, generator=generator).to(device))
            for size in (1, 5, 4096, 70_001)
        ]
        anchors = [None, *(parameter.detach() * 0.5 for parameter in parameters[1:])]
        strength = [0.5, *(torch.rand_like(parameter) * 0 + 2 for parameter in parameters[1:])]
        penalty = ops.QuadraticPenalty(parameters, anchors, strength)
        values[device] = penalty.add_gradient_().item()
    close = abs(values["cuda"] - values["cpu"]) <= 1e-5 * abs(values["cpu"])
    return [] if close else [f"penalty {values}"]


if __name__ == "__main__":
    sys.exit(main())

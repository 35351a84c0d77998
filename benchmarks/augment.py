"""From resident bytes to the network's input: ops.augment against torchvision and batched torch.

``python -m benchmarks.augment [--write]``: 64 images of 256 × 256 pixels, random resized crops of
224 × 224, mirrored and normalised, on one thread. Every side draws views of the same distribution;
the time to draw them is in it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import default_name, describe
from benchmarks.table import aligned
from ftbench import ops

BATCH, SIDE, SIZE = 64, 256, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ROUNDS = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; with ``--write`` keep it beside the other results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    text = table(timed(sides()))
    sys.stdout.write(text)
    if asked.write:
        name = f"{default_name('cpu')}-augment.md"
        (Path(__file__).with_name("results") / name).write_text(text, encoding="utf-8")
    return 0


def sides() -> dict[str, Callable[[int], Tensor]]:
    """Return what is timed, each a function of the step."""
    from torchvision.transforms import v2

    draw = torch.Generator().manual_seed(0)
    store = torch.randint(0, 256, (512, SIDE, SIDE, 3), dtype=torch.uint8, generator=draw)
    out = torch.empty(BATCH, 3, SIZE, SIZE)
    half = torch.empty_like(out, dtype=torch.bfloat16)
    images = torch.empty_like(store[:BATCH])
    scale, shift = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (STD, MEAN))
    pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def rows(step: int) -> Tensor:
        return torch.arange(BATCH) * 7 % 512 + step % 7

    def views(step: int) -> ops.AugmentPlan:
        return ops.sample_augment(BATCH, SIDE, SIDE, seed=0, step=step)

    def ours(step: int, into: Tensor = out, mix: ops.MixPlan | None = None) -> Tensor:
        plan, size = views(step), (SIZE, SIZE)
        return ops.augment(
            store, rows(step), plan, size=size, normalize=(MEAN, STD), mix=mix, out=into
        )

    def mixed(step: int) -> Tensor:
        plan = ops.sample_mix(BATCH, SIZE, SIZE, mixup_alpha=0.2, seed=0, step=step)
        return ours(step, mix=plan)

    def per_image(step: int) -> Tensor:
        return torch.stack([pipeline(store[i].permute(2, 0, 1)) for i in rows(step)])

    def interpolated(step: int) -> Tensor:
        plan, into = views(step), torch.empty_like(out)
        for image, row in enumerate(rows(step)):
            top, left, tall, wide = plan.crop[image].int().tolist()
            crop = store[row, top : top + tall, left : left + wide].permute(2, 0, 1)[None].float()
            into[image] = F.interpolate(crop, (SIZE, SIZE), mode="bilinear", antialias=True)[0]
        mirrored = plan.flip.view(-1, 1, 1, 1)
        return torch.where(mirrored, into.flip(3), into).sub_(shift).div_(scale)

    def sampled(step: int) -> Tensor:
        plan = views(step)
        top, left, tall, wide = plan.crop.unbind(1)
        matrices = torch.zeros(BATCH, 2, 3)
        matrices[:, 0, 0] = wide / SIDE * torch.where(plan.flip, -1.0, 1.0)
        matrices[:, 0, 2] = (2 * left + wide) / SIDE - 1
        matrices[:, 1, 1] = tall / SIDE
        matrices[:, 1, 2] = (2 * top + tall) / SIDE - 1
        grid = F.affine_grid(matrices, [BATCH, 3, SIZE, SIZE], align_corners=False)
        images = store[rows(step)].permute(0, 3, 1, 2).float()
        return F.grid_sample(images, grid, align_corners=False).sub_(shift).div_(scale)

    def moved(step: int) -> Tensor:
        torch.index_select(store, 0, rows(step), out=images)
        return out.fill_(1.0)

    return {
        "`ops.augment`, float32": ours,
        "`ops.augment`, bfloat16": lambda step: ours(step, half),
        "`ops.augment`, float32, mixup": mixed,
        "torchvision v2, image by image": per_image,
        "torch: crops one by one, `interpolate(antialias=True)`, rest batched": interpolated,
        "torch, batched: `grid_sample`, not antialiased": sampled,
        "copying the images' bytes and filling the result, nothing else": moved,
    }


def timed(functions: dict[str, Callable[[int], Tensor]]) -> dict[str, float]:
    """Return the median seconds of each, all in turn so that what disturbs one disturbs all."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for step in range(_ROUNDS + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function(step)
            if step:  # the first warms up
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def table(taken: dict[str, float]) -> str:
    """Return the times as Markdown, beside those of the first."""
    first = next(iter(taken.values()))
    rows = [(name, f"{1e3 * t:.1f} ms", f"{t / first:.1f}×") for name, t in taken.items()]
    lines = [
        f"# {BATCH} views of {SIZE} × {SIZE} from {SIDE} × {SIDE} pixels, one thread",
        "",
        *aligned([("", "median", "beside `ops.augment`"), *rows]),
        "",
        f"- Random resized crops, mirrored, normalised; medians of {_ROUNDS} rounds.",
        *(f"- {name}: {line}" for name, line in describe("cpu")["lines"].items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

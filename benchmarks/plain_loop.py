"""What one writes instead of a sweep: a loop over strategies, sizes and seeds in plain PyTorch.

``python -m benchmarks.plain_loop`` runs the embedded grid, ``--images FOLDER --weights FILE`` a
grid over a folder of images (``train`` and ``test``, a folder a class) from timm's
tf_efficientnet_lite0. Each run is a line of JSON.

Data, weights and architecture of the embedded grid are ftbench's; how they are trained is
textbook: a DataLoader, torchvision's transforms, a penalty as a sum over parameters, a Fisher one
sample at a time, all cores for one run after the other. Recipes are those of the sweep.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, TensorDataset

STRATEGIES = ("scratch", "full", "partial", "progressive", "head-only", "l2sp", "ewc")
LEARNING_RATE, HEAD_FACTOR, WEIGHT_DECAY = 3e-4, 3.0, 1e-2
ALPHA = BETA = 0.01  # of L2-SP
EWC_STRENGTH, FISHER_SAMPLES = 10.0, 1000
HEAD_ONLY_FACTOR = 10.0


@dataclass(frozen=True)
class Setup:
    """A benchmark: its data, its pre-trained model, and the grid over it."""

    pool: Dataset[Any]
    pool_labels: Sequence[int]
    test: Dataset[Any]
    build: Callable[[bool], tuple[list[nn.Module], nn.Module]]  # stages, and the source's head
    features: int
    classes: int
    sizes: Sequence[int]
    seeds: Sequence[int]
    steps: int
    batch_size: int
    loaders: int = 0  # processes that decode images
    fisher: Dataset[Any] | None = None  # None: the run's own training rows
    held_out: Dataset[Any] | None = None  # of the source, to see what is forgotten


def embedded() -> Setup:
    """Return ftbench's default grid."""
    from ftbench.backbones.glyphnet import WIDTHS, GlyphNet
    from ftbench.tasks.digits import Digits

    task, family = Digits(), GlyphNet()

    def build(pretrained: bool) -> tuple[list[nn.Module], nn.Module]:
        backbone = family.build(pretrained=pretrained)
        pooling = backbone.readouts["pooled"]
        *stages, last = (stage for _, stage in backbone.stages)
        head = list(backbone.source_head.children())[1] if backbone.source_head else nn.Identity()
        return [*stages, nn.Sequential(last, pooling)], head

    pool, test = task.pool(), task.test()
    samples, held_out = (_tensors(part) for part in (task.source().samples, task.source().held_out))
    return Setup(
        pool=_tensors(pool),
        pool_labels=_tensors(pool).tensors[1].tolist(),
        test=_tensors(test),
        build=build,
        features=WIDTHS[-1],
        classes=10,
        sizes=(20, 50, 100, 400),
        seeds=range(5),
        steps=150,
        batch_size=64,
        fisher=samples,
        held_out=held_out,
    )


def _tensors(examples: Any) -> TensorDataset:
    return TensorDataset(examples.inputs, examples.targets)


def of_images(folder: Path, weights: Path, side: int) -> Setup:
    """Return a grid over a folder of images, from an ImageNet EfficientNet-Lite0."""
    import timm
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    mean = std = (0.5, 0.5, 0.5)
    prepared = transforms.Compose(
        [
            transforms.Resize(side, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    pool, test = (ImageFolder(folder / part, prepared) for part in ("train", "test"))

    def build(pretrained: bool) -> tuple[list[nn.Module], nn.Module]:
        model = timm.create_model("tf_efficientnet_lite0")
        if pretrained:
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        stem = nn.Sequential(model.conv_stem, model.bn1)
        last = nn.Sequential(model.conv_head, model.bn2, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return [stem, *model.blocks, last], model.classifier

    return Setup(
        pool=pool,
        pool_labels=pool.targets,
        test=test,
        build=build,
        features=1280,
        classes=len(pool.classes),
        sizes=(50, 200),
        seeds=range(2),
        steps=40,
        batch_size=32,
        loaders=2,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the grid, a line of JSON a run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_loop", description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder with train/CLASS and test/CLASS")
    parser.add_argument("--weights", type=Path, help="of tf_efficientnet_lite0, a .pth file")
    parser.add_argument("--side", type=int, default=96, help="of the images, in pixels")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--sizes", help="label budgets, with commas")
    parser.add_argument("--seeds", help="how many")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.images:
        setup = of_images(options.images, options.weights, options.side)
    else:
        setup = embedded()
    sizes = [int(size) for size in options.sizes.split(",")] if options.sizes else setup.sizes
    seeds = range(int(options.seeds)) if options.seeds else setup.seeds
    for strategy in options.strategies.split(","):
        for size in sizes:
            for seed in seeds:
                began = time.perf_counter()
                scores = run(setup, strategy, size, seed, torch.device(options.device))
                seconds = time.perf_counter() - began
                line = {"strategy": strategy, "size": size, "seed": seed, "seconds": seconds}
                sys.stdout.write(json.dumps({**line, **scores}) + "\n")
                sys.stdout.flush()
    return 0


def run(
    setup: Setup, strategy: str, size: int, seed: int, device: torch.device
) -> dict[str, float]:
    """Fine-tune once; return the accuracy on the test set, and on the source's held-out rows."""
    torch.manual_seed(seed)
    stages, source_head = setup.build(strategy != "scratch")
    head = nn.Linear(setup.features, setup.classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    backbone = nn.Sequential(*stages).to(device)
    source_head, head = source_head.to(device), head.to(device)
    model = nn.Sequential(backbone, head)
    training = Subset(setup.pool, subset(setup.pool_labels, size, seed))
    penalty = make_penalty(setup, strategy, backbone, head, source_head, training, device)
    optimizer = make_optimizer(strategy, backbone, head)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / setup.steps))
    )
    batch_size = min(setup.batch_size, size)
    sampler = RandomSampler(training, num_samples=setup.steps * batch_size)
    loader = DataLoader(training, batch_size, sampler=sampler, num_workers=setup.loaders)
    set_training(model, strategy)
    for step, (inputs, labels) in enumerate(loader):
        freeze(backbone, strategy, step / setup.steps)
        loss = F.cross_entropy(model(inputs.to(device)), labels.to(device))
        loss = loss + penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    scores = {"accuracy": accuracy(model, setup.test, setup.loaders, device)}
    if setup.held_out is not None and strategy != "scratch":
        source = nn.Sequential(backbone, source_head)
        scores["source_accuracy"] = accuracy(source, setup.held_out, setup.loaders, device)
    return scores


def subset(labels: Sequence[int], size: int, seed: int) -> list[int]:
    """Return the rows of a stratified subset."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    if size == len(rows):
        return list(range(size))
    chosen, _ = train_test_split(rows, train_size=size, stratify=labels, random_state=seed)
    return [int(row) for row in chosen]


def set_training(model: nn.Module, strategy: str) -> None:
    """Put the model in train mode; a pre-trained one keeps its running statistics."""
    model.train()
    if strategy != "scratch":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def freeze(backbone: nn.Sequential, strategy: str, progress: float) -> None:
    """Let train what the strategy trains at this time."""
    depth = len(backbone)
    for index, stage in enumerate(backbone):
        from_top = depth - index
        trains = {
            "partial": from_top <= 1,
            "head-only": False,
            "progressive": from_top <= progress * (depth + 1) + 1e-9,
        }.get(strategy, True)
        for parameter in stage.parameters():
            parameter.requires_grad_(trains)


def make_optimizer(strategy: str, backbone: nn.Module, head: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW with a larger rate for the head and no decay of biases and norms."""
    head_rate = LEARNING_RATE * HEAD_FACTOR
    if strategy == "head-only":
        head_rate *= HEAD_ONLY_FACTOR
    groups = []
    for module, rate, is_head in ((backbone, LEARNING_RATE, False), (head, head_rate, True)):
        for decays in (True, False):
            parameters = [p for p in module.parameters() if (p.dim() > 1) == decays]
            held = strategy == "l2sp" or (strategy == "ewc" and not is_head)
            decay = WEIGHT_DECAY if decays and not held else 0.0
            groups.append({"params": parameters, "lr": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups)


def make_penalty(
    setup: Setup,
    strategy: str,
    backbone: nn.Module,
    head: nn.Module,
    source_head: nn.Module,
    training: Dataset[Any],
    device: torch.device,
) -> Callable[[], Any]:
    """Return what is added to the loss in each step."""
    if strategy not in ("l2sp", "ewc"):
        return lambda: 0.0
    anchors = [parameter.detach().clone() for parameter in backbone.parameters()]

    def l2sp() -> Any:
        pulls = zip(backbone.parameters(), anchors, strict=True)
        pull = sum(((p - anchor) ** 2).sum() for p, anchor in pulls)
        return ALPHA / 2 * pull + BETA / 2 * sum((p**2).sum() for p in head.parameters())

    if strategy == "l2sp":
        return l2sp
    samples = setup.fisher if setup.fisher is not None else training
    fisher = diagonal_fisher(nn.Sequential(backbone, source_head), backbone, samples, device)

    def ewc() -> Any:
        terms = zip(fisher, backbone.parameters(), anchors, strict=True)
        return EWC_STRENGTH / 2 * sum((f * (p - anchor) ** 2).sum() for f, p, anchor in terms)

    return ewc


def diagonal_fisher(
    model: nn.Module,
    backbone: nn.Module,
    samples: Any,
    device: torch.device,
) -> list[Tensor]:
    """Return the mean squared gradients of the log-likelihood of drawn labels, sample by sample."""
    model.eval()
    fisher = [torch.zeros_like(parameter) for parameter in backbone.parameters()]
    count = min(FISHER_SAMPLES, len(samples))
    for index in range(count):
        outputs = model(samples[index][0].unsqueeze(0).to(device))
        label = torch.multinomial(outputs.detach().softmax(dim=1), 1)[:, 0]
        model.zero_grad()
        F.cross_entropy(outputs, label).backward()
        for sum_of_squares, parameter in zip(fisher, backbone.parameters(), strict=True):
            assert parameter.grad is not None
            sum_of_squares += parameter.grad**2 / count
    model.zero_grad()
    return fisher


@torch.no_grad()
def accuracy(model: nn.Module, examples: Dataset[Any], loaders: int, device: torch.device) -> float:
    """Return the share of the rows that are classified right."""
    model.eval()
    right = rows = 0
    for inputs, labels in _batches(examples, loaders):
        predicted = model(inputs.to(device)).argmax(dim=1).cpu()
        right += int((predicted == labels).sum())
        rows += len(labels)
    return right / rows


def _batches(examples: Dataset[Any], loaders: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from DataLoader(examples, batch_size=256, num_workers=loaders)


if __name__ == "__main__":
    sys.exit(main())

"""Remake the weights of glyphnet: ``python -m ftbench.pretrain --out FILE``.

Trains on 28,000 rendered letters with the same loop that fine-tunes, from seed 0; about a minute
on two cores. Bits differ between processors and torch versions, so a remade file has a hash of its
own; the accuracy is about the same.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ftbench import rng, scores
from ftbench.backbone import Model
from ftbench.backbones import glyphnet
from ftbench.evaluate import evaluate
from ftbench.offers import Offer
from ftbench.plugins import load_catalogue
from ftbench.plugins.recipe import make_recipe
from ftbench.recipe import Recipe
from ftbench.strategies.scratch import Scratch
from ftbench.tasks.letters import Letters
from ftbench.train import train

RECIPE = Recipe(
    optimizer="adamw",
    learning_rate=4e-3,
    head_rate_factor=1.0,
    schedule="cosine(warmup=0.3)",
    epochs=6,
    batch_size=128,
)


def pretrain(seed: int, recipe: Recipe = RECIPE) -> tuple[Model, float]:
    """Return the trained model and its accuracy on the 2,000 letters held out."""
    letters = Letters()
    with rng.isolated(seed, "random weights"):
        stages = glyphnet.network()
    pooled = Offer("pooled", (glyphnet.WIDTHS[-1],))
    model = Model(stages, letters.head(pooled, seed=seed), glyphnet.pooling())
    train(
        model,
        letters.pool(),
        strategy=Scratch(),
        recipe=recipe,
        made=make_recipe(recipe, load_catalogue()),
        loss=letters.loss,
        seed=seed,
        on_step=_print_step,
    )
    return model, evaluate(model, letters.test(), scores.accuracy)


def main(arguments: Sequence[str] | None = None) -> None:
    """Pre-train, write the weights, and print what glyphnet.py states about them."""
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(
        prog="python -m ftbench.pretrain", description="Remake the weights of glyphnet."
    )
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model, accuracy = pretrain(options.seed)
    save_file(model.state_dict(), options.out)
    digest = hashlib.sha256(options.out.read_bytes()).hexdigest()
    sys.stdout.write(f'WEIGHTS_SHA256 = "{digest}"\nSOURCE_ACCURACY = {accuracy}\n')


def _print_step(step: int, total_steps: int) -> None:
    if step % 100 == 0 or step == total_steps:
        sys.stderr.write(f"step {step} of {total_steps}\n")


if __name__ == "__main__":
    main()

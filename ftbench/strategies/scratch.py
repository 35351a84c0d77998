"""Train everything from random weights: the baseline that shows what transfer is worth."""

from __future__ import annotations

from ftbench.strategy import Strategy


class Scratch(Strategy):
    """Everything trains, from random weights, with updating normalisation statistics."""

    name = "scratch"
    version = "1"
    pretrained = False

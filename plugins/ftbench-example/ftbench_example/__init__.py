"""LP-FT: linear probing, then full fine-tuning (Kumar et al. 2022, ICLR).

A random head sends large gradients through the backbone and distorts its features; training the
head first avoids that.
"""

import ftbench


class LinearProbeThenFull(ftbench.Strategy):
    """The head alone trains for a share of the steps, then everything does."""

    name = "lp-ft"

    class Options(ftbench.StrategyOptions):
        """``probe`` is the share of the steps that train the head alone."""

        probe: float = 0.5

    def trains(self, stage: ftbench.Stage, progress: float) -> bool:
        """Return whether this is the head, or its time alone is over."""
        return stage.is_head or progress >= self.options.probe


@ftbench.hookimpl
def ftbench_strategies() -> list[type[ftbench.Strategy]]:
    """Return this plugin's strategies."""
    return [LinearProbeThenFull]

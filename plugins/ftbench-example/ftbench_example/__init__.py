"""Four strategies, each by another method of ftbench.Strategy.

``lp-ft`` says what trains, ``pull`` adds a penalty on weights, ``consistent`` adds a term of the
batch, and ``sam`` takes the step in its own way. At strength zero they are full fine-tuning.
"""

import torch

import ftbench

ftbench_interface = 2  # what this is written for


class LinearProbeThenFull(ftbench.Strategy):
    """LP-FT (Kumar et al. 2022, ICLR): the head alone for a share of the steps, then everything.

    A random head sends large gradients through the backbone and distorts its features; training
    the head first avoids that.
    """

    name = "lp-ft"

    class Options(ftbench.StrategyOptions):
        """``probe`` is the share of the steps that train the head alone."""

        probe: float = 0.5

    def trains(self, stage: ftbench.Stage, progress: float) -> bool:
        """Return whether this is the head, or its time alone is over."""
        return stage.is_head or progress >= self.options.probe


class PullToMean(ftbench.Strategy):
    """Each stage's weights are pulled towards their own mean at the start."""

    name = "pull"

    class Options(ftbench.StrategyOptions):
        """``strength`` of the pull."""

        strength: float = 0.01

    def prepare(self, model: ftbench.Model, data: ftbench.Data) -> None:
        """Remember where the weights start."""
        shared = list(model.shared_parameters().values())
        anchors = [torch.full_like(p, p.detach().mean().item()) for p in shared]
        self._pull = ftbench.QuadraticPenalty(
            shared, anchors, [self.options.strength for _ in shared]
        )

    def penalty(self, model: ftbench.Model) -> ftbench.QuadraticPenalty:
        """Return the pull; a differentiable tensor would do as well."""
        return self._pull


class Consistent(ftbench.Strategy):
    """R-Drop's idea (Liang et al. 2021, NeurIPS): two dropout draws should predict alike."""

    name = "consistent"

    class Options(ftbench.StrategyOptions):
        """``strength`` of the term."""

        strength: float = 1.0

    def objective(self, forward: ftbench.Forward) -> torch.Tensor:
        """Return the loss, and how far a second pass is from the first."""
        if not self.options.strength:
            return forward.loss
        distance: torch.Tensor = (forward.outputs - forward.again().outputs).square().mean()
        total: torch.Tensor = forward.loss + self.options.strength * distance
        return total


class SAM(ftbench.Strategy):
    """Sharpness-aware minimization (Foret et al. 2021, ICLR): the gradient at the point uphill."""

    name = "sam"

    class Options(ftbench.StrategyOptions):
        """``rho`` is how far uphill."""

        rho: float = 0.05

    @torch.no_grad()
    def advance(self, step: ftbench.Step) -> None:
        """Climb, take the gradient there, come back, and step."""
        step.backward()
        moved = [(p, p.clone(), p.grad) for p in step.model.parameters() if p.grad is not None]
        norm = torch.stack([grad.norm() for _, _, grad in moved]).norm() + 1e-12
        for parameter, _, grad in moved:
            parameter.add_(self.options.rho * grad / norm)
        step.backward()
        for parameter, start, _ in moved:
            parameter.copy_(start)
        step.update()


@ftbench.hookimpl
def ftbench_strategies() -> list[type[ftbench.Strategy]]:
    """Return this plugin's strategies."""
    return [LinearProbeThenFull, PullToMean, Consistent, SAM]

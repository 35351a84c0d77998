"""L2-SP: an L2 pull towards the starting point (Xuhong Li et al. 2018, ICML)."""

from __future__ import annotations

from pydantic import Field

from ftbench.backbone import Model, Stage, undecayed_parameters
from ftbench.ops import QuadraticPenalty
from ftbench.strategy import Strategy, StrategyOptions
from ftbench.training import Data


class L2SPOptions(StrategyOptions):
    """Options of ``l2sp``."""

    alpha: float = Field(0.01, ge=0, description="strength of the pull to the pre-trained weights")
    beta: float = Field(0.01, ge=0, description="strength of the head's pull to zero")
    biases_and_norms: bool = Field(
        True, description="whether biases and normalisation parameters are held as well"
    )


class L2SP(Strategy[L2SPOptions]):
    """Everything trains under ``α/2·‖w_S − w_S⁰‖² + β/2·‖w_new‖²``, without weight decay."""

    name = "l2sp"
    version = "1"

    def prepare(self, model: Model, data: Data) -> None:
        """Remember the starting point."""
        spared = set() if self.options.biases_and_norms else undecayed_parameters(model)
        shared = [p for p in model.shared_parameters().values() if p not in spared]
        heads = [part for part in model.owned() if part.stage.is_head]
        head = [p for part in heads for p in part.parameters.values() if p not in spared]
        self._penalty = QuadraticPenalty(
            [*shared, *head],
            [*(p.detach().clone() for p in shared), *(None for _ in head)],
            [*(self.options.alpha for _ in shared), *(self.options.beta for _ in head)],
        )

    def decays(self, stage: Stage) -> bool:
        """Return False: the penalty takes the place of weight decay, in the head as well."""
        return False

    def penalty(self, model: Model) -> QuadraticPenalty:
        """Return both pulls as one penalty."""
        return self._penalty

"""What a strategy's methods answer, checked where it is used."""

from __future__ import annotations

import numpy as np

from ftbench.errors import FtbenchError
from ftbench.strategy import Strategy


def require_flag(answer: object, strategy: Strategy, question: str) -> bool:
    """Return True or False; FtbenchError for an answer that is neither, None above all."""
    if isinstance(answer, bool | np.bool_):
        return bool(answer)
    raise FtbenchError(
        f"strategy '{strategy.name}': {question} returned {answer!r}; expected True or False"
    )

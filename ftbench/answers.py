"""What plugins' methods answer, checked where it is used."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from ftbench.errors import FtbenchError

Kind = TypeVar("Kind")


def require(answer: object, kinds: type[Kind], what: str, expected: str) -> Kind:
    """Return ``answer``; FtbenchError where it is of another kind.

    ``what`` begins the message, plugin first and verb last: ``"task 'x': head() returned"``.
    """
    if isinstance(answer, kinds):
        return answer
    raise refusal(answer, what, expected)


def require_flag(answer: object, strategy: Any, question: str) -> bool:
    """Return True or False; FtbenchError for an answer that is neither, None above all."""
    if isinstance(answer, bool | np.bool_):
        return bool(answer)
    raise FtbenchError(
        f"strategy '{strategy.name}': {question} returned {answer!r}; expected True or False"
    )


def require_number(answer: object, what: str) -> float:
    """Return a number of any library as a float; FtbenchError for flags, text and collections."""
    is_flag = isinstance(answer, bool) or str(getattr(answer, "dtype", "")).endswith("bool")
    if hasattr(answer, "__float__") and not is_flag:
        try:
            return float(answer)
        except (TypeError, ValueError, RuntimeError):  # an array of several, a complex number
            pass
    raise refusal(answer, what, "a number")


def refusal(answer: object, what: str, expected: str) -> FtbenchError:
    """Return the error for an answer that is not what was expected."""
    return FtbenchError(f"{what} {described(answer)}; expected {expected}")


def described(value: object) -> str:
    """Return what a value is, for a message: itself where that is short, else its type."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)[:60]
    return f"a {type(value).__name__}"

"""Weights files: read without running what is in them, hashed, matched with a model's own names."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ftbench.errors import WeightsError

SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".safetensors")
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # of training checkpoints
_HASHED_NAME = re.compile(r"-([0-9a-f]{8,})\.[^.]*$")  # as torch.hub writes them
_NAMED = 3  # names that a message lists

StateDict = Mapping[str, Tensor]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors by name, on the CPU; WeightsError where it holds no such thing.

    ``.safetensors``, or what ``torch.save`` wrote of tensors alone: nothing in it is executed. The
    weights of a training checkpoint are found under ``state_dict`` or ``model``, those of an
    exponential moving average first.
    """
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: object = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen kinds, by format and damage
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            # What torch says of it is advice to read files that nobody can trust.
            reason = "it is damaged, or holds more than tensors"
        raise WeightsError(
            f"{path} cannot be read as weights: {reason}; expected a .safetensors file, or a state "
            "dict that torch.save wrote"
        ) from error
    tensors = _unwrapped(found)
    if not tensors:
        raise WeightsError(
            f"{path} holds {_kind(found)}; expected tensors by name, as model.state_dict() gives"
        )
    return tensors


def _unwrapped(found: object) -> dict[str, Tensor]:
    for _ in range(3):  # a wrapper in a wrapper
        if not isinstance(found, Mapping):
            return {}
        inner = next((found[n] for n in _WRAPPERS if isinstance(found.get(n), Mapping)), None)
        if inner is None:
            break
        found = inner
    assert isinstance(found, Mapping)
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if len(tensors) < len(found):
        return {}
    if tensors and all(name.startswith("module.") for name in tensors):  # DataParallel's
        return {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _kind(found: object) -> str:
    if isinstance(found, Mapping):
        names = ", ".join(map(repr, list(found)[:_NAMED]))
        return f"a dict with {names}" if names else "an empty dict"
    return f"a {type(found).__name__}"


def mismatch(model: StateDict, given: StateDict) -> str:
    """Return how the given tensors differ in names and shapes from a model's, ``""`` if not."""
    missing = [name for name in model if name not in given]
    odd = [name for name in given if name not in model]
    shaped = [
        f"{name} is {tuple(given[name].shape)} instead of {tuple(value.shape)}"
        for name, value in model.items()
        if name in given and given[name].shape != value.shape
    ]
    problems = [
        f"{len(names)} of {of} {what} ({_some(names)})"
        for names, of, what in (
            (missing, f"the model's {len(model)} tensors", "are missing"),
            (odd, f"its {len(given)} tensors", "are not in the model"),
            (shaped, f"its {len(given)} tensors", "have another shape"),
        )
        if names
    ]
    return ", ".join(problems)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def load_into(model: nn.Module, given: StateDict, path: Path) -> None:
    """Load tensors into a model in place; WeightsError says which do not fit, and how many."""
    problem = mismatch(model.state_dict(), given)
    if problem:
        raise WeightsError(
            f"{path} does not fit {type(model).__name__}: {problem}; name the model that these "
            "weights are of"
        )
    model.load_state_dict(dict(given))


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256; one that did not change is read once in a process."""
    try:
        stat = path.stat()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror}") from error
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256_of(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(path: Path, again: str) -> None:
    """Raise WeightsError where a file's name ends in a hash that its content does not have.

    torch.hub names downloads so, and does not look at one that is there already. ``again`` says
    what brings a good one.
    """
    named = _HASHED_NAME.search(path.name)
    if named is None:
        return
    found = sha256_of(path)
    if not found.startswith(named[1]):
        raise WeightsError(
            f"{path} is damaged or something else: its SHA-256 begins with "
            f"{found[: len(named[1])]}, its name says {named[1]}; delete it, and {again}"
        )


def hub_checkpoints() -> Path:
    """Return the folder of torch.hub's downloads: ``$TORCH_HOME/hub/checkpoints``."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def expanded(text: str) -> str:
    """Return what a user wrote as a path, absolute and without ``~``."""
    return os.path.abspath(os.path.expanduser(text))

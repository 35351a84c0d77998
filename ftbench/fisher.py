"""The diagonal Fisher information from per-sample gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ftbench import rng
from ftbench.ops import accumulate_fisher_


def diagonal_fisher(
    model: nn.Module,
    inputs: Tensor,
    *,
    parameters: Sequence[str],
    labels: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 25,
) -> dict[str, Tensor]:
    """Return the mean over samples of the squared per-sample gradient of −log p(y | x).

    ``model`` maps ``inputs`` (N, ...) to logits (N, K); ``parameters`` names those wanted, and the
    result holds a float32 tensor of each one's shape. A parameter that the model holds under
    several names may be asked for by any of them; its gradient is that of all its uses.

    Without ``labels`` they are drawn from the model's own prediction, which gives the true Fisher
    (Kunstner et al. 2019, "Limitations of the empirical Fisher approximation"); with ``labels``
    (N,) it is the empirical one. ``batch_size`` only bounds the memory: squares are taken sample
    by sample, so the result is the same at any.

    The model is used in eval mode, so normalisation statistics neither move nor mix samples; its
    training flags come back as they were. ValueError where there are no inputs, or not as many
    labels.
    """
    if not len(inputs):
        raise ValueError("inputs hold no sample; the Fisher is a mean over at least one")
    if labels is not None and len(labels) != len(inputs):
        raise ValueError(f"labels hold {len(labels)} rows, expected {len(inputs)} as inputs do")
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return _mean_squared_gradients(model, inputs, parameters, labels, seed, batch_size)
    finally:
        for module, training in was_training.items():
            module.training = training


def _mean_squared_gradients(
    model: nn.Module,
    inputs: Tensor,
    parameters: Sequence[str],
    labels: Tensor | None,
    seed: int,
    batch_size: int,
) -> dict[str, Tensor]:
    values = {name: tensor.detach() for name, tensor in model.named_parameters()}
    # One name for each parameter: two for one would be two functions' arguments.
    first: dict[Tensor, str] = {value: name for name, value in model.named_parameters()}
    known = dict(model.named_parameters(remove_duplicate=False))
    first_names = {name: first[known[name]] for name in parameters}
    wanted = {name: values[name] for name in first_names.values()}
    fisher = {
        name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in wanted.items()
    }
    places = [(place, first[parameter]) for place, parameter in _places(model, "_parameters")]
    buffers = dict(_places(model, "_buffers"))

    def loss(chosen: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        used = {**values, **chosen}
        # Every place by itself: torch's own tying leaves its argument behind in a module that the
        # model holds under two names.
        placed = {place: used[name] for place, name in places}
        logits = torch.func.functional_call(
            model, (placed, buffers), (sample.unsqueeze(0),), tie_weights=False
        )
        return F.cross_entropy(logits, label.unsqueeze(0))

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    for start in range(0, len(inputs), batch_size):
        batch = inputs[start : start + batch_size]
        drawn = (
            _drawn_labels(model, batch, seed, start)
            if labels is None
            else labels[start:][: len(batch)]
        )
        gradients = per_sample(wanted, batch, drawn)
        accumulate_fisher_(list(fisher.values()), [gradients[name] for name in fisher])
    return {name: fisher[first] / len(inputs) for name, first in first_names.items()}


def _places(model: nn.Module, table: str) -> Iterator[tuple[str, Tensor]]:
    """Yield each place at which a module holds a tensor, by one name however many it has."""
    for name, module in model.named_modules():
        for own, tensor in getattr(module, table).items():
            if tensor is not None:
                yield f"{name}.{own}" if name else own, tensor


def _drawn_labels(model: nn.Module, inputs: Tensor, seed: int, first: int) -> Tensor:
    """Draw one label a sample from the model's prediction; sample i's draw depends on i alone."""
    with torch.no_grad():
        # On the host: the cumulative sum has no deterministic form on a GPU.
        cumulative = model(inputs).double().softmax(dim=1).cpu().cumsum(dim=1)
    draws = torch.from_numpy(rng.uniforms(first + len(inputs), seed, "fisher labels")[first:])
    # The last cumulative sum may round to just below a draw, hence the clamp.
    drawn = torch.searchsorted(cumulative, draws.unsqueeze(1)).squeeze(1)
    return drawn.clamp_(max=cumulative.shape[1] - 1).to(inputs.device)

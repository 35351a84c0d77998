"""The cross-entropy of a mixed batch from one log-softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from ftbench.ops.mix import MixPlan


def mixed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    plan: MixPlan | None = None,
    *,
    smoothing: float = 0.0,
    class_weight: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy, a 0-dim tensor, of logits (N, K) against mixed labels.

    Sample i counts its own label (N,) int64 with ``plan.label_weight[i]`` and its partner's with
    the rest. ``smoothing`` ε and ``class_weight`` (K,) mean what they mean in
    ``torch.nn.functional.cross_entropy``, and without a plan the value is the same; the weighted
    mean divides by the mixed weights of the labels. TypeError, ValueError and IndexError name the
    argument, its value and what was expected.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and labels {tuple(labels.shape)}, "
            "expected (N, K) and (N,)"
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits have dtype {logits.dtype}, expected a floating-point one")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing is {smoothing}, expected a number from 0 to 1")
    _check_labels(labels, logits, plan)
    # float32 at least: bfloat16 targets lose label weights.
    log_probability = torch.log_softmax(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), 1
    )
    weight = _class_weights(class_weight, log_probability)
    loss, total = _label_terms(log_probability, labels, weight)
    if plan is not None:
        if len(plan.partner) != len(labels):
            raise ValueError(f"the plan is for {len(plan.partner)} samples, not {len(labels)}")
        own = plan.label_weight.to(log_probability.dtype)
        # The partner's label is scored under the sample's own prediction.
        other_loss, other_total = _label_terms(log_probability, labels[plan.partner], weight)
        loss = own * loss + (1 - own) * other_loss
        total = own * total + (1 - own) * other_total
    if smoothing:
        uniform = -(log_probability * weight).mean(dim=1)
        loss = (1 - smoothing) * loss + smoothing * uniform
    return loss.sum() / total.sum()


def _check_labels(labels: Tensor, logits: Tensor, plan: MixPlan | None) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(f"labels have dtype {labels.dtype}, expected torch.int64")
    if labels.device != logits.device:
        raise ValueError(f"labels are on {labels.device}, logits on {logits.device}")
    if plan is not None and plan.partner.device != logits.device:
        raise ValueError(f"the plan is on {plan.partner.device}, logits on {logits.device}")
    # A GPU checks its indices itself; looking at them here would wait for it.
    if labels.device.type == "cpu" and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[1]:
            wrong = low if low < 0 else high
            raise IndexError(f"labels hold {wrong}, expected 0 to {logits.shape[1] - 1}")


def _class_weights(class_weight: Tensor | None, log_probability: Tensor) -> Tensor:
    if class_weight is None:
        return log_probability.new_ones(log_probability.shape[1])
    if not isinstance(class_weight, Tensor):
        raise TypeError(f"class_weight is {class_weight!r}, expected a tensor (K,)")
    if class_weight.shape != log_probability.shape[1:]:
        raise ValueError(
            f"class_weight has shape {tuple(class_weight.shape)}, "
            f"expected {tuple(log_probability.shape[1:])}"
        )
    return class_weight.to(log_probability)


def _label_terms(log_probability: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return each sample's weighted negative log-probability of its label, and that weight."""
    share = weight[labels]
    return -log_probability.gather(1, labels.unsqueeze(1)).squeeze(1) * share, share

"""Before a mix is timed: ours beside its definition, and beside what each peer makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import MixCase, Peer
from benchmarks.mix_peers import (
    BUILDERS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Batch,
    draw_batch,
    draw_plan,
)
from ftbench import ops

# Height and width differ, so that swapped ones are seen.
_SMALL_SHAPE = (8, 3, 24, 20)
_ATTEMPTS = 20


def mix_ours(case: MixCase, images: Tensor, plan: ops.MixPlan, out: Tensor) -> Tensor:
    """Return ``ops.mix`` as ``case`` calls it, into ``out``."""
    if case.uint8:
        return ops.mix(images, plan, normalize=(IMAGENET_MEAN, IMAGENET_STD), out=out)
    return ops.mix(images, plan, out=out)


def result_buffer(case: MixCase, images: Tensor) -> Tensor:
    """Return the kept buffer (B, C, H, W) for results of ``images``, or they themselves."""
    if case.in_place:
        return images
    view = images.permute(0, 3, 1, 2) if case.uint8 else images
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    return torch.zeros(view.shape, dtype=case.dtype, device=view.device).contiguous(
        memory_format=layout
    )


def check_ours(case: MixCase, batch: Batch) -> None:
    """Raise AssertionError unless ours, at full size, is what the plain expression gives."""
    plan = draw_plan(case, case.shape, step=1)
    expected = _plain_definition(case, batch.images, plan)
    images = batch.images.clone()
    _assert_close(case, mix_ours(case, images, plan, result_buffer(case, images)), expected)


def check_peer(case: MixCase, peer: Peer, variant: str) -> None:
    """Raise AssertionError unless ours gives what the peer gives.

    The peer's draw is read from what it returns: labels are all different, so its targets tell
    partners and weights, and the pixels that it changed tell the box.
    """
    if peer.name in ("reference", "add"):
        return
    small = draw_batch(case, _SMALL_SHAPE)
    for _ in range(_ATTEMPTS):
        images = small.images.clone()
        result, targets = BUILDERS[peer.name](Batch(images, small.labels), case, variant)()
        plan, label_weight = _drawn_plan(case, peer, small, result, targets)
        # A box without pixels shows nothing; draw again.
        if not case.cutmix or bool((plan.box[:, 2] > plan.box[:, 0]).any()):
            break
    ours = small.images.clone()
    _assert_close(case, mix_ours(case, ours, plan, result_buffer(case, ours)), result)
    torch.testing.assert_close(plan.label_weight, label_weight, rtol=1e-4, atol=1e-5)


def _plain_definition(case: MixCase, images: Tensor, plan: ops.MixPlan) -> Tensor:
    """Return the mixed batch, one line of plain torch for each of its steps."""
    own = images.permute(0, 3, 1, 2).float() / 255 if case.uint8 else images
    weight = plan.weight.view(-1, 1, 1, 1)
    mixed = weight * own + (1 - weight) * own[plan.partner]
    for sample, (top, left, bottom, right) in enumerate(plan.box.tolist()):
        pasted = own[plan.partner[sample], :, top:bottom, left:right]
        mixed[sample, :, top:bottom, left:right] = pasted
    if not case.uint8:
        return mixed
    mean, std = (
        torch.tensor(values, device=own.device).view(1, 3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((mixed - mean) / std).to(case.dtype)


def _drawn_plan(
    case: MixCase, peer: Peer, batch: Batch, result: Tensor, targets: Any
) -> tuple[ops.MixPlan, Tensor]:
    """Return the plan that ``peer`` drew, and the weights (B,) that it gives to own labels."""
    partner, label_weight = _drawn_labels(peer, batch, targets)
    size, (height, width) = len(partner), _SMALL_SHAPE[2:]
    box = torch.zeros(size, 4, dtype=torch.int32, device=partner.device)
    weight = label_weight
    if case.cutmix:
        weight = torch.ones_like(label_weight)
        box[:] = _changed_box((result != batch.images).any(dim=1).any(dim=0)).to(box.device)
    return ops.MixPlan(partner, weight, box, height, width), label_weight


def _drawn_labels(peer: Peer, batch: Batch, targets: Any) -> tuple[Tensor, Tensor]:
    samples = torch.arange(len(batch.labels), device=batch.labels.device)
    if peer.name == "plain":
        partner, weight = targets
        return partner, torch.full_like(partner, weight, dtype=torch.float32)
    if peer.name == "kornia":
        return targets[:, 1].long(), 1 - targets[:, 2]
    weight = targets[samples, batch.labels].clone()
    others = targets.clone()
    others[samples, batch.labels] = 0
    return others.argmax(dim=1), weight.float()


def _changed_box(changed: Tensor) -> Tensor:
    """Return [top, left, bottom, right) around the true pixels of (H, W), all 0 for none."""
    rows, columns = (changed.any(dim=side).nonzero() for side in (1, 0))
    if not len(rows):
        return torch.zeros(4, dtype=torch.int32)
    sides = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    return torch.tensor([int(side) for side in sides], dtype=torch.int32)


def _assert_close(case: MixCase, ours: Tensor, expected: Tensor) -> None:
    # Half a step of bfloat16's eight bits, and its neighbour where the two round apart.
    tolerance = 2**-7 if case.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(
        ours,
        expected,
        rtol=tolerance,
        atol=tolerance,
        msg=lambda text: f"{case.id}: ours differs from what it is timed against. {text}",
    )

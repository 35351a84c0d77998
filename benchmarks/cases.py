"""What is measured: each case's size, the bytes that it must move, its peers and the targets."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

OURS, OURS_WITH_PLAN, COPY, FLOOR = "ours", "ours with plan", "copy", "floor"
PEER_PACKAGES = ("timm", "torchvision", "kornia")
# Compiling a loop takes up to a minute: for one model, that a GPU's run is done in eight minutes.
_COMPILED_FOR = ("resnet50", "tiny")
# KERNELS: at least this share of the machine's measured copy bandwidth, on every device.
COPY_SHARE_TARGET = 0.85
CALL_OVERHEAD_TARGET_MICROSECONDS = 10.0


@dataclass(frozen=True)
class Peer:
    """Another way to the same result, from ``package``.

    ``target`` is how many times as long as ours it should take. Of several ``variants`` of one
    peer the table shows the fastest.
    """

    name: str
    title: str
    package: str = "torch"
    target: float | None = None
    variants: tuple[str, ...] = ("",)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of work. Without ``bytes_per_value`` no bandwidth is stated.

    ``floor`` moves the same bytes and does less: what one cannot hope to beat by much.
    """

    id: str
    title: str
    device: str
    peers: tuple[Peer, ...]
    bytes_per_value: int | None
    copy_share_target: float | None = COPY_SHARE_TARGET
    times_plan: bool = False
    floor: Peer | None = None
    overhead_target_microseconds: float | None = None

    @property
    def values(self) -> int:
        """The number of pixels' channels, or of parameters, that one call works on."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return what the table needs to know of this case, as plain data for the JSON report."""
        return {
            "id": self.id,
            "title": self.title,
            "values": self.values,
            "bytes_per_value": self.bytes_per_value,
            "copy_share_target": self.copy_share_target,
            "times_plan": self.times_plan,
            "floor": None if self.floor is None else self.floor.title,
            "overhead_target_microseconds": self.overhead_target_microseconds,
            "peers": [
                {"name": peer.name, "title": peer.title, "target": peer.target}
                for peer in self.peers
            ],
        }

    def contenders(self) -> Iterator[tuple[str, str]]:
        """Yield (name, variant) of everything to time, in order."""
        yield OURS, ""
        if self.times_plan:
            yield OURS_WITH_PLAN, ""
        floor = () if self.floor is None else (self.floor,)
        for peer in (*floor, *self.peers):
            if importlib.util.find_spec(peer.package) is not None:
                yield from ((peer.name, variant) for variant in peer.variants)

    def beside(self, contender: str) -> tuple[str, ...]:
        """Return the names of what ``contender`` is compared with."""
        if contender == OURS:
            return () if self.bytes_per_value is None else (COPY,)
        if contender == OURS_WITH_PLAN:
            return ()
        return (OURS, OURS_WITH_PLAN) if self.times_plan else (OURS,)


@dataclass(frozen=True, kw_only=True)
class MixCase(Case):
    """Mixing a batch of ``shape`` (B, C, H, W): mixup, or CutMix.

    ``uint8`` pixels come as (B, H, W, C) and are normalised. The result is of ``dtype``, in the
    images' own memory or else in a buffer that is kept, channels_last where asked.
    """

    shape: tuple[int, int, int, int]
    cutmix: bool = False
    uint8: bool = False
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    in_place: bool = False

    @property
    def values(self) -> int:
        """The number of pixels' channels in a batch."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class PenaltyCase(Case):
    """Adding a penalty's gradient to ``.grad``: L2-SP, or EWC with a Fisher tensor each."""

    model: str
    fisher: bool

    @property
    def values(self) -> int:
        """The number of the model's parameters."""
        return sum(map(math.prod, self.shapes))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the model's parameters."""
        return _parameter_shapes(self.model)


@functools.cache
def _parameter_shapes(model: str) -> tuple[tuple[int, ...], ...]:
    if model == "tiny":
        return ((8, 3, 3, 3), (8,), (10, 8), (10,))
    # Only the shapes are wanted, so nothing is allocated or drawn.
    with torch.device("meta"):
        network = getattr(importlib.import_module("torchvision.models"), model)()
    return tuple(tuple(parameter.shape) for parameter in network.parameters())


def _timm(target: float | None = None, title: str = "timm Mixup, in place") -> Peer:
    return Peer("timm", title, "timm", target)


def _torchvision(target: float | None, title: str) -> Peer:
    return Peer("torchvision", title, "torchvision", target)


def _mixup_peers(targets: Mapping[str, float]) -> tuple[Peer, ...]:
    return (
        _timm(targets.get("timm")),
        _torchvision(targets.get("torchvision"), "torchvision v2 MixUp"),
        Peer("kornia", "kornia RandomMixUpV2", "kornia", targets.get("kornia")),
        Peer("plain", "lam * x + (1 - lam) * x[permutation]", target=targets.get("plain")),
    )


def _pixel_peers(cast: str, targets: Mapping[str, float]) -> tuple[Peer, ...]:
    layouts = ("NHWC view", "NCHW copy")
    return (
        Peer(
            "torchvision",
            f"torchvision v2 ToDtype, Normalize, MixUp{cast}",
            "torchvision",
            targets.get("torchvision"),
            layouts,
        ),
        Peer("timm", f"timm's normalisation, Mixup{cast}", "timm", targets.get("timm"), layouts),
    )


def mix_cases(device: str, quick: bool) -> tuple[MixCase, ...]:
    """Return the cases of ``ops.mix`` on large images, and on a CPU those of small ones."""
    shape = (64 if device == "cpu" else 256, 3, 224, 224)
    cases = _large_mix_cases(device, (4, 3, 32, 32) if quick else shape)
    return (*cases, *_small_mix_cases()) if device == "cpu" else cases


def _large_mix_case(
    device: str,
    shape: tuple[int, int, int, int],
    name: str,
    title: str,
    peers: tuple[Peer, ...],
    bytes_per_value: int | None,
    **kind: Any,
) -> MixCase:
    return MixCase(
        id=name,
        title=title,
        device=device,
        shape=shape,
        peers=peers,
        bytes_per_value=bytes_per_value,
        times_plan=True,
        **kind,
    )


def _large_mix_cases(device: str, shape: tuple[int, int, int, int]) -> tuple[MixCase, ...]:
    on_cpu = device == "cpu"
    mixup = _mixup_peers(
        {"timm": 8, "torchvision": 12, "kornia": 12, "plain": 20} if on_cpu else {}
    )
    cutmix = (
        _torchvision(12 if on_cpu else None, "torchvision v2 CutMix"),
        _timm(title="timm Mixup as CutMix, in place"),
    )
    cutmix_in_place = tuple(Peer(peer.name, peer.title, peer.package) for peer in cutmix)
    to_float32 = _pixel_peers("", {"torchvision": 15} if on_cpu else {})
    to_bfloat16 = _pixel_peers(
        ", cast", {"torchvision": 15} if on_cpu else {"torchvision": 5, "timm": 5}
    )

    size = "×".join(map(str, shape))
    convert = Peer(FLOOR, "the same bytes: Tensor.copy_ of the pixels, in their order")

    case = functools.partial(_large_mix_case, device, shape)
    return (
        case("mixup-in-place", f"mixup, {size} float32, in place", mixup, 8, in_place=True),
        case("mixup", f"mixup, {size} float32, into a kept buffer", mixup, 8),
        case("cutmix", f"CutMix, {size} float32, into a kept buffer", cutmix, 8, cutmix=True),
        case(
            "cutmix-in-place",
            f"CutMix, {size} float32, in place: boxes only",
            cutmix_in_place,
            None,
            cutmix=True,
            in_place=True,
        ),
        case(
            "pixels",
            f"mixup, {size} uint8 to normalised float32",
            to_float32,
            5,
            uint8=True,
            floor=convert,
        ),
        case(
            "pixels-bfloat16",
            f"mixup, {size} uint8 to bfloat16, channels_last",
            to_bfloat16,
            3,
            uint8=True,
            floor=convert,
            dtype=torch.bfloat16,
            channels_last=True,
        ),
    )


def _small_mix_cases() -> tuple[MixCase, ...]:
    reference = (Peer("reference", "the plain-torch reference", target=1),)
    small = tuple(
        MixCase(
            id=f"{'cutmix' if cutmix else 'mixup'}-{size.replace('×', 'x')}",
            title=f"{'CutMix' if cutmix else 'mixup'}, {size} float32",
            device="cpu",
            shape=shape,
            peers=reference,
            bytes_per_value=8,
            copy_share_target=None,
            cutmix=cutmix,
        )
        for size, shape in (("256×1×32×32", (256, 1, 32, 32)), ("128×3×32×32", (128, 3, 32, 32)))
        for cutmix in (False, True)
    )
    overhead = MixCase(
        id="call-overhead",
        title="call overhead: mixup, 1×1×2×2 float32",
        device="cpu",
        shape=(1, 1, 2, 2),
        peers=(Peer("add", "torch.add(x, x, out=y) of the same size"),),
        bytes_per_value=None,
        overhead_target_microseconds=CALL_OVERHEAD_TARGET_MICROSECONDS,
    )
    return (*small, overhead)


def penalty_cases(device: str, quick: bool) -> tuple[PenaltyCase, ...]:
    """Return L2-SP and EWC on the parameters of ResNet-50 and, on a GPU, of two ViTs."""
    models = {"resnet50": "ResNet-50"}
    if device != "cpu":
        models |= {"vit_b_16": "ViT-B/16", "vit_l_16": "ViT-L/16"}
    if quick:
        models = {"tiny": "four small tensors"}
    elif importlib.util.find_spec("torchvision") is None:
        # Their shapes come from there; the table names what is missing.
        models = {}
    loop, foreach, compiled = (18, 6, 3) if device == "cpu" else (10, None, 1.5)
    peers = (
        Peer("loop", "a loop over parameters, through autograd", target=loop),
        Peer("foreach", "torch._foreach", target=foreach, variants=("new buffers", "kept buffers")),
        # Without targets, since nobody named them, but faster than those that have one.
        Peer("scratch", "a loop without autograd, one scratch buffer"),
    )
    # Compiling for ViT-L as well would take minutes.
    compiling: tuple[Peer, ...] = (Peer("compiled", "torch.compile of the loop", target=compiled),)
    if device == "cpu":
        compiling += (Peer("compiled-in-place", "torch.compile of a loop without autograd"),)
    # A CPU reads a line before it writes to it, so each of these moves what the penalty does.
    shapes = ("", "as one tensor")
    floors = {
        False: Peer(FLOOR, "the same bytes: addcmul_", variants=shapes),
        True: Peer(FLOOR, "the same bytes: lerp", variants=shapes),
    }
    return tuple(
        PenaltyCase(
            id=f"{'ewc' if fisher else 'l2sp'}-{model}",
            title=f"{'EWC' if fisher else 'L2-SP'}, value and gradient, {title}",
            device=device,
            peers=peers + compiling if model in _COMPILED_FOR else peers,
            bytes_per_value=20 if fisher else 16,
            floor=floors[fisher] if device == "cpu" else None,
            model=model,
            fisher=fisher,
        )
        for fisher in (False, True)
        for model, title in models.items()
    )

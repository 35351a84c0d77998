"""How a backbone's weights want their images: size, colours, interpolation, normalisation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before the first stage takes it.

    The shorter side is resized to ``resize`` pixels, the middle of ``size`` (height, width) is
    taken, and values in [0, 1] become ``(value - mean) / std``, channel by channel: three are RGB,
    one is grey. Where ``squash``, the image is resized to ``resize`` × ``resize`` whatever its
    shape. Images are stored at ``resize`` × ``resize``: what ``size`` leaves is room for cropping.
    """

    size: tuple[int, int]
    resize: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    squash: bool = False

    def __post_init__(self) -> None:
        """Refuse what no image can be made into; ValueError."""
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                f"mean {self.mean} and std {self.std} are of {len(self.mean)} and {len(self.std)} "
                "channels; expected three (RGB) or one (grey) of both"
            )
        if min(self.size) < 1 or self.resize < max(self.size):
            raise ValueError(
                f"resize is {self.resize} and size {self.size}; expected a size of at least 1 × 1 "
                "that fits in the resized image"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation is {self.interpolation!r}; expected one of "
                f"{', '.join(INTERPOLATIONS)}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; expected numbers above 0")

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for grey."""
        return len(self.mean)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

"""GlyphNet: a small convolutional network for 32×32 grey images, pre-trained on letters."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import nn

from ftbench.backbone import Backbone, BackboneFamily, Model
from ftbench.component import Options
from ftbench.errors import WeightsError
from ftbench.glyphs import CLASSES, SIDE
from ftbench.offers import Offer
from ftbench.preprocessing import Preprocessing

WIDTHS = (16, 32, 64, 128)
STRIDE = 16  # how much smaller than the image the last maps are
SOURCE_CLASSES = 52
WEIGHTS = Path(__file__).with_name("glyphnet.safetensors")
# Of the shipped file; `python -m ftbench.pretrain` prints both for a new one.
WEIGHTS_SHA256 = "82339673df7d35140c718154e1ae2dfe16feb57f1dbc223c8852f40411a0c8da"
SOURCE_ACCURACY = 0.931  # on the 2,000 letters held out


class GlyphNetOptions(Options):
    """Options of ``glyphnet``."""

    weights: str = ""  # path of another safetensors file; empty: the shipped one


class GlyphNet(BackboneFamily[GlyphNetOptions]):
    """Five stages of 3×3 convolutions with batch norm, 294k parameters, 128 features.

    It offers them pooled, or as maps of a sixteenth of the image's side.
    """

    name = "glyphnet"
    version = "1"
    source = "letters"

    def offers(self) -> tuple[Offer, ...]:
        """Return the pooled features, and the maps behind them."""
        return Offer("pooled", (WIDTHS[-1],)), Offer("maps", (WIDTHS[-1],), strides=(STRIDE,))

    def preprocessing(self) -> Preprocessing:
        """Return grey images of 32 × 32 pixels in [0, 1], as the letters were."""
        return Preprocessing((SIDE, SIDE), SIDE, mean=(0.0,), std=(1.0,))

    def source_classes(self) -> tuple[str, ...]:
        """Return the 52 letters."""
        return tuple(CLASSES)

    def build(self, *, pretrained: bool) -> Backbone:
        """Return the five stages and the 52-letter head; WeightsError where the file is damaged."""
        model = _source_model()
        if pretrained:
            if not self.options.weights:
                self.fingerprint()  # raises where the shipped file is damaged
            _load(model, self._path)
        stages = list(zip(model.stage_names, model.stages, strict=True))
        source_head = nn.Sequential(pooling(), model.head) if pretrained else None
        return Backbone(stages, source_head, {"pooled": pooling()})

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights file; WeightsError where it is not usable."""
        found = hashlib.sha256(_read(self._path)).hexdigest()
        if not self.options.weights and found != WEIGHTS_SHA256:
            raise WeightsError(
                f"{WEIGHTS} is damaged: its SHA-256 is {found[:16]}…, expected "
                f"{WEIGHTS_SHA256[:16]}…; reinstall ftbench"
            )
        if self.options.weights:
            _load(_source_model(), self._path)
        return found

    @property
    def _path(self) -> Path:
        return Path(self.options.weights) if self.options.weights else WEIGHTS


def network() -> list[tuple[str, nn.Module]]:
    """Return the five named stages with random weights; (N, 1, 32, 32) gives (N, 128, 2, 2)."""
    first, *wider = WIDTHS
    stages: list[tuple[str, nn.Module]] = [
        ("stem", nn.Sequential(*_convolution(1, first, stride=2))),
        ("block1", nn.Sequential(*_convolution(first, first))),
    ]
    width = first
    for index, wide in enumerate(wider, start=2):
        layers = [*_convolution(width, wide, stride=2), *_convolution(wide, wide)]
        stages.append((f"block{index}", nn.Sequential(*layers)))
        width = wide
    return stages


def pooling() -> nn.Module:
    """Return the mean over places: (N, C, H, W) gives (N, C)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _source_model() -> Model:
    return Model(network(), nn.Linear(WIDTHS[-1], SOURCE_CLASSES), pooling())


def _convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"cannot read the weights {path}: {error.strerror}; remake them with "
            f"python -m ftbench.pretrain --out {path}"
        ) from error


def _load(model: Model, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        model.load_state_dict(load(_read(path)))
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{path} holds no usable glyphnet weights: {error}; "
            "remake them with python -m ftbench.pretrain --out FILE"
        ) from error

"""Every image classifier of timm as a backbone: ``timm/resnet50.a1_in1k``."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ftbench.backbones.image_models import RANDOM, Described, ImageModelFamily, is_file_name
from ftbench.backbones.weights import StateDict, check_name, hub_checkpoints, mismatch
from ftbench.errors import FtbenchError, SpecError, WeightsError, did_you_mean
from ftbench.preprocessing import INTERPOLATIONS, Preprocessing

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class TimmModel(ImageModelFamily):
    """An image classifier of timm by its name, with the weights' tag or without, cut into stages.

    What timm does to weights that it loads is done to a file's as well. Of a model that takes other
    image sizes, position embeddings are resampled.
    """

    name = "timm"
    version = "1"

    def described(self) -> Described:
        """Return preprocessing, classifier and classes of the weights, as timm has them."""
        config = self._config()
        size = (int(config.input_size[1]), int(config.input_size[2]))
        squash = config.crop_mode == "squash"
        resize = max(size) if squash else math.floor(max(size) / config.crop_pct)
        interpolation = config.interpolation
        return Described(
            preprocessing=Preprocessing(
                size=size,
                resize=max(resize, *size),
                mean=tuple(config.mean),
                std=tuple(config.std),
                interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
                squash=squash,
            ),
            classifier=_names(config.classifier),
            outputs=int(config.num_classes),
            classes=_class_names(config),
        )

    def create(self, outputs: int) -> nn.Module:
        """Return the model with random weights; SpecError for a size that it cannot have."""
        return self._created(outputs)

    def load(self, outputs: int, weights: StateDict, path: Path) -> nn.Module:
        """Return the model with these weights; WeightsError where they do not fit."""
        known = self._created(outputs).state_dict()
        heads = {
            f"{name}.{of}" for name in self.described().classifier for of in ("weight", "bias")
        }
        absent = {name: known[name] for name in heads & known.keys() if name not in weights}
        overlay = {"state_dict": {**weights, **absent}, "num_classes": outputs, "label_offset": 0}
        if len(absent) < len(heads & known.keys()):
            del overlay["label_offset"]
        try:
            return self._created(outputs, pretrained=True, pretrained_cfg_overlay=overlay)
        except FtbenchError:
            raise
        # A filter of timm's that does not know these names raises whatever it meets.
        except Exception as error:
            problem = mismatch(known, weights) or str(error).partition("\n")[0]
            raise WeightsError(
                f"{path} does not fit timm/{self.options.model}: {problem}; name the model that "
                "these weights are of"
            ) from error

    def is_undecayed(self, model: nn.Module, name: str) -> bool:
        """Return whether the model's ``no_weight_decay()`` names the parameter, or its end."""
        named = getattr(model, "no_weight_decay", None)
        return named is not None and any(name == n or name.endswith(f".{n}") for n in named())

    def weights_file(self) -> Path:
        """Return the file in the hub's cache or torch.hub's, downloaded where it is missing."""
        config, model = self._config(), self.options.model
        if not (config.hf_hub_id or config.url):
            raise WeightsError(
                f"timm has no weights of '{model}'; name a file, timm/{model}(weights=\"FILE\"), "
                'or weights="random"'
            )
        try:
            path = _from_hub(config) if config.hf_hub_id else _from_url(config)
        except OSError as error:  # the network's, the hub's and the disk's
            reason = str(error).strip().partition("\n")[0]
            raise WeightsError(
                f"the weights of timm/{model} are not here and cannot be downloaded ({reason}); "
                f"timm looks for them as {self.where_weights_lie()}: put the file there, set "
                f'HF_HOME to where they are, or name one: timm/{model}(weights="FILE"), or '
                'weights="random"'
            ) from error
        check_name(path, "it is downloaded again")
        return path

    def where_weights_lie(self) -> str:
        """Return the hub's folder and the file's name, or torch.hub's file."""
        config = self._config()
        if not config.hf_hub_id:
            return str(hub_checkpoints() / str(config.url).rpartition("/")[2])
        from huggingface_hub.constants import HF_HUB_CACHE

        repository = config.hf_hub_id.partition("@")[0].replace("/", "--")
        return f"{HF_HUB_CACHE}/models--{repository}/snapshots/*/{_hub_files(config)[0]}"

    def _created(self, outputs: int, **arguments: Any) -> nn.Module:
        import timm

        model, size = self.options.model, self.options.size
        arguments = {"pretrained": False, "num_classes": outputs, **arguments}
        if size and size != self.described().preprocessing.size[0]:
            try:
                sized: nn.Module = timm.create_model(model, img_size=size, **arguments)
                return sized
            except TypeError:  # it takes any size, and has no argument for it
                pass
            except (ValueError, AssertionError) as error:
                raise SpecError(
                    f"backbone 'timm/{model}' cannot be made for images of {size} pixels: {error}"
                ) from error
        made: nn.Module = timm.create_model(model, **arguments)
        return made

    def _config(self) -> Any:
        weights = self.options.weights
        if weights and weights != RANDOM and not is_file_name(weights):
            raise SpecError(
                f"timm/{self.options.model} has no weights '{weights}'; write a tag after the "
                "model's name, a .pth or .safetensors file, random, or nothing"
            )
        return _config(self.options.model)


@functools.lru_cache(maxsize=256)
def _config(model: str) -> Any:
    """Return timm's configuration of pre-trained weights; SpecError without timm, or the model."""
    try:
        import timm
        from timm.models import get_pretrained_cfg, list_pretrained
    except ImportError as error:
        raise SpecError(
            f"backbone 'timm/{model}' needs timm, which is not installed ({error}): "
            'pip install "ftbench[timm]"'
        ) from error
    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        raise SpecError(
            f"timm has no model '{name}'{did_you_mean(name, timm.list_models())} "
            "(timm.list_models() has them)"
        )
    known = [entry.partition(".")[2] for entry in list_pretrained(f"{name}.*")]
    if tag and tag not in known:
        raise SpecError(
            f"timm/{name} has no weights '{tag}'{did_you_mean(tag, known)}; there are "
            f"{', '.join(known) or 'none'}"
        )
    config = get_pretrained_cfg(model)
    if config is None:
        raise SpecError(f"timm has no configuration of '{model}', so nobody knows its images")
    return config


def _names(classifier: Any) -> tuple[str, ...]:
    return (classifier,) if isinstance(classifier, str) else tuple(classifier or ())


def _class_names(config: Any) -> tuple[str, ...]:
    if config.label_names:
        return tuple(config.label_names)
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(config.to_dict())
    if not subset:
        return ()
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))


def _hub_files(config: Any) -> tuple[str, ...]:
    if not config.hf_hub_filename:
        return _HUB_FILES
    stem = config.hf_hub_filename.removesuffix(".bin")
    safe = stem.replace("open_clip_pytorch_model", "open_clip_model") + ".safetensors"
    return tuple(dict.fromkeys((safe, config.hf_hub_filename)))


def _from_hub(config: Any) -> Path:
    """Return the hub's file: of the cache, or else downloaded; OSError where it cannot be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = config.hf_hub_id.partition("@")
    for path in _cached(config, repository, revision or None):
        return path
    files = _hub_files(config)
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            if file == files[-1]:
                raise
    raise AssertionError("unreachable")


def _cached(config: Any, repository: str, revision: str | None) -> Iterator[Path]:
    from huggingface_hub import try_to_load_from_cache

    for file in _hub_files(config):
        found = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(found, str):
            yield Path(found)


def _from_url(config: Any) -> Path:
    from timm.models._hub import download_cached_file

    return Path(download_cached_file(config.url, check_hash=True, progress=True))

"""Every image classifier of torchvision as a backbone: ``torchvision/resnet50``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from torch import nn

from ftbench.backbones.image_models import Described, ImageModelFamily, is_file_name, on_meta
from ftbench.backbones.weights import StateDict, check_name, hub_checkpoints, load_into
from ftbench.errors import SpecError, WeightsError, did_you_mean
from ftbench.preprocessing import Preprocessing

# Classifiers beside the one that answers help in training alone; the weights were trained on
# images with other channel means, which `transform_input` brings about.
_INCEPTION: dict[str, Any] = {
    "aux_logits": False,
    "transform_input": True,
    "init_weights": False,
}
_ARGUMENTS = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
_UNDECAYED = frozenset({"class_token", "pos_embedding", "relative_position_bias_table"})
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


class TorchvisionModel(ImageModelFamily):
    """An image classifier of torchvision by its name, cut into stages.

    ``weights`` may be a name of torchvision's, such as ``IMAGENET1K_V1``, instead of its default.
    """

    name = "torchvision"
    version = "1"

    def described(self) -> Described:
        """Return preprocessing and classes of the weights; SpecError for an unknown model."""
        weights = self._enumerated()
        transforms = weights.transforms()
        [side], [resize] = transforms.crop_size, transforms.resize_size
        return Described(
            preprocessing=Preprocessing(
                size=(side, side),
                resize=resize,
                mean=tuple(transforms.mean),
                std=tuple(transforms.std),
                interpolation=transforms.interpolation.value,
            ),
            classifier=(_classifier(self.options.model),),
            outputs=len(weights.meta["categories"]),
            classes=tuple(weights.meta["categories"]),
        )

    def create(self, outputs: int) -> nn.Module:
        """Return the model with random weights; SpecError for a size that it cannot have."""
        from torchvision import models

        name = self.options.model
        arguments = dict(_ARGUMENTS.get(name, {}))
        side = self.preprocessing_side()
        if name.startswith("vit"):
            arguments["image_size"] = side
        if name.startswith("maxvit"):
            arguments["input_size"] = (side, side)
        try:
            model: nn.Module = models.get_model(name, num_classes=outputs, **arguments)
        except (
            NotImplementedError
        ):  # a RuntimeError, of the meta device: on_meta() knows what to do
            raise
        except (ValueError, RuntimeError, AssertionError) as error:
            raise SpecError(f"backbone 'torchvision/{name}' at {side} pixels: {error}") from error
        return model

    def preprocessing_side(self) -> int:
        """Return the side of the images in pixels."""
        return self.options.size or int(self._enumerated().transforms().crop_size[0])

    def load(self, outputs: int, weights: StateDict, path: Path) -> nn.Module:
        """Return the model with these weights; WeightsError where they do not fit."""
        model = self.create(outputs)
        load_into(model, without_auxiliary(weights), path)
        return model

    def is_undecayed(self, model: nn.Module, name: str) -> bool:
        """Return whether it is a token or a position's embedding, as in torchvision's recipes."""
        return name.rpartition(".")[2] in _UNDECAYED

    def weights_file(self) -> Path:
        """Return the file in torch.hub's folder, downloaded there where it is missing."""
        weights = self._enumerated()
        path = hub_checkpoints() / str(weights.url).rpartition("/")[2]
        if not path.is_file():
            try:
                weights.get_state_dict(progress=True, check_hash=True)
            except (
                OSError,
                RuntimeError,
            ) as error:  # the network, and a hash that is not the name's
                raise WeightsError(
                    f"the weights {path.name} of torchvision/{self.options.model} are not in "
                    f"{path.parent}, and {weights.url} cannot be downloaded ({error}); put the "
                    "file there, set TORCH_HOME to where hub/checkpoints/ has it, or name a file: "
                    f'torchvision/{self.options.model}(weights="FILE"), or weights="random"'
                ) from error
        check_name(path, "it is downloaded again")
        return path

    def where_weights_lie(self) -> str:
        """Return the file in torch.hub's folder."""
        return str(hub_checkpoints() / str(self._enumerated().url).rpartition("/")[2])

    def _enumerated(self) -> Any:
        """Return torchvision's entry for the weights; for those of a file the default's."""
        from torchvision import models

        name, wanted = self.options.model, self.options.weights
        known = models.list_models(module=models)
        if name not in known:
            raise SpecError(
                f"torchvision has no image classifier '{name}'{did_you_mean(name, known)} "
                "(torchvision.models.list_models() has them)"
            )
        entries = models.get_model_weights(name)
        named = {entry.name: entry for entry in entries}
        if wanted in named:
            return named[wanted]
        if wanted and wanted != "random" and not is_file_name(wanted):
            raise SpecError(
                f"torchvision/{name} has no weights '{wanted}'{did_you_mean(wanted, named)}; there "
                f"are {', '.join(named)}, random, or a .pth or .safetensors file"
            )
        return entries.DEFAULT


@functools.lru_cache(maxsize=256)
def _classifier(model: str) -> str:
    """Return the name of a model's last linear layer, found on the meta device."""
    from torchvision import models

    made = on_meta(lambda: models.get_model(model, **_ARGUMENTS.get(model, {})))
    linear = [name for name, module in made.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise SpecError(
            f"backbone 'torchvision/{model}' cannot be cut into stages: it has no linear layer to "
            "take for its classifier"
        )
    return str(linear[-1])


def without_auxiliary(weights: StateDict) -> StateDict:
    """Return the tensors without those of classifiers that help in training alone."""
    return {n: value for n, value in weights.items() if not n.startswith(_AUXILIARY)}

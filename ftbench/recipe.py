"""The recipe: how any strategy is trained. Everything in it is part of a run's key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ftbench.errors import SpecError, explain


class Settings(BaseModel):
    """Base of what users set: frozen; whatever is wrong is a SpecError with the nearest right key.

    The validation context's ``where`` says where the values come from, the class otherwise, and its
    ``prefix`` which key of another they are.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _say_what_is_wrong(
        cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            where, prefix = where_of(info, cls.__name__), (info.context or {}).get("prefix", "")
            raise SpecError(explain(error, cls.model_fields, where, "key", prefix)) from error


def where_of(info: ValidationInfo, otherwise: str) -> str:
    """Return where the values that are being validated come from."""
    return str((info.context or {}).get("where", otherwise))


RecipePart = Literal["optimizer", "schedule", "augmentation", "mixing", "head"]
PARTS: tuple[RecipePart, ...] = get_args(RecipePart)
"""What of a recipe is written ``name(option=value)``; a list there is a grid."""

LATER = ("class_weights", "precision", "accumulation")
"""Settings that runs of before did not have: at their default they are no part of a run's key."""

MOVED = {
    "momentum": 'optimizer = "sgd(momentum={})"',
    "warmup": 'schedule = "cosine(warmup={})"',
    "head_dropout": 'head = "plain(dropout={})"',
    "mixup_alpha": 'mixing = "mixup(alpha={})"',
    "cutmix_alpha": 'mixing = "cutmix(alpha={})"',
    "mix_probability": 'mixing = "mixup(probability={})"',
    "mix_switch_probability": 'mixing = "mixup-or-cutmix(switch={})"',
}
"""Keys of earlier versions, and how the same is written now."""


class Recipe(Settings):
    """Optimizer, schedule, length, batch, regularisation, mixing and early stopping of a run.

    The five parts are references as text; a sweep over several of them is a grid.
    """

    preset: str | None = Field(
        None,
        description="a recipe by name, whose values hold where no other key says one: guideline, "
        "bit-hyperrule, tllib",
    )
    optimizer: str = Field("adamw", description="what takes the steps, say sgd(momentum=0.9)")
    learning_rate: float = Field(3e-4, gt=0, description="of the backbone's stages, at its peak")
    head_rate_factor: float = Field(3.0, gt=0, description="the head's rate over the backbone's")
    weight_decay: float = Field(
        1e-2, ge=0, description="decoupled for adamw; never on biases and normalisation parameters"
    )
    schedule: str = Field(
        "cosine", description="the learning rate over time, say linear(warmup=0.1)"
    )
    steps: int | None = Field(150, gt=0, description="optimizer steps; or give epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the training rows")
    batch_size: int = Field(64, gt=0, description="rows a step; all of them where there are fewer")
    accumulation: int = Field(
        1,
        gt=0,
        description="parts of a batch, one after the other: less memory, nearly equal steps",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of forward passes in training; prediction is in float32"
    )
    gradient_clip: float | None = Field(None, gt=0, description="largest global gradient norm")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each label spread evenly over the classes"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="in the loss; balanced: rows / (classes × rows of the class)"
    )
    head: str = Field("plain", description="what is put on the features, say plain(dropout=0.2)")
    norm_statistics: Literal["frozen", "update"] = Field(
        "frozen",
        description="running statistics of a pre-trained backbone, of every norm that has some",
    )
    augmentation: str = Field("none", description="other views of the rows, say crop-flip")
    mixing: str = Field("none", description="of a batch's rows, say mixup(alpha=0.2) or cutmix")
    patience: int | None = Field(
        None, gt=0, description="validations without a better loss before stopping; none: off"
    )
    validate_every: int = Field(10, gt=0, description="steps between validations")
    validation_share: float = Field(
        0.2, gt=0, lt=1, description="share of the label budget held back where patience is set"
    )

    @model_validator(mode="before")
    @classmethod
    def _say_where_it_moved(cls, values: Any, info: ValidationInfo) -> Any:
        for name in MOVED.keys() & values.keys() if isinstance(values, Mapping) else ():
            where = where_of(info, cls.__name__)
            now = MOVED[name].format(values[name])
            raise SpecError(f"{where}: the key 'recipe.{name}' is part of another now: {now}")
        return values

    @field_validator(*PARTS, mode="before")
    @classmethod
    def _references(cls, value: Any) -> Any:
        if value is None:  # as `--set recipe.mixing=none` clears it
            return "none"
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return ", ".join(value)
        return value

    @model_validator(mode="before")
    @classmethod
    def _epochs_replace_steps(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("epochs") is not None:
            return {"steps": None, **values}
        return values

    @field_validator("epochs")
    @classmethod
    def _one_length(cls, epochs: float | None, info: ValidationInfo) -> float | None:
        if "steps" in info.data and (info.data["steps"] is None) == (epochs is None):
            raise ValueError("give either steps or epochs, and set the other to none")
        return epochs

    def settings(self) -> dict[str, Any]:
        """Return everything but the parts, as JSON values: what of it a run's key holds."""
        values, later = self.model_dump(mode="json", exclude={"preset"}), later_defaults()
        return {
            name: value
            for name, value in values.items()
            if name not in PARTS and not (name in later and value == later[name])
        }

    def total_steps(self, rows: int) -> int:
        """Return the optimizer steps of a run that trains on ``rows`` rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # the validator holds this
        return max(1, round(self.epochs * rows / min(self.batch_size, rows)))


def later_defaults() -> dict[str, Any]:
    """Return the defaults of the settings that are no part of a run's key at their default."""
    return {name: Recipe.model_fields[name].default for name in LATER}

"""The recipe: how any strategy is trained. Everything in it is part of a run's key."""

from __future__ import annotations

from typing import Any, Literal, Self

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


class Recipe(Settings):
    """Optimizer, schedule, length, batch, regularisation, mixing and early stopping of a run."""

    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw, or sgd with momentum")
    learning_rate: float = Field(3e-4, gt=0, description="of the backbone's stages, at its peak")
    head_rate_factor: float = Field(3.0, gt=0, description="the head's rate over the backbone's")
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum; read by sgd alone")
    weight_decay: float = Field(
        1e-2, ge=0, description="decoupled for adamw; never on biases and normalisation parameters"
    )
    schedule: Literal["constant", "cosine", "linear"] = Field(
        "cosine", description="constant, or cosine or linear decay to zero"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps that warm up linearly")
    steps: int | None = Field(150, gt=0, description="optimizer steps; or give epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the training rows")
    batch_size: int = Field(64, gt=0, description="rows a step; all of them where there are fewer")
    gradient_clip: float | None = Field(None, gt=0, description="largest global gradient norm")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each label spread evenly over the classes"
    )
    head_dropout: float = Field(0.0, ge=0, lt=1, description="dropout in front of the head")
    norm_statistics: Literal["frozen", "update"] = Field(
        "frozen",
        description="running statistics of a pre-trained backbone, of every norm that has some",
    )
    mixup_alpha: float = Field(0.0, ge=0, description="Beta(α, α) of mixup; 0 turns it off")
    cutmix_alpha: float = Field(0.0, ge=0, description="Beta(α, α) of CutMix; 0 turns it off")
    mix_probability: float = Field(1.0, ge=0, le=1, description="share of batches that are mixed")
    mix_switch_probability: float = Field(
        0.5, ge=0, le=1, description="share of CutMix among mixed batches where both are on"
    )
    patience: int | None = Field(
        None, gt=0, description="validations without a better loss before stopping; none: off"
    )
    validate_every: int = Field(10, gt=0, description="steps between validations")
    validation_share: float = Field(
        0.2, gt=0, lt=1, description="share of the label budget held back where patience is set"
    )

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

    @property
    def mixes(self) -> bool:
        """Whether any batch may be mixed."""
        return self.mix_probability > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)

    def total_steps(self, rows: int) -> int:
        """Return the optimizer steps of a run that trains on ``rows`` rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # the validator holds this
        return max(1, round(self.epochs * rows / min(self.batch_size, rows)))

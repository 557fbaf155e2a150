"""The recipe's section `optim`: the optimizer, its schedule, and the batch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from bt_plugin.config.section import Positive, Rate, Section

# Keys that only some optimizers or schedules take, by the key that chooses.
_TAKEN: dict[str, dict[str, tuple[str, ...]]] = {
    "name": {
        "lars": ("lr_weights", "lr_biases", "momentum", "eta"),
        "adamw": ("lr", "betas", "layer_decay", "patch_embed_lr_scale", "clip_grad_norm"),
        "sgd": ("lr", "momentum", "layer_decay", "patch_embed_lr_scale", "clip_grad_norm"),
    },
    "schedule": {"cosine": (), "wsd": ("decay_share",)},
}
# Defaults that differ from those of LARS. AdamW: He et al. 2021, Masked Autoencoders Are Scalable Vision Learners,
# table 8. SGD: Chen & He 2020, Exploring Simple Siamese Representation Learning, section 3.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 1.5e-4, "weight_decay": 0.05},
    "sgd": {"lr": 0.05, "weight_decay": 1e-4},
}


class Optim(Section):
    """The [optimizer](optimizers.md), its schedule, and the batch.

    A key that the optimizer or the schedule does not take must have its default, or be left out.
    """

    name: Literal["lars", "adamw", "sgd"] = "lars"
    """Optimizer: LARS of the official code, or AdamW or SGD of torch."""
    epochs: Annotated[int, Field(ge=1, le=10**6)] = 1000
    """Number of training epochs. With `optim.schedule=wsd` it may change when the run resumes."""
    warmup_epochs: Annotated[float, Field(ge=0, le=10**6)] = 10.0
    """Epochs of linear warm-up, fewer than `optim.epochs`."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Learning rates after the warm-up. `cosine`: they fall as a cosine. `wsd` (warm-up, stable, decay): they stay at
    their peak, and fall in the last part of the run. Such a run can be extended later."""
    decay_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of all steps in which the rates fall. Only with `optim.schedule=wsd`."""
    final_lr_scale: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Learning rates at the end of the schedule, as a fraction of their peak."""
    global_batch_size: Annotated[int, Field(ge=2, le=2**24)] = 2048
    """Images per step, over all ranks."""
    accumulation_steps: Positive = 1
    """Micro-batches that a rank embeds one after the other in each step, to save memory. The gradient is exactly that
    of the whole global batch."""
    lr: Rate | None = None
    """Base learning rate of AdamW or SGD. It is multiplied by `optim.global_batch_size` / 256. `null`: 1.5e-4 for
    `adamw`, 0.05 for `sgd`."""
    lr_weights: Rate = 0.2
    """Base learning rate of the weights with LARS. It is multiplied by `optim.global_batch_size` / 256."""
    lr_biases: Rate = 0.0003
    """Base learning rate of biases and normalization layers with LARS. It is multiplied by `optim.global_batch_size` /
    256."""
    weight_decay: Rate = 1.6e-5
    """Weight decay of the weights. Biases and normalization layers have none. With AdamW and SGD, position embeddings
    and tokens have none either. The default of `adamw` is 0.05, that of `sgd` is 1e-4."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of LARS or SGD."""
    eta: Rate = 0.001
    """Trust coefficient of LARS."""
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.95]
    """Decay rates of AdamW's two averages: of the gradient, and of its square."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from one layer of the backbone to the layer below it, with AdamW or SGD. The
    projector has the whole rate. 1: all layers have it."""
    patch_embed_lr_scale: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Factor of the learning rate of a vision transformer's patch embedding, with AdamW or SGD."""
    clip_grad_norm: Annotated[float, Field(gt=0, le=1e38)] | None = None
    """Largest norm of the gradient of all weights together, with AdamW or SGD. A longer gradient is scaled down.
    `null`: no limit."""

    @model_validator(mode="before")
    @classmethod
    def _with_the_optimizer_s_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        name = given.get("name")
        chosen = {key: value for key, value in given.items() if key != "lr" or value is not None}
        return {**(_DEFAULTS.get(name, {}) if isinstance(name, str) else {}), **chosen}

    @model_validator(mode="after")
    def _takes_its_keys(self) -> Optim:
        for key, (choice, taken) in self._untaken().items():
            value, default = getattr(self, key), Optim.model_fields[key].default
            if value != default:
                instead = f", which takes {', '.join(taken)}" if taken else ""
                raise ValueError(
                    f"{key}={value} is not allowed with {choice}{instead}; remove {key}, or set it to its default,"
                    f" {'null' if default is None else default}"
                )
        return self

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Optim:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be less than epochs ({self.epochs})")
        stable = self.epochs * (1 - self.decay_share)
        if self.schedule == "wsd" and self.warmup_epochs > stable:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs:g}) must be at most {stable:g}, because the decay begins there"
                f" (decay_share={self.decay_share:g} of {self.epochs} epochs)"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_untaken(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        untaken = self._untaken()
        return {key: value for key, value in plain(self).items() if key not in untaken}

    def _untaken(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Return each key that does not apply, with the choice that does not take it, and what that takes."""
        found = {}
        for key, taken in _TAKEN.items():
            choice = getattr(self, key)
            for other in sum(taken.values(), ()):
                if other not in taken[choice]:
                    found[other] = (f"{key}={choice}", taken[choice])
        return found

    @property
    def rate_keys(self) -> str:
        """Names of the keys of the base learning rates, for messages."""
        return "optim.lr_weights and optim.lr_biases" if self.name == "lars" else "optim.lr"

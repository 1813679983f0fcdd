"""Floor 5. The settings of optimizer and learning rate, and what is made of them.

Options that only some optimizers or schedules have are None until `resolved` fills in those that belong to the chosen
ones; it refuses the others.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import tyro

from nanograd.optim import SGD, Adafactor, Adam, AdamW, Averaged, FlatParameters, Lion, Muon, Optimizer, learning_rate
from nanograd.optim.schedule import Name as ScheduleName
from nanograd.optim.schedule import Shape

CountOrZero = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
AtLeast0 = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]
OptimizerName = Literal["adamw", "adam", "sgd", "lion", "adafactor", "muon"]


class OptimConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The optimizer, its schedule and its guard rails."""

    optimizer: Annotated[OptimizerName, tyro.conf.arg(aliases=["--optim.name"])] = "adamw"
    """what turns gradients into steps; muon moves the blocks' matrices and leaves the rest to adamw"""
    lr: Positive = 1e-3
    """peak learning rate, reached after the warm-up; the presets' suit adamw, adam and muon: lion wants a tenth"""
    muon_lr: Positive | None = None
    """muon: peak learning rate of the blocks' matrices (None: lr)"""
    schedule: Annotated[ScheduleName, tyro.conf.arg(aliases=["--schedule.name"])] = "cosine"
    """what the learning rate does after the warm-up; wsd is constant, and falls in the end"""
    min_lr_ratio: Ratio | None = None
    """cosine, linear, wsd, inverse-sqrt: the share of lr that the rate does not fall below (None: 0.1 for cosine, 0)"""
    decay_share: Ratio | None = None
    """wsd: share of all steps in which the rate falls (None: 0.2)"""
    decay_shape: Shape | None = None
    """wsd: how it falls (None: linear)"""
    warmup_steps: CountOrZero = 50
    """steps of linear warm-up"""
    beta1: Share | None = None
    """adamw, adam, lion, muon: decay of the running mean of gradients (None: 0.9)"""
    beta2: Share | None = None
    """adamw, adam, muon: decay of the running mean of squared gradients (None: 0.95, adam 0.999); lion: 0.99"""
    eps: Positive | None = None
    """adamw, adam, muon: keeps the division by the root of that mean finite (None: 1e-8)"""
    momentum: Share | None = None
    """sgd, muon: decay of the sum of gradients (None: 0.9, muon 0.95)"""
    nesterov: bool | None = None
    """sgd, muon: look ahead along the momentum (None: False, muon True)"""
    decay_power: Positive | None = None
    """adafactor: its second moments decay by 1 − 1/step to this power (None: 0.8)"""
    update_clip: Positive | None = None
    """adafactor: longest update, as root mean square (None: 1)"""
    relative_step: bool | None = None
    """adafactor: steps in proportion to the weights, at most 1/√step (None: False)"""
    weight_decay: AtLeast0 | None = None
    """all but adam: decoupled decay of matrices; biases and norms never decay (None: 0.1, sgd and adafactor 0)"""
    ema_decay: Share = 0.0
    """running mean of the weights: evaluated, sampled and in model.safetensors (0: none; 0.99: of some 100 steps)"""
    fuse_optimizer: bool = False
    """step each parameter inside backward and free its gradient at once: less memory; needs --clip-norm 0"""
    clip_norm: AtLeast0 = 1.0
    """longest gradient, as a norm over all parameters (0: no limit)"""
    max_bad_steps: Annotated[int, msgspec.Meta(ge=1, lt=2**31)] = 5
    """steps in a row whose loss or gradient is infinite or NaN before training stops; until then they are skipped"""
    skip_spikes: bool = False
    """skip a step whose loss or gradient is more than 6 standard deviations above the mean of the last 128 steps"""
    label_smoothing: Share = 0.0
    """share of each target spread over the whole vocabulary"""
    z_loss: AtLeast0 = 0.0
    """weight of the squared log-partition function in the loss"""

    def resolved(self, *, accumulate: int) -> "OptimConfig":
        """The same settings with every option that belongs to optimizer and schedule filled in.

        Raises ValueError for an option of another one, and where fuse_optimizer meets clipping, accumulation or
        skip_spikes.
        """
        values = {}
        for choice, name, options in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            belonging: dict[str, Any] = options[name]
            for option in {option for other in options.values() for option in other}:
                given = getattr(self, option)
                if given is not None and option not in belonging:
                    raise ValueError(_not_an_option(option, given, choice, name, options))
                values[option] = belonging.get(option) if given is None else given
        if self.optimizer == "muon" and self.muon_lr is None:
            values["muon_lr"] = self.lr
        if self.fuse_optimizer and self.clip_norm:
            raise ValueError("--fuse-optimizer can't clip by the norm of all gradients: give --clip-norm 0")
        if self.fuse_optimizer and accumulate > 1:
            raise ValueError("--fuse-optimizer can't add up gradients: give --accumulate 1 and a larger --batch-size")
        if self.fuse_optimizer and self.skip_spikes:
            raise ValueError("--skip-spikes needs the whole gradient before the step: give --no-fuse-optimizer")
        return msgspec.structs.replace(self, **values)


_ADAM = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {**_ADAM, "weight_decay": 0.1},
    "adam": {**_ADAM, "beta2": 0.999},
    "sgd": {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
    "lion": {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1},
    "adafactor": {"decay_power": 0.8, "update_clip": 1.0, "relative_step": False, "weight_decay": 0.0},
    "muon": {"muon_lr": None, "momentum": 0.95, "nesterov": True, "weight_decay": 0.1, **_ADAM},
}
"""The options of each optimizer with their defaults."""

SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {"min_lr_ratio": 0.1},
    "linear": {"min_lr_ratio": 0.0},
    "constant": {},
    "inverse-sqrt": {"min_lr_ratio": 0.0},
    "wsd": {"min_lr_ratio": 0.0, "decay_share": 0.2, "decay_shape": "linear"},
}
"""The options of each schedule with their defaults."""


def make_optimizer(
    config: OptimConfig, flat: FlatParameters, hidden: Mapping[str, tuple[int, ...]] | None = None
) -> Optimizer:
    """The optimizer that resolved settings name, with its mean of the weights if they ask for one.

    hidden  for muon: see there; parameters that `flat` does not hold (frozen ones) are left out
    """
    optimizer = _bare_optimizer(config, flat, hidden or {})
    return Averaged(optimizer, decay=config.ema_decay) if config.ema_decay else optimizer


def _bare_optimizer(c: OptimConfig, flat: FlatParameters, hidden: Mapping[str, tuple[int, ...]]) -> Optimizer:
    options: dict[str, Any] = {name: getattr(c, name) for name in OPTIMIZERS[c.optimizer]}
    if "beta1" in options:
        options["betas"] = options.pop("beta1"), options.pop("beta2")
    if c.optimizer == "muon":
        ours = {name: rows for name, rows in hidden.items() if name in flat.named}
        return Muon(flat, hidden=ours, lr_ratio=options.pop("muon_lr") / c.lr, **options)
    kinds: dict[str, type[Optimizer]] = {"adamw": AdamW, "adam": Adam, "sgd": SGD, "lion": Lion, "adafactor": Adafactor}
    return kinds[c.optimizer](flat, **options)


def learning_rate_of(config: OptimConfig, step: int, total_steps: int) -> float:
    """The learning rate of update `step` (from 0) by resolved settings: muon's matrices get muon_lr / lr times that."""
    settings: dict[str, Any] = {name: getattr(config, name) for name in SCHEDULES[config.schedule]}
    if "min_lr_ratio" in settings:
        settings["min_ratio"] = settings.pop("min_lr_ratio")
    if config.schedule not in ("constant", "inverse-sqrt"):
        settings["total_steps"] = total_steps
    return learning_rate(config.schedule, step, peak=config.lr, warmup_steps=config.warmup_steps, **settings)


def _not_an_option(option: str, given: Any, choice: str, name: str, options: Mapping[str, Mapping[str, Any]]) -> str:
    owners = ", ".join(other for other, theirs in options.items() if option in theirs)
    flag = "--" + option.replace("_", "-")
    return f"{flag} {given} is no option of the {choice} {name}, but of {owners}; {flag} None takes back a preset's"

"""Options of training: the loop, stages, optimizer, curvature, cache and loggers; without torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, TypeVar

from sam3_hyperet.choices import AUTO, CURVATURE_BOUNDS, PRECISIONS
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, check_fields, number
from sam3_hyperet.training.choice import LOSS, Rule
from sam3_hyperet.wording import count_of

F = TypeVar("F", bound="FitOptions")
STAGES = (1, 2, 3)
_STEPS = 300
KEY_LAYERS = (r"transformer\.decoder\.", r"dot_prod_scoring\.", r"segmentation_head\.")
SCHEDULES = ("constant", "linear", "cosine", "dynamic")
CACHE_DTYPES = ("float32", "bfloat16")
FSDP = "fsdp"
MEMORY = ("auto", "off")

_LOW, _HIGH = CURVATURE_BOUNDS
_Curvature = Annotated[float, number(lambda c: _LOW < c < _HIGH, f"a curvature between {_LOW:g} and {_HIGH:g}")]
_Factor = Annotated[float, number(lambda value: 1 < value < math.inf, "a number above 1")]
_Fraction = Annotated[float, number(lambda value: 0 <= value < 1, "a fraction from 0 to below 1")]
_Ratio = Annotated[float, number(lambda value: 0 < value <= 1, "above 0, to 1")]


def _is_warmup(value: float) -> bool:
    return 0 <= value < 1 or (value < math.inf and value == int(value) >= 1)


@dataclass(frozen=True)
class TrainOptions:
    """Options of the loop.

    Attributes:
        max_steps: optimizer steps; 300 where `epochs` is not given either.
        epochs: or how often each training image of `data` is seen, on average: as many steps as that takes.
        batch_size: images per process and forward pass; a step sees batch_size · accumulate · processes of them.
        accumulate: forward and backward passes of a step. The step is that of one batch of all its images, up to
            rounding, however they are spread over passes and processes, where nothing is drawn at random: dropout
            and drop path (0 in the tiny model, 0.1 in the large one), `loss.query=random` and
            `loss.prune_probability` draw anew in every process. See `GroundingLoss` for the contrastive loss.
        memory: "auto" chooses `prompts_at_once` and `checkpoint_activations`, where they are null, by a forecast of the
            step's memory, and repeats a step that runs out of memory all the same with less of it; "off" does neither.
            null: auto on CUDA, off elsewhere.
        memory_gb: of the device, in 10⁹ bytes; null: what the card has.
        prompts_at_once: of one image in a pass, so that memory does not grow with images and prompts; the step stays
            the same, as above, but with `loss.alignment`. 0, or null where memory is off: all of a batch.
        workers: loader processes; None on a GPU as many as the machine has cores and memory for, 8 at most, and 0 on
            the CPU, whose cores the model uses.
        clip_norm: gradients are scaled down to this norm; null: 0.1, SAM 3's, where the base trains, 1 in stage 1.
        log_every: steps between two logged lines.
        validate_every: steps between two validations on the tuning images, of which there is one before the first step
            and one after the last, too; 0 for none (best = last).
        validate_images: so many tuning images, evenly spread, are scored as in the evaluation then: AP, mIoU, presence,
            and what is lost against the base; 0 for the loss alone, which is that of all tuning images.
        best: which step's weights are kept: "loss", the lowest of the matched queries; a metric, such as "segm/AP"; or
            a rule, such as "max group/segm/AP where object/segm/AP >= base-0.02", where "base" is the metric without
            adapters. If no step fulfils the conditions, the one nearest to them is kept, and that is said. The default
            is the loss, for it is there for all data, and the AP of few images moves by chance.
        patience: the run ends, as after its last step, when so many validations in a row find no better step; 0 for
            never. The learning rates follow `max_steps` all the same, and have then not come to their end.
        ema: decay, such as .99, of the moving average of what trains, which is then validated and saved in its place;
            0 for none. The average begins faster: its decay at step t is at most (1 + t) / (10 + t).
        save_every: steps between two saved states; 0 for none.
        max_bad_steps: consecutive steps with a non-finite loss or gradient after which the run ends.
        precision: "32-true", "tf32" or "bf16-mixed"; "auto" is bf16-mixed on a CUDA device that has it, else 32-true.
            float16 is none of them: it would need a scaled loss.
        accelerator: Fabric's: "auto", "cpu" or "cuda".
        devices: of a node, each driven by a process.
        nodes: machines, with so many devices each.
        strategy: Fabric's, or "fsdp", which shards parameters, gradients and optimizer state in stage 3. "auto" is with
            several processes "ddp" in stage 1, else "ddp_find_unused_parameters_true", for what gets no gradient at a
            step.
        threads: of PyTorch, per process; 0 leaves its choice.
        checkpoint_activations: recompute activations in the backward pass: less memory, more time. null where memory is
            off: false.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"tune_every": "validate_every"}
    ALTERNATIVES: ClassVar[Mapping[str, str]] = {"max_steps": "epochs", "epochs": "max_steps"}

    max_steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    batch_size: PositiveInt = 4
    accumulate: PositiveInt = 1
    memory: Annotated[str, MEMORY] | None = None
    memory_gb: PositiveFloat | None = None
    prompts_at_once: NonNegativeInt | None = None
    workers: NonNegativeInt | None = None
    clip_norm: PositiveFloat | None = None
    log_every: PositiveInt = 10
    validate_every: NonNegativeInt = 0
    validate_images: NonNegativeInt = 32
    best: str = LOSS
    patience: NonNegativeInt = 0
    ema: _Fraction = 0.0
    save_every: NonNegativeInt = 0
    max_bad_steps: PositiveInt = 20
    precision: Annotated[str, PRECISIONS] = AUTO
    accelerator: str = "auto"
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    strategy: str = "auto"
    threads: NonNegativeInt = 0
    checkpoint_activations: bool | None = None

    def __post_init__(self) -> None:
        if vars(self)["memory"] is False:  # as YAML reads off
            object.__setattr__(self, "memory", "off")
        check_fields(self, "train")
        if self.max_steps is None and self.epochs is None:
            object.__setattr__(self, "max_steps", _STEPS)
        rule = Rule.parse(self.best)
        if not self.validate_every:
            without = {"best": LOSS, "patience": 0}
            if given := [name for name, value in without.items() if getattr(self, name) != value]:
                found = " and ".join(f"train.{name}={getattr(self, name)}" for name in given)
                remedy = " ".join(f"train.{name}={without[name]}" for name in given)
                need = f"{found} (of the experiment, where you did not give it) needs validation"
                raise ConfigError(f"train.validate_every=0, but {need}; add {remedy}, or validate")
        elif not self.validate_images and (names := [name for name in rule.metrics if name != LOSS]):
            expected = "which train.validate_images=0 never measures; expected a number of images from 1"
            raise ConfigError(f"train.best names {names[0]}, {expected}")

    def check_length(self) -> None:
        """Raise a ConfigError where a user gives the length of a run twice; a run that has begun knows both."""
        if self.epochs is not None and self.max_steps is not None:
            found = f"train.epochs={self.epochs:g} and train.max_steps={self.max_steps} both say how long the run is"
            raise ConfigError(f"{found}; expected one of them")

    def memory_is_auto(self, device: str) -> bool:
        """Whether `memory` is auto on a type of device; where it is null, it is on CUDA."""
        return (self.memory or ("auto" if device == "cuda" else "off")) == "auto"

    @property
    def images_a_step(self) -> int:
        """How many images all processes see together in a step."""
        return self.batch_size * self.accumulate * self.devices * self.nodes

    @property
    def length(self) -> str:
        """How long the run is, in words; `max_steps` must be known."""
        epochs = "" if self.epochs is None else f" (train.epochs={self.epochs:g})"
        return f"{count_of(self.max_steps or 0, 'step')} of {count_of(self.images_a_step, 'image')}{epochs}"

    @property
    def scored_images(self) -> int:
        """How many tuning images a validation scores."""
        return self.validate_images if self.validate_every else 0


@dataclass(frozen=True)
class StageOptions:
    """Which parameters train, and from when on more of them do.

    Attributes:
        number: the stage, or the first one of a schedule.
        layers: the key layers of stage 2.
        boundaries: where each next stage begins: steps, or fractions of the run below 1. Empty for one stage.
        plateau: or the next stage begins after this many measurements on the tuning images without a lower loss; 0 for
            `boundaries`.
    """

    number: int = 1
    layers: tuple[str, ...] = KEY_LAYERS
    boundaries: tuple[float, ...] = ()
    plateau: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.number not in STAGES:
            raise ConfigError(f"stage.number={self.number!r}; expected 1, 2 or 3")
        check_fields(self, "stage")
        if self.plateau and self.boundaries:
            raise ConfigError("stage.boundaries and stage.plateau both set when the next stage begins; set one of them")
        if self.plateau and self.number == STAGES[-1]:
            raise ConfigError("stage.plateau: stage 3 is the last; expected stage.number=1 or 2")
        if self.layers != KEY_LAYERS and not self.number <= 2 <= self.last:
            raise ConfigError(f"stage.layers={list(self.layers)} is for stage 2; expected stage=2 or stage=schedule")
        if self.last > STAGES[-1]:
            more = f"from stage {self.number} there are only {STAGES[-1] - self.number} more"
            raise ConfigError(f"stage.boundaries={list(self.boundaries)}: {more}")

    @property
    def last(self) -> int:
        """The highest stage that the run may come to."""
        return STAGES[-1] if self.plateau else self.number + len(self.boundaries)

    def steps(self, max_steps: int) -> list[int]:
        """The step after which each next stage begins. Raises ConfigError unless they rise within the run."""
        steps = [round(b * max_steps) if b < 1 else int(b) for b in self.boundaries]
        ends = [0, *steps, max_steps]
        if ends != sorted(set(ends)) or any(b >= 1 and b != int(b) for b in self.boundaries):
            expected = f"rising steps below train.max_steps={max_steps}, or fractions of it below 1"
            raise ConfigError(f"stage.boundaries={list(self.boundaries)}; expected {expected}")
        return steps


@dataclass(frozen=True)
class OptimizerOptions:
    """Options of AdamW and of the learning rates' course; of the base, as in SAM 3's published fine-tuning recipe.

    Attributes:
        lr: highest learning rate of the adapters.
        base_lr: of the base's decoder, fusion encoder, scoring and mask head, in the stages that train them.
        vision_lr: of the base's image trunk and its pyramid.
        text_lr: of the base's text encoder.
        trunk_decay: factor of `vision_lr` from each block of the trunk to the one below, and once for the last block.
        betas: decay rates of AdamW's two moving averages.
        weight_decay: of the adapters, decoupled from the gradient; never of scalars, curvatures, biases and norms.
        base_weight_decay: of the base; never of biases and norms.
        warmup: over which a group's rate rises linearly from where it begins to train: below 1 a fraction of the steps
            that are then left, from 1 a number of steps. 0.05 of 1,000 steps are the 50 that AdamW's second moment
            averages over.
        final_lr_ratio: what is left of a rate at the last step.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"warmup_steps": "warmup"}

    lr: PositiveFloat = 3e-3
    base_lr: PositiveFloat = 8e-5
    vision_lr: PositiveFloat = 2.5e-5
    text_lr: PositiveFloat = 5e-6
    trunk_decay: _Ratio = 0.9
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: NonNegativeFloat = 0.0
    base_weight_decay: NonNegativeFloat = 0.1
    warmup: Annotated[float, number(_is_warmup, "a fraction below 1, or a number of steps")] = 0.05
    final_lr_ratio: float = 0.02

    def __post_init__(self) -> None:
        check_fields(self, "optim")

    def warmup_steps(self, left: int) -> int:
        """Steps of the warm-up of a group that begins to train with so many steps `left`."""
        return round(self.warmup * left) if self.warmup < 1 else int(self.warmup)


@dataclass(frozen=True)
class RadiusOptions:
    """How the curvature moves.

    Attributes:
        schedule: "constant"; "linear" or "cosine" in the step, from `hyperet.curvature` to `target`; or "dynamic".
        target: c after the last step, for "linear" and "cosine".
        factor: > 1, by which "dynamic" moves c.
        patience: steps without improvement before "dynamic" moves c.
        tolerance: improvement of the smoothed loss, relative to its best, that counts as one.
        smoothing: weight of the past in the loss's exponential moving average.
        minimum, maximum: of c, for "dynamic".
    """

    schedule: Annotated[str, SCHEDULES] = "constant"
    target: _Curvature | None = None
    factor: _Factor = 1.5
    patience: PositiveInt = 20
    tolerance: _Fraction = 0.01
    smoothing: _Fraction = 0.9
    minimum: _Curvature = 1e-4
    maximum: _Curvature = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "radius")
        if self.schedule in ("linear", "cosine") and self.target is None:
            raise ConfigError(f"radius.target is missing; schedule {self.schedule} needs the curvature to end at")
        if not self.minimum < self.maximum:
            raise ConfigError(f"radius.minimum={self.minimum}; expected less than radius.maximum={self.maximum}")


@dataclass(frozen=True)
class CacheOptions:
    """Options of the feature cache.

    Attributes:
        folder: where the features are kept; None for no cache. Other runs of the same base share them.
        dtype: "float32", or "bfloat16" at half the size, rounded.
    """

    folder: str | None = None
    dtype: Annotated[str, CACHE_DTYPES] = "float32"

    def __post_init__(self) -> None:
        check_fields(self, "cache")


@dataclass(frozen=True)
class LoggerOptions:
    """Where the values of a step go besides metrics.jsonl.

    Attributes:
        tensorboard: event files in the run's folder.
        wandb: a project at Weights & Biases; wandb's own variables apply, such as WANDB_MODE=offline.
    """

    tensorboard: bool = True
    wandb: str | None = None

    def __post_init__(self) -> None:
        if self.wandb:
            try:
                import wandb  # noqa: F401
            except ImportError as error:
                remedy = "expected the package: pip install sam3_hyperet[wandb]"
                raise ConfigError(f"logger.wandb={self.wandb}: {error}; {remedy}") from error


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """All options of the loop.

    Attributes:
        logger: which trackers get the values of a step; None for none.
    """

    train: TrainOptions
    optim: OptimizerOptions = field(default_factory=OptimizerOptions)
    stage: StageOptions = field(default_factory=StageOptions)
    radius: RadiusOptions = field(default_factory=RadiusOptions)
    logger: LoggerOptions | None = None

    def __post_init__(self) -> None:
        if self.train.max_steps is not None:  # else it is known once the data is opened
            self._check_steps(self.train.max_steps)
        if self.stage.plateau and not self.train.validate_every:
            waits = f"stage.plateau={self.stage.plateau} waits for losses on the tuning images"
            remedy = "expected train.validate_every from 1, or stage.boundaries"
            raise ConfigError(f"{waits}, which train.validate_every=0 never measures; {remedy}")

    @property
    def clip_norm(self) -> float:
        """The gradient's largest norm, the same in all stages of a run."""
        given = self.train.clip_norm
        return given if given is not None else 0.1 if self.stage.last > 1 else 1.0

    def of_images(self: F, images: float) -> F:
        """The same with `train.max_steps` that follow from `train.epochs` of so many images. Raises ConfigError."""
        train = self.train
        if train.epochs is None or train.max_steps is not None:
            return self
        steps = math.ceil(train.epochs * images / train.images_a_step)
        return replace(self, train=replace(train, max_steps=steps))

    def _check_steps(self, max_steps: int) -> None:
        self.stage.steps(max_steps)
        if self.optim.warmup > max_steps:
            expected = f"expected a fraction below 1, or steps up to train.max_steps={max_steps}"
            raise ConfigError(f"optim.warmup={self.optim.warmup:g}; {expected}")

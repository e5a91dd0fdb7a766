"""What options a command line has: the sections with their dataclasses, and the checks of keys outside them."""

from pathlib import Path
from typing import Annotated, Any

from sam3_hyperet.choices import AUTO, DEMO_DIAL, MAX_DIAL, PRECISIONS, RADIUS_SCALES, SMALLEST_OVERLAY
from sam3_hyperet.data.options import EXIF, DataOptions, KeptOptions, RehearsalOptions
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.options import Condition, NonNegativeInt, PositiveFloat, PositiveInt, Probability, Switch, check_value
from sam3_hyperet.training import options as training

SECTIONS: dict[str, type] = {
    "model": ModelOptions,
    "hyperet": HyperETConfig,
    "stage": training.StageOptions,
    "data": DataOptions,
    "rehearsal": RehearsalOptions,
    "kept": KeptOptions,
    "loss": LossOptions,
    "optim": training.OptimizerOptions,
    "radius": training.RadiusOptions,
    "train": training.TrainOptions,
    "cache": training.CacheOptions,
    "logger": training.LoggerOptions,
    "protocol": Protocol,
    "launcher": SlurmOptions,
}
MORE_DATA = "more_data"
"""The key of the data sets that a run trains on beside `data`, each a section of the same options."""


def _is_folder_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not Path(value).expanduser().is_file()


def _is_dial(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_DIAL


def _is_demo_dial(value: object) -> bool:
    return _is_dial(value) and float(str(value)) <= DEMO_DIAL


def _are_dials(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_dial, value))


def _are_sides(value: object) -> bool:
    sides = value if isinstance(value, list) and value else [value]
    return all(type(side) is int and side >= 1 for side in sides)


def _is_drawn_side(value: object) -> bool:
    return type(value) is int and (value == 0 or value >= SMALLEST_OVERLAY)


_DIAL = f"a number from 0, the base, over 1, the adapter, to {MAX_DIAL:g}"
_DEVICES = ("auto", "cpu", "cuda", "gpu")  # as train.accelerator has them

_KEYS: dict[str, Any] = {  # with a condition on their values
    "run_dir": Annotated[str, Condition(_is_folder_name, "a folder to write to")],
    "seed": NonNegativeInt,
    "threads": NonNegativeInt,
    "prompts_at_once": NonNegativeInt,
    "precision": Annotated[str, PRECISIONS],
    "workers": PositiveInt,
    "devices": PositiveInt,
    "nodes": PositiveInt,
    "score_threshold": Probability,
    "mask_threshold": Probability,
    "max_dets": PositiveInt | None,
    "max_megapixels": PositiveFloat,
    "evaluate": Switch,
    "compare": Switch,
    "overlays": Switch,
    "base_beside": Switch | None,
    "overlay_side": Annotated[int, Condition(_is_drawn_side, f"0, or pixels from {SMALLEST_OVERLAY}")],
    "masks": Switch,
    "exif": Annotated[str, Condition(lambda v: v in EXIF, f"one of {', '.join(EXIF)}")],
    "keep_records": Switch,
    "device": Annotated[str, Condition(lambda v: str(v).split(":")[0] in _DEVICES, ", ".join(_DEVICES))],
    "dial": Annotated[float, Condition(_is_dial, _DIAL)] | None,
    "demo dial": Annotated[float, Condition(_is_demo_dial, "a number from 0, the base, over 1, the adapter, to 1.5")],
    "host": Annotated[str, Condition(lambda v: isinstance(v, str) and bool(v.strip()), "an address of this machine")],
    "port": Annotated[int, Condition(lambda v: type(v) is int and 0 <= v < 65_536, "a port, from 0 to 65535")],
    "pictures": PositiveInt,
    "browser": Switch,
    "dial_grid": Annotated[list[float], Condition(_are_dials, f"a list, each {_DIAL}")] | None,
    "dial_rule": Annotated[str, Condition(lambda v: isinstance(v, str), "a rule such as train.best has")] | None,
    "save_dial": Switch,
    "trial": Switch | None,
    "json": Switch,
    "evaluate dial": Annotated[
        object, Condition(lambda v: v == AUTO or _is_dial(v) or _are_dials(v), f"{_DIAL}, a list of them, or auto")
    ]
    | None,
    "ablate run_dir": Annotated[str, Condition(_is_folder_name, "a folder to write to")] | None,
    "runs": NonNegativeInt | None,
    "hours": PositiveFloat | None,
    "tune": Switch,
    "dry_run": Switch,
    "keep": Switch,
    "changed": Annotated[str, ("refuse", "rerun", "keep")],
    "pretrained": Switch,
    "curvature": PositiveFloat,
    "scale": Annotated[str, RADIUS_SCALES],
    "max_images": NonNegativeInt,
    "batch_size": PositiveInt,
    "radius resolution": Annotated[object, Condition(_are_sides, "pixels, 224 or [224,448]")],
    **dict.fromkeys(
        ("evaluate resume", "predict resume"),
        Annotated[str, Condition(lambda v: v in ("auto", "never"), "auto or never")],
    ),
}


def check_key(command: str, key: str, value: object) -> None:
    """Raise a ConfigError if a tool's key outside the sections has a value that it cannot have."""
    check_value(key, value, _KEYS.get(f"{command} {key}") or _KEYS.get(key))

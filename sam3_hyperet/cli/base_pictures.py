"""Pictures that a base was trained on, as far as its file says so: drawn scenes, by data set and seed."""

import json
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig

from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.modeling.config import ModelOptions
from sam3_hyperet.modeling.tensor_files import read_metadata
from sam3_hyperet.reading import parse_json
from sam3_hyperet.wording import count_of

_TRAINED_ON = "trained_on"


def trained_on(config: DictConfig) -> dict[str, str]:
    """What the file of weights keeps of the drawn scenes that a run of this configuration was trained on."""
    sets = [config.data, *config.get("more_data", {}).values()]
    scenes = [one for one in sets if one.format == "scenes"]
    drawn = [{"data": one.name, "seed": one.seed, "images": one.splits.train} for one in scenes]
    return {_TRAINED_ON: json.dumps(drawn)} if drawn else {}


def base_remark(model: ModelOptions, sets: Iterable[DataOptions]) -> str:
    """A warning where a base is not one for the pictures that adapters will be trained on; "" for others.

    It has seen these pictures, as its file says, or is a tiny one of the package, which knows nothing but drawn scenes.
    Raises CheckpointError for a file that cannot be read.
    """
    sets = tuple(sets)
    if model.packaged and (others := [one.name for one in sets if one.format != "scenes"]):
        found = f"warning: model={model.name} is a toy that knows drawn scenes alone, of which {others[0]} has none"
        return f"{found}; expected model=large, SAM 3 itself, unless this is a try"
    file = model.packaged or Path(model.checkpoint or "").expanduser()
    if file.suffix != ".safetensors" or not file.is_file():
        return ""
    seen = {seed: (name, images) for name, seed, images in _drawn(file)}
    for one in sets:
        if one.format == "scenes" and one.seed in seen:
            name, images = seen[one.seed]
            shared = count_of(min(images, int(str(one.splits["train"]))), "training image")
            whose = f"the {count_of(images, 'scene')} of data.seed={one.seed} ({name})"
            found = f"warning: {file.name} was trained on {whose}, of which {one.name} has {shared}"
            return f"{found}: expected pictures that are new to the base, another data.seed"
    return ""


def _drawn(file: Path) -> list[tuple[str, int, int]]:
    text = read_metadata(file).get(_TRAINED_ON, "[]")
    try:
        return [(str(one["data"]), int(one["seed"]), int(one["images"])) for one in parse_json(text)]
    except (ValueError, TypeError, KeyError):
        expected = "a list of mappings with data, seed and images"
        raise CheckpointError(f"{file}: its metadata {_TRAINED_ON} is {text!r:.60}; expected {expected}") from None

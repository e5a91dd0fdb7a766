"""The file that a checkpoint option names: a path, a folder or a hub repository; read by official names."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from sam3_hyperet.errors import CheckpointError, DataError
from sam3_hyperet.modeling.hub_errors import hub_errors
from sam3_hyperet.modeling.layouts.transformers import POSITIONS, is_transformers, to_official
from sam3_hyperet.modeling.tensor_files import read_safetensors, read_state
from sam3_hyperet.reading import read_json

HUB_FILES = {"facebook/sam3": "sam3.pt", "facebook/sam3.1": "sam3.1_multiplex.pt"}
TRANSFORMERS_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
REMAINDER = "not_in_transformers.safetensors"
"""Beside a transformers file that this package wrote: the official tensors that have no place in it."""
_IN_FOLDER = (*HUB_FILES.values(), TRANSFORMERS_FILE, INDEX)


def locate_base(source: str | Path) -> Path:
    """The file of a file, a folder or a hub repository, which is downloaded.

    Raises CheckpointError for a folder without base weights, and for a download that fails.
    """
    if str(source) in HUB_FILES:
        return _download(str(source))
    path = Path(source).expanduser()
    if not path.is_dir():
        return path
    found = [path / name for name in _IN_FOLDER if (path / name).is_file()]
    if not found:
        there = ", ".join(sorted(one.name for one in path.iterdir())[:5]) or "nothing"
        raise CheckpointError(f"{path}: a folder without base weights; found {there}; expected {', '.join(_IN_FOLDER)}")
    return found[0]


def read_official(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors of a base file on the CPU, and its layout: "transformers" or "official".

    A transformers file, or the index of several, is converted to official names; others keep what they have, prefixes
    included. Raises CheckpointError for what cannot be read, and for an index that names other files than it has.
    """
    tensors = _read_parts(path) if path.name.endswith(".index.json") else read_state(path)
    if not is_transformers(tensors):
        return tensors, "official"
    tensors = to_official(tensors)
    if (beside := path.with_name(REMAINDER)).is_file():
        tensors = _with_remainder(tensors, beside)
    return tensors, "transformers"


def remainder_metadata(filled: Iterable[str]) -> dict[str, str]:
    """Metadata of a REMAINDER file, with the keys that were filled with zeros for transformers' sake."""
    return {"format": "sam3_hyperet-remainder-1", "filled": json.dumps(sorted(filled))}


def _with_remainder(tensors: dict[str, Tensor], beside: Path) -> dict[str, Tensor]:
    """Converted tensors with those that had no place in the file, and without those that were made for it."""
    rest, metadata = read_safetensors(beside)
    try:
        filled = set(json.loads(metadata["filled"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{beside}: not as merge layout=transformers writes it; remove it to do without"
        ) from error
    if POSITIONS in rest:  # the class token's alone
        positions = tensors.get(POSITIONS)
        if positions is None or positions.ndim != 3 or rest[POSITIONS].shape != positions[:, :1].shape:
            raise CheckpointError(f"{beside}: is not of the weights beside it; remove it to do without")
        tensors[POSITIONS] = torch.cat([rest[POSITIONS], positions[:, 1:]], dim=1)
    return rest | {key: tensor for key, tensor in tensors.items() if key not in filled}


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Tensors of all files that an index names, which lie beside it."""
    try:
        places = read_json(index)["weight_map"]
        names = sorted(set(places.values()))
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of safetensors files ({error})") from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index}: names the file {name!r}; expected one in its own folder")
        tensors |= read_state(index.with_name(name))
    if missing := [key for key in places if key not in tensors]:
        raise CheckpointError(f"{index}: {len(missing)} of {len(places)} tensors are in no file, first {missing[0]}")
    return tensors


def _download(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    name, local = HUB_FILES[repository], "or give checkpoint=PATH of a local copy"
    try:
        with hub_errors(repository, f"fetch {name}", instead=local):
            return Path(hf_hub_download(repository, name))
    except OSError as error:  # of the disk, mostly
        raise CheckpointError(f"{repository}: cannot fetch {name}: {error}; make room, {local}") from error

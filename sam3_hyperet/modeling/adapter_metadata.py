"""What the metadata of an adapter file says of the adapter, read in one place. No torch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sam3_hyperet.choices import MAX_DIAL
from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.modeling.adapter_source import FORMAT
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.encoders.places import Place, read_places
from sam3_hyperet.reading import parse_json


@dataclass(frozen=True)
class AdapterMetadata:
    """Configuration, dial, and the adjusted modules of an encoder other than SAM 3's.

    The dial is 1 in files of earlier versions.
    """

    config: HyperETConfig
    dial: float
    places: tuple[Place, ...]

    @classmethod
    def of(cls, path: str | Path, metadata: Mapping[str, str]) -> "AdapterMetadata":
        """Read a file's metadata. Raises CheckpointError for what is no adapter file, and for what cannot be read."""
        if metadata.get("format") != FORMAT:
            found = f"format is {metadata.get('format')!r:.60}, expected {FORMAT!r}"
            raise CheckpointError(f"{path}: not an adapter file; {found}; base weights are given as model.checkpoint=")
        with _readable(path, "configuration"):
            config = HyperETConfig.from_file(parse_json(metadata["config"]))
        with _readable(path, "dial"):
            dial = float(metadata.get("dial", "1")) + 0.0  # not -0.0
            if not 0.0 <= dial <= MAX_DIAL:
                raise ValueError(f"found {dial:g}, expected a number from 0 to {MAX_DIAL:g}")
        with _readable(path, "list of adjusted modules"):
            places = read_places(metadata.get("encoder", "[]"))
        return cls(config, dial, places)


@contextmanager
def _readable(path: str | Path, what: str) -> Iterator[None]:
    """Turn what the parsers raise into a CheckpointError that names the file and the part of its metadata."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:  # so is a ConfigError
        raise CheckpointError(f"{path}: its {what} cannot be read ({error})") from error

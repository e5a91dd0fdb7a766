"""The adapter file that an option names: a file, a run's folder, on the hub or in the package. No torch."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import packaged_adapter
from sam3_hyperet.modeling.hub_errors import hub_errors

ADAPTER_FILE, LAST_ADAPTER_FILE = "adapter.safetensors", "adapter_last.safetensors"
"""Names of the adapters of the best and of the last step in a run's folder; the first also in a hub's repository."""
FORMAT = "sam3_hyperet-adapter-1"
"""Of adapter files, in their metadata."""
HUB = "hub:"
PACKAGE = "package:"
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubReference:
    """A repository of the hub, and its branch, tag or commit; None is its main branch."""

    repository: str
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> "HubReference":
        """Read `hub:user/name`, `hub:user/name@revision`, or the same without `hub:`. ConfigError for anything else."""
        repository, at, revision = text.removeprefix(HUB).partition("@")
        well_formed = _REPOSITORY.fullmatch(repository) and ".." not in repository and "--" not in repository
        if not well_formed or (at and not revision.strip()):
            raise ConfigError(
                f"{text}: not a repository of the hub; expected {HUB}user/name or {HUB}user/name@revision"
            )
        return cls(repository, revision or None)

    def __str__(self) -> str:
        return f"{HUB}{self.repository}{f'@{self.revision}' if self.revision else ''}"


def is_on_hub(source: str | Path) -> bool:
    """Whether an option names a repository of the hub."""
    return str(source).startswith(HUB)


def is_in_package(source: str | Path) -> bool:
    """Whether an option names an adapter that comes with the package."""
    return str(source).startswith(PACKAGE)


def locate_adapter(source: str | Path) -> Path:
    """The file of an adapter file, of a folder with one, of `hub:user/name[@revision]`, or of `package:tiny_levels`.

    A path where nothing is comes back as it is. Raises ConfigError for what is no reference, and CheckpointError for a
    download that fails: what was downloaded before is found without a connection.
    """
    if is_in_package(source):
        packaged = packaged_adapter(str(source).removeprefix(PACKAGE))
        if packaged is None:
            raise ConfigError(
                f"{source}: no adapter of that name comes with the package; expected {PACKAGE}tiny_levels"
            )
        return packaged
    if is_on_hub(source):
        reference = HubReference.of(str(source))
        path = download(reference, ADAPTER_FILE)
        logger.info("%s: commit %s", reference, commit_of(path))
        return path
    path = Path(source).expanduser()
    return path / ADAPTER_FILE if (path / ADAPTER_FILE).is_file() else path


def adapter_name(source: str | Path) -> str:
    """A name for people: of the repository, of the folder of an `adapter*.safetensors`, or else of the file."""
    if is_on_hub(source):
        return HubReference.of(str(source)).repository.partition("/")[2]
    # links are not followed: in a cache they lead to a blob without a name
    path = Path(os.path.abspath(Path(source).expanduser()))
    return path.parent.name if path.name in (ADAPTER_FILE, LAST_ADAPTER_FILE) else path.stem


def download(reference: HubReference, name: str) -> Path:
    """A file of a repository, in the hub's cache. Raises CheckpointError where it cannot be had, in one sentence."""
    from huggingface_hub import hf_hub_download

    with hub_errors(reference, f"fetch {name}", no_file="expected one that `push` wrote"):
        return Path(hf_hub_download(reference.repository, name, revision=reference.revision))


def commit_of(path: Path) -> str:
    """The commit that a file in the hub's cache is of."""
    parts = path.parts
    return parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1]

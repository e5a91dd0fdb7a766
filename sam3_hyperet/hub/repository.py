"""Repositories of the hub: an adapter pushed in one commit, and pulled into a folder."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sam3_hyperet.digest import tensors_sha256
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.files import new_folder
from sam3_hyperet.hub.adapter_info import read_adapter_info
from sam3_hyperet.hub.card_metadata import CardOptions
from sam3_hyperet.hub.publishing import FILES, Publication, prepare_publication
from sam3_hyperet.hub.run_info import other_models, read_metrics
from sam3_hyperet.modeling.adapter_source import (
    ADAPTER_FILE,
    HubReference,
    commit_of,
    download,
    locate_adapter,
)
from sam3_hyperet.modeling.hub_errors import hub_errors
from sam3_hyperet.training.run_files import METRICS_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from torch import nn

_OF_THE_HUB = {".gitattributes"}
"""Files of a repository that the hub makes by itself."""
_MAY_NOT_CREATE = (401, 402, 403)
"""Statuses of the hub where a token, or its account's plan, lacks the right to make a repository."""


@dataclass(frozen=True)
class Pushed:
    """Where an adapter is now: the reference of the very commit, its address, and what was changed on the way."""

    reference: HubReference
    url: str
    notes: tuple[str, ...]


def push_to_hub(
    source: "nn.Module | str | Path",
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    note: str = "",
    evaluations: Sequence[str | Path] = (),
) -> str:
    """Push an adapter with its model card to a repository of the Hugging Face hub, and return its reference.

    The card is written from what the run's folder has (config.yaml, metrics.json, versions.json), of which copies
    without local paths go along. All files are one commit: if it fails, nothing of them is on the hub, and a repository
    that was made for it is taken away again. The login is huggingface_hub's own (`hf auth login` or HF_TOKEN).

    Args:
        source: a model with adapters, an adapter file, or a run's folder. A model has no run, so its card no numbers.
        repo: "user/name", made if it is not there.
        private: of a repository that is made.
        revision: branch to push to, which exists; None is the main one.
        base_model: repository of the base weights, where the run names a local file.
        license: the hub's name of the adapter's licence; None is that of the base weights.
        note: a paragraph of Markdown for the card.
        evaluations: folders of further evaluations of the adapter, as on data that it may have forgotten, or along the
            dial, or their metrics.json.

    Returns "hub:user/name@commit", which `load_adapter` takes. Raises ConfigError for a model without adapters and for
    what is no repository's name, and for evaluations of other models; CheckpointError for what is no adapter file and
    for a push that fails.
    """
    with adapter_of(source) as adapter:
        options = CardOptions(base_model, license, note, read_evaluations(evaluations, adapter))
        reference = HubReference.of(f"{repo}@{revision}" if revision else repo)
        publication = prepare_publication(adapter, reference.repository, options)
        return str(push(publication, reference, private=private).reference)


@contextmanager
def adapter_of(source: "nn.Module | str | Path") -> Iterator[Path]:
    """The adapter file of a file or a folder, or one that is written of a model and removed afterwards."""
    if isinstance(source, str | Path):
        yield locate_adapter(source)
        return
    from sam3_hyperet.modeling.adapter_file import save_adapter

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ADAPTER_FILE
        save_adapter(source, file)
        yield file


def read_evaluations(given: Sequence[str | Path], adapter: Path) -> list[dict[str, object]]:
    """Metrics of folders or files. Raises ConfigError where there are none, or where they are not of the adapter."""
    found: list[dict[str, object]] = []
    if not given:
        return found
    digest = tensors_sha256(read_adapter_info(adapter).path)
    for one in map(Path, given):
        file = one / METRICS_FILE if one.is_dir() else one
        if not file.is_file():
            raise ConfigError(f"evaluations: {file}: no such file; expected the folder of `evaluate`, or its metrics")
        metrics = read_metrics(file)
        if of := other_models(metrics, digest):
            expected = "expected an evaluation of this adapter alone, on one data set or along its dial"
            raise ConfigError(f"evaluations: {file}: {of}; {expected}: evaluate adapter={adapter}")
        found.append(metrics)
    return found


def push(publication: Publication, reference: HubReference, *, private: bool = False) -> Pushed:
    """Push files in one commit. Raises CheckpointError where it fails: nothing of them is on the hub then."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if _is_offline():
        raise CheckpointError(f"{reference}: cannot push: HF_HUB_OFFLINE is set; unset it")
    api = HfApi()
    additions = [CommitOperationAdd(name, content) for name, content in publication.files.items()]
    with hub_errors(reference, "push"):
        try:
            api.create_repo(reference.repository, private=private)
            is_new = True
        except HfHubHTTPError as error:  # a token may be one that writes to a repository, and makes none
            status = getattr(error.response, "status_code", 0)
            if status != 409 and not (status in _MAY_NOT_CREATE and api.repo_exists(reference.repository)):
                raise
            is_new = False
    try:
        with hub_errors(reference, "push"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of huggingface_hub about itself, and of a card that is accepted
            commit = api.create_commit(
                reference.repository,
                additions,
                commit_message=f"Adapter of {publication.adapter.scheme}",
                revision=reference.revision,
            )
    except BaseException as error:
        left = _take_away(api, reference) if is_new else "the repository is as it was"
        if isinstance(error, CheckpointError):
            raise CheckpointError(f"{error}; {left}") from error
        if isinstance(error, RuntimeError | ValueError | OSError):  # an upload that broke off, metadata that is refused
            cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
            told = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{reference}: cannot push: {told}{cause}; {left}") from error
        raise
    notes = publication.notes
    if private and not is_new:
        notes += (f"{reference.repository} was there already: who may see it is as it was",)
    return Pushed(HubReference(reference.repository, commit.oid), str(commit.commit_url), notes)


def pull(reference: HubReference, folder: Path) -> tuple[list[str], str]:
    """Copy a repository's files to a new folder; returns their names and the commit.

    The folder is there as a whole or not at all. Raises ConfigError if it exists already, and CheckpointError where the
    repository cannot be had or has no adapter.
    """
    if os.path.lexists(folder):
        raise ConfigError(f"out={folder}: is there already; expected a new folder")
    adapter = download(reference, ADAPTER_FILE)
    commit = HubReference(reference.repository, commit_of(adapter))  # whatever is pushed meanwhile
    found = {ADAPTER_FILE: adapter}
    for name in FILES:
        if name != ADAPTER_FILE and (path := optional_file(commit, name)):
            found[name] = path
    with new_folder(folder) as whole:
        for name, path in found.items():
            shutil.copyfile(path, whole / name)
    return list(found), str(commit.revision)


def optional_file(reference: HubReference, name: str) -> Path | None:
    """A file of a repository in the hub's cache; None where the repository has none, or it was not fetched before."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return download(reference, name)
    except CheckpointError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            return None
        raise


def _is_offline() -> bool:
    """Whether huggingface_hub is told to do without a connection."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def _take_away(api: "HfApi", reference: HubReference) -> str:
    """Delete a repository that was just made, if nothing else is in it; what became of it, in words."""
    name = reference.repository
    left = f"the repository {name}, which was made for it, is still there and empty"
    with suppress(CheckpointError), hub_errors(reference, "clean up"):
        if {file.rfilename for file in api.model_info(name).siblings or ()} <= _OF_THE_HUB:
            api.delete_repo(name)
            left = "the repository that was made for it is taken away again"
    return left

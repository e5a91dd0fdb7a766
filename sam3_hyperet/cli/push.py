"""`sam3-hyperet push`: an adapter and its model card shared on the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.of_run import listed
from sam3_hyperet.hub.card_metadata import CardOptions
from sam3_hyperet.hub.publishing import prepare_publication, write_publication
from sam3_hyperet.hub.repository import adapter_of, push, read_evaluations
from sam3_hyperet.modeling.adapter_source import HubReference
from sam3_hyperet.reading import read_text


def main(argv: Sequence[str] | None = None) -> str:
    """Push, or write what would be pushed to a folder; returns the reference of what was pushed, or the folder.

    Raises ConfigError and CheckpointError as `push_to_hub`; nothing of the adapter is on the hub then.
    """
    _, config = parse_command("push", argv)
    console = Console(highlight=False)
    reference = HubReference.of(f"{config.repo}@{config.revision}" if config.revision else config.repo)
    note = read_text(config.note) if config.note else ""
    with adapter_of(str(config.adapter)) as adapter:
        evaluations = read_evaluations(listed(config.evaluations), adapter)
        options = CardOptions(config.base_model, config.license, note, evaluations)
        publication = prepare_publication(adapter, reference.repository, options)
        notes: Sequence[str] = publication.notes
        if config.preview:
            write_publication(publication, Path(config.preview))
            where, done = (
                str(config.preview),
                f"wrote {', '.join(publication.files)} to {config.preview}; nothing pushed",
            )
        else:
            pushed = push(publication, reference, private=config.private)
            where, notes = str(pushed.reference), pushed.notes
            done = f"pushed {', '.join(publication.files)} to {pushed.url}; adapter={where} is this very version"
    for line in (*notes, done):
        console.print(line, markup=False, soft_wrap=True)
    return where

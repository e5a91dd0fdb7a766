"""`sam3-hyperet pull`: an adapter and its model card fetched from the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sam3_hyperet.cli.command import command_line, parse_command
from sam3_hyperet.hub.repository import pull
from sam3_hyperet.modeling.adapter_source import HubReference


def main(argv: Sequence[str] | None = None) -> Path:
    """Fetch the files of a repository; returns the folder. Raises ConfigError and CheckpointError as `pull`."""
    _, config = parse_command("pull", argv)
    reference, out = HubReference.of(str(config.repo)), Path(config.out)
    names, commit = pull(reference, out)
    console = Console(highlight=False)
    console.print(f"{reference}, commit {commit}: wrote {', '.join(names)} to {out}", markup=False, soft_wrap=True)
    console.print(f"what it is: {command_line('info', str(out))}", markup=False, soft_wrap=True)
    return out

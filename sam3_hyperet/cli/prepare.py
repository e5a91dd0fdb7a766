"""`sam3-hyperet prepare`: what a data set lacks and where to get it; a manifest where it lacks nothing."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from sam3_hyperet.cli.command import command_line, parse_command
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.progress import progress
from sam3_hyperet.cli.recognition import recognised
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.disjoint import shared_remarks
from sam3_hyperet.data.notes import prompt_notes
from sam3_hyperet.data.options import SPLITS, DataOptions
from sam3_hyperet.data.sources import choose, prompt_sampler, read_split
from sam3_hyperet.data.subsets import Subset
from sam3_hyperet.errors import ConfigError, DataError, StorageError
from sam3_hyperet.files import write_json
from sam3_hyperet.options import read_options
from sam3_hyperet.preparation.checks import Inspected, inspect
from sam3_hyperet.preparation.conversion import Conversion
from sam3_hyperet.reading import read_json
from sam3_hyperet.version import __version__
from sam3_hyperet.wording import count_of


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Check a data set and convert its label maps where it has to be; returns the manifest that was written.

    Raises DataError where something is missing or wrong: the table printed says what, and no manifest is written.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    console = Console(highlight=False)
    values = _values(arguments, partial(console.print, markup=False, soft_wrap=True))
    root, workers = Path(values["data"]["root"]), values["workers"]
    source = (values["sources"] or {}).get(values["data"]["name"])
    remedy = f"{f'get it from {source}; ' if source else ''}expected tree: docs/data.md"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {remedy}")
    if convert := values["conversions"].get(values["data"]["name"]):
        conversion = read_options(Conversion, convert, "conversion")
        if folder := _converted(conversion, root, workers, console):
            arguments.append(f"{conversion.option}={folder}")
            values = _values(arguments)
    data = replace(read_options(DataOptions, values["data"], "data"), root=str(root))
    if not data.splits:
        raise ConfigError(f"data.splits is empty; expected {', '.join(SPLITS)} by name")
    counts = (values["counts"] or {}).get(data.name, {})
    for expected in counts.values():
        if "categories" in expected:  # those of the files
            expected["categories"] += len(data.supercategories or ())
    inspected: dict[str, Inspected] = {}
    opened: dict[str, AnnotatedImages] = {}

    def read(split: str) -> AnnotatedImages:
        opened[split] = read_split(data, split).images
        return opened[split]

    for split in data.splits:
        with progress(console, f"images of {data.name} {split}") as on_image:
            inspected[split] = inspect(partial(read, split), root, counts.get(split, {}), workers, on_image)
    _print_table(inspected, console)
    pixels = {file: digest for one in inspected.values() for file, digest in one.pixels.items()}
    for remark in shared_remarks(_as_used(data, opened), pixels=pixels):
        console.print(f"{data.name}: {remark}", soft_wrap=True, markup=False)
    if failed := [f"{name}: {check.what}" for name, one in inspected.items() for check in one.failed]:
        raise DataError(f"{root}: {count_of(len(failed), 'check')} failed ({', '.join(failed)}); {remedy}")
    for line in _training_notes(data, opened["train"]) if "train" in opened else ():
        console.print(line, soft_wrap=True, markup=False)
    manifest = None if values["out"] is None else root / values["out"]
    said = f"wrote {manifest}" if manifest else "no manifest is wanted"
    if manifest:
        try:
            _write_manifest(manifest, data.name, inspected)
        except StorageError as error:  # the data may well lie where nobody writes
            if any(argument.startswith("out=") for argument in arguments):
                raise
            manifest, said = None, f"no manifest is written: {error}, by out=FILE"
    console.print(said, soft_wrap=True, markup=False)
    tool = "train" if "train" in data.splits else "evaluate"
    next_command = command_line(tool, *_run_options(tool, root, arguments))
    console.print(f"next: {next_command}", soft_wrap=True, markup=False)
    return manifest


def _values(arguments: Sequence[str], say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    config = parse_command("prepare", arguments)[1]
    found = recognised(config, say)
    own = {"counts": None, "sources": None} if _is_of_users(config, arguments) else {}
    return {**plain(found), **own}


def _is_of_users(config: DictConfig, arguments: Sequence[str]) -> bool:
    """Whether the files are not those that a choice of `data=` names, of which it is known how many there are."""
    others = [one for one in arguments if not one.startswith("data.splits")]
    stated = config.data.splits if others == [*arguments] else parse_command("prepare", others)[1].data.splits
    own = [split for split, files in config.data.splits.items() if files != stated.get(split)]
    return config.data.format == "auto" or bool(own)


def _as_used(data: DataOptions, opened: Mapping[str, AnnotatedImages]) -> dict[str, AnnotatedImages]:
    """The images of each split, also of those that are held out of training."""
    found = dict(opened)
    for split in SPLITS if "train" in opened else ():
        if split == "train" or split not in data.splits:
            with suppress(ConfigError):  # where nothing can be held out for it
                found[split] = Subset(opened["train"], choose(data, opened["train"], split)[0])
    return {name: found[name] for name in SPLITS if name in found}


def _training_notes(data: DataOptions, images: AnnotatedImages) -> list[str]:
    chosen = choose(data, images, "train")[1]
    return [*(f"{data.name}: {line}" for line in chosen), *prompt_notes(images, prompt_sampler(data, images))]


def _converted(conversion: Conversion, root: Path, workers: int, console: Console) -> str | None:
    """The folder of converted label maps, made if need be; None if those that came are right as they are."""
    if conversion.needed(root):
        with progress(console, f"label maps of {conversion.folder}") as on_map:
            count = conversion.run(root, workers, on_map)
        to = root / conversion.to
        console.print(f"converted {count_of(count, 'label map')} to {to}; the originals are unchanged", soft_wrap=True)
    return None if conversion.is_there(root) or not (root / conversion.to).is_dir() else conversion.to


def _print_table(inspected: dict[str, Inspected], console: Console) -> None:
    table = Table("split", "check", "found", "expected", "")
    for name, one in inspected.items():
        for check in one.checks:
            table.add_row(name, check.what, check.found, check.expected, "ok" if check.passed else "FAILED")
    console.print(table)
    for name, one in inspected.items():
        for line in (*one.notes, *(detail for check in one.failed for detail in check.details)):
            console.print(f"{name}: {line}", soft_wrap=True, markup=False)


def _write_manifest(path: Path, name: str, inspected: dict[str, Inspected]) -> None:
    if path.exists() and not _is_manifest(path):
        raise DataError(f"{path} is there and is no manifest of this tool; it is left alone; expected another out=")
    splits = {split: dict(one.manifest) for split, one in inspected.items()}
    write_json(path, {"data": name, "sam3_hyperet": __version__, "splits": splits})


def _is_manifest(path: Path) -> bool:
    try:
        return "sam3_hyperet" in read_json(path)
    except (DataError, TypeError):
        return False


def _run_options(tool: str, root: Path, arguments: Sequence[str]) -> list[str]:
    """What the tool needs to use the data set as it was checked."""
    whatever = "experiment=own_data" if tool == "train" else "data=auto"
    chosen = [argument for argument in arguments if argument.startswith("data=")][-1:] or [whatever]
    own = [one for one in arguments if one.startswith(("paths.", "data.")) and not one.startswith("data.root=")]
    return [*chosen, f"data.root={root}", *own, "model=large"]  # else it would be the tiny model of drawn scenes

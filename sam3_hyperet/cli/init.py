"""`sam3-hyperet init`: a data file and an experiment for a folder of one's own."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sam3_hyperet.cli.command import command_line, in_words, parse_command
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.disjoint import shared_remarks
from sam3_hyperet.data.notes import data_notes, prompt_notes
from sam3_hyperet.data.options import SPLITS, DataOptions
from sam3_hyperet.data.sources import open_split, prompt_sampler, read_split
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import replacing
from sam3_hyperet.layouts.table import AS_OPTIONS, explicit
from sam3_hyperet.options import read_options
from sam3_hyperet.recipes.choices import OWN_DATA, Content, data_choices, held_out, recipe_of, run_choices
from sam3_hyperet.recipes.commented import document
from sam3_hyperet.version import __version__
from sam3_hyperet.wording import count_of

_LISTED = 200  # categories with their counts
_SHOWN = ("warning: ", "; dropped ", "; repaired ", ": no class by its name")  # in the notes that are printed


def main(argv: Sequence[str] | None = None) -> tuple[Path, Path]:
    """Run the tool; returns the data file and the experiment that were written.

    Raises ConfigError where one of them exists, and what recognising and reading the data raises.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _, config = parse_command("init", arguments)
    console = Console(highlight=False)
    data, notes = explicit(read_options(DataOptions, plain(config.data), "data"))
    data = replace(data, root=str(Path(data.root).expanduser().absolute()))
    folder = Path(config.out)
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(f"out={folder}: is no folder; expected one for the two files, or the name of a new one")
    files = folder / f"{data.name}.yaml", folder / f"{data.name}-experiment.yaml"
    for file in files:
        if os.path.lexists(file):
            raise ConfigError(f"{file} exists and is left alone; expected another out=, or data.name=")
    for line in notes:
        console.print(line, markup=False, soft_wrap=True)
    data, content, recipe, warnings = _opened(data)
    for line in warnings:
        console.print(line, markup=False, soft_wrap=True)
    given = [one for one in in_words("init", arguments) if one.startswith(("model=", "model."))]
    model = given if any(one.startswith("model=") for one in given) else [f"model={config.model.name}", *given]
    options = [f"data={files[0]}", f"experiment={files[1]}", *model]
    commands = [
        command_line("prepare", options[0]),
        command_line("doctor", *options),
        command_line("train", *options, f"run_dir=runs/{data.name}"),
    ]
    recognised = notes[0].partition(": ")[2] if notes else "as given"
    choices = run_choices(data.name, config.model.name, content, recipe)
    texts = (
        document(_data_head(data, content, [*notes, *warnings]), data_choices(data, content, recognised)),
        document(_run_head(data.name, recipe, commands[-1]), choices),
    )
    for file, text in zip(files, texts, strict=True):
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
        console.print(f"wrote {file}", markup=False, soft_wrap=True)
    for command in commands:
        console.print(f"next: {command}", markup=False, soft_wrap=True)
    return files


def _opened(data: DataOptions) -> tuple[DataOptions, Content, str, list[str]]:
    """The options with as many tuning images held out as suit the set, what its splits have, its recipe, and warnings.

    Raises DataError for files that cannot be used.
    """
    train = read_split(data, "train")
    images = {
        "train": open_split(replace(data, tune_images=0), "train", train).images,
        "val": open_split(data, "val", train).images,
    }
    recipe = recipe_of(data, _annotations(images["train"]))
    if "tune" not in data.splits and data.tune_images == DataOptions.tune_images:
        held = held_out(len(images["train"])) if recipe == OWN_DATA else 0
        data = replace(data, tune_images=held)
        if held:
            images["train"] = open_split(data, "train", train).images
    if "tune" in data.splits or data.tune_images:
        images["tune"] = open_split(data, "tune", train).images
    names = dict.fromkeys(category.name for one in images.values() for category in one.categories)
    counts = {split: _annotations(images[split]) for split in data.splits if split in images}
    annotations = {name: {split: found.get(name, 0) for split, found in counts.items() if found} for name in names}
    in_order = {split: images[split] for split in SPLITS if split in images}
    noted = {split: data_notes(one) for split, one in in_order.items()}
    noted["train"] += prompt_notes(images["train"], prompt_sampler(data, images["train"]))
    lines = dict.fromkeys(line for of_split in noted.values() for line in of_split)
    warnings = [f"{data.name}: {remark}" for remark in shared_remarks(in_order, contents=True)]
    warnings += [
        f"{data.name} ({', '.join(split for split in noted if line in noted[split])}){line.removeprefix(data.name)}"
        for line in lines
        if any(word in line for word in _SHOWN)
    ]
    content = Content({split: len(images[split]) for split in SPLITS if split in images}, annotations)
    return data, content, recipe, warnings


def _annotations(images: AnnotatedImages) -> dict[str, int]:
    """Annotations of each category, by name; empty where not all of them were counted."""
    counts = images.counts
    return {} if counts is None else {category.name: counts.get(category.id, 0) for category in images.categories}


def _data_head(data: DataOptions, content: Content, notes: Sequence[str]) -> Iterator[str]:
    yield f"Data set {data.name}, written by sam3-hyperet init {__version__}; options: sam3-hyperet train --help data"
    yield from (line for line in notes if not line.startswith(AS_OPTIONS))  # these are below
    splits = list(dict.fromkeys(split for counts in content.annotations.values() for split in counts))
    rows = sorted(content.annotations.items(), key=lambda row: -sum(row[1].values()))
    yield ""
    what = "the label maps that show them" if data.format in ("label_maps", "ade20k") else "their annotations"
    counted = f", with {what} in the files of {', '.join(splits)}" if splits else ""
    yield f"{count_of(content.categories, 'category')}{counted}:"
    width = min(40, max(map(len, content.annotations)))
    for category, counts in rows[:_LISTED]:
        none = "   none in train: never prompted as absent" if counts.get("train") == 0 else ""
        yield f"  {category:<{width}}{''.join(f'{counts[split]:>9,}' for split in splits)}{none}"
    if len(rows) > _LISTED:
        yield f"  and {len(rows) - _LISTED} more"


def _run_head(name: str, recipe: str, command: str) -> Iterator[str]:
    yield "@package _global_"
    yield f"A first run on {name}, written by sam3-hyperet init {__version__}:"
    yield f"    {command}"
    yield f"After the recipe experiment={recipe}, with the numbers that follow from this data set."
    yield "Nothing was measured on official weights: accuracy is that of the tiny model on drawn scenes (the demo),"
    yield "time and memory those of the official architecture at random weights on one H200: docs/benchmarks.md."

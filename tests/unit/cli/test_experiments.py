"""The recipes, `experiment=…`: each composes, is read, and takes the user's own length, data and model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sam3_hyperet.cli.command import CONFIGS, parse_command
from sam3_hyperet.cli.run_options import RunOptions, read_run

RECIPES = {"own_data": "auto", "few_shot": "auto", "coco_large": "coco", "open_vocabulary": "coco", "paper": "scenes"}


def options_of(*arguments: str) -> RunOptions:
    return read_run(OmegaConf.to_container(parse_command("train", list(arguments))[1], resolve=True))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_composes(recipe):
    options = options_of(f"experiment={recipe}", "data.root=/data/shop")
    assert options.data.format == RECIPES[recipe]
    assert options.model.name == ("large" if recipe == "coco_large" else "tiny")
    assert options.train.workers is None
    assert options.train.precision == "auto"
    assert options.optim.warmup < 1
    assert options.train.images_a_step == (8 if recipe != "paper" else 4)
    assert options.hyperet.gate == ("prompt" if recipe in ("own_data", "few_shot", "coco_large") else "none")
    mine = options_of(f"experiment={recipe}", "data=ade20k", "model=tiny", "train.max_steps=2", "paths.ade20k=/data")
    assert (mine.data.name, mine.model.name, mine.train.max_steps, mine.train.epochs) == ("ade20k", "tiny", 2, None)
    assert options_of(f"experiment={recipe}", "data.root=/data", "train.epochs=0.5").train.max_steps is None


@pytest.mark.parametrize("given", ["scheme=P", "hyperet.scheme=P"])
def test_a_scheme_of_the_command_line_replaces_the_default_and_its_gate(given):
    changed = options_of("experiment=own_data", "data.root=/data", given).hyperet
    assert (changed.resolved_sites, changed.gate) == (("trunk_qv",), "none")
    both = options_of("experiment=own_data", "data.root=/data", given, "hyperet.sites=[fpn]")
    assert both.hyperet.resolved_sites == ("fpn",)


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe != "paper"])
def test_every_option_of_a_recipe_has_its_reason(recipe):
    lines = Path(CONFIGS, "experiment", f"{recipe}.yaml").read_text().splitlines()
    options = [line for line in lines if re.match(r"  \w+:", line)]
    assert len(options) > 8
    assert not [line for line in options if " # " not in line]


@pytest.mark.parametrize("world", ["objects", "levels", "camvid"])
def test_pretraining_begins_at_random_weights_and_draws_scenes_of_its_own(world):
    arguments = [f"experiment=pretrain_{world}", "paths.camvid=/data"]
    options = read_run(OmegaConf.to_container(parse_command("pretrain", arguments)[1], resolve=True))
    assert (options.model.checkpoint, options.stage.number, options.data.annotated) == (
        "random",
        3,
        objects_only(world),
    )
    assert (options.seed, options.model.seed, options.data.seed) == (101, 101, 101)
    assert options.hyperet.is_empty
    adapting = options_of()
    assert not {options.data.seed + n for n in range(3)} & {adapting.data.seed + n for n in range(100)}
    assert (options.data.name, options.model.name) == (
        "camvid" if world == "camvid" else "scenes",
        "tiny" if world == "objects" else "tiny_levels",
    )
    other = read_run(OmegaConf.to_container(parse_command("pretrain", [*arguments, "seed=202"])[1], resolve=True))
    assert (other.seed, other.model.seed, other.data.seed) == (202, 202, 202)


def objects_only(world: str) -> tuple[str, ...]:
    return ("object",) if world == "objects" else ()

"""Checks of a study's inputs before its first model is built: images, metrics, and that no split shares a picture."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

from sam3_hyperet.ablation.runs import Run, runs_of
from sam3_hyperet.cli.ablation_study import Study, quiet
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.recognition import recognised
from sam3_hyperet.cli.run_options import RunOptions, read_run
from sam3_hyperet.cli.sections import MORE_DATA
from sam3_hyperet.cli.training_data import open_data
from sam3_hyperet.data.disjoint import check_disjoint
from sam3_hyperet.data.sources import open_run
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.kept import open_kept
from sam3_hyperet.evaluation.task import open_task
from sam3_hyperet.evaluation.validation_score import known_metrics, open_validation
from sam3_hyperet.modeling.controls.peft_layers import check_peft
from sam3_hyperet.options import close
from sam3_hyperet.training.choice import Rule
from sam3_hyperet.wording import count_of

_MEASURED_BY_MODELS = ("radius/", "normalized_radius/", "base/", "hierarchy/", "uncertainty/", "speed/", "params/")
"""Metrics that are known once a model has run."""


def check_inputs(study: Study) -> None:
    """Open the images of each data set and amount, and check each arm. Raises ConfigError or DataError.

    No picture is in two of the splits: no arm is tuned, and no dial chosen, on what it is scored on.
    """
    opened, said = set[str](), set[str]()
    for run in {_inputs(study, run): run for run in (*study.trials, *runs_of(study.part))}.values():
        config = recognised(study.composer.run(run), quiet if run.data in said else study.say)
        said.add(run.data)
        options = read_run(plain(config))
        _check_arm(run, options)
        if (images := _inputs(study, run, ("data", MORE_DATA, "rehearsal", "kept", "protocol"))) not in opened:
            opened.add(images)
            _check_images(study, run, options)


def _inputs(study: Study, run: Run, sections: Sequence[str] = ()) -> str:
    """What a run's sections are, else all of it but base and seed: an arm or a base may have images of its own."""
    values = study.composer.values(run)
    kept = {name: values.get(name) for name in sections or values if name not in ("model", "seed", "optim")}
    return json.dumps([run.data, {**kept, "data": {**values["data"], "subset_seed": None}}], sort_keys=True)


def _check_arm(run: Run, options: RunOptions) -> None:
    check_peft(options.hyperet.adapter)
    if options.stage.last > 1:
        raise ConfigError(f"{run.arm}: stage {options.stage.last} trains the base; expected stage=1 in a study")
    if (processes := options.train.devices * options.train.nodes) > 1:
        found = f"{run.arm}: train.devices and train.nodes make {processes} processes"
        raise ConfigError(
            f"{found}; expected 1: several runs at once are launcher=slurm, or this command several times"
        )
    if not options.train.validate_every and options.train.best != "loss":
        raise ConfigError(f"{run.arm}: train.best={options.train.best} needs train.validate_every from 1")


def _check_images(study: Study, run: Run, options: RunOptions) -> None:
    world = study.plan.data[run.data]
    splits = open_run(options.data, tune=True, evaluate=True)
    assert splits.tuning is not None
    assert splits.evaluation is not None
    # as training opens it, which holds no tuning images out where it does not validate
    trained = open_data(options, tune=bool(options.train.validate_every))
    scored_or_tuned = {"tune": splits.tuning.images, "val": splits.evaluation.images}
    further = {f"more_data.{name}": images for name, images in trained.more.items()}
    try:
        for name, images in {"train": trained.splits.training, **further}.items():
            check_disjoint({name: images, **scored_or_tuned})
    except DataError as error:
        held_out = "train.validate_every from 1 holds tuning images out of training, data.splits.tune has its own"
        raise DataError(f"{run.arm}: {error}" + ("" if options.train.validate_every else f"; {held_out}")) from None
    rule = Rule.parse(world.rule(study.plan.dial))
    kept = open_kept(options.kept, splits.tuning, options.protocol, say=study.say) if rule.names_kept else None
    tuning = known_metrics(open_validation(splits.tuning, options.protocol, 0, kept))
    rule.check(tuning, f"the {count_of(len(splits.tuning.images), 'tuning image')} of {run.data}")
    kept = open_kept(options.kept, splits.evaluation, options.protocol, say=study.say) if world.measures_kept else None
    protocol = options.protocol.for_validation(options.protocol.limit)
    scored = known_metrics(open_task(splits.evaluation, replace(protocol, examples=0), kept))
    for short, key in world.metrics.items():
        if key not in scored and not key.startswith(_MEASURED_BY_MODELS):
            there = ", ".join(sorted(scored))
            raise ConfigError(
                f"data.{run.data}.metrics.{short}: no metric {key!r}; there are {there}{close(key, scored)}"
            )
        if math.isnan(scored.get(key, 0.0)):
            raise ConfigError(f"data.{run.data}.metrics.{short}: the val images show nothing of {key}")

"""A data set as preparing, training and evaluating see it: how many instances each split has for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_run, open_split, prompt_sampler, read_split
from sam3_hyperet.errors import DataError, UserError
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import open_task
from sam3_hyperet.preparation.checks import inspect


def prepared(data: DataOptions) -> list[int]:
    """Instances of each split, as preparing sees them. Raises DataError for what it refuses."""
    found = []
    for name in data.splits:
        inspected = inspect(lambda name=name: read_split(data, name).images, Path(data.root), {})
        if inspected.failed:
            raise DataError("; ".join(detail for check in inspected.failed for detail in check.details))
        images = read_split(data, name).images
        found.append(sum(not one.crowd for i in range(len(images)) for one in images.instances(i)))
    return found


def trained(data: DataOptions) -> list[int]:
    """Different instances that training prompts for, in "train" and, for comparison, in "val"."""
    opened = open_run(data, tune=False, evaluate=True)
    found = []
    for images in (opened.training, opened.evaluation.images):
        every = replace(data, num_positives=9, num_negatives=9)
        dataset = ConceptPrompts(images, 128, prompt_sampler(every, images), None)
        found.append(sum(len(dataset[i].images[0].objects) for i in range(len(dataset))))
    return found


def evaluated(data: DataOptions) -> list[int]:
    """Instances of each split that an evaluation is to find; of label maps, the classes of each."""
    found = []
    for name in data.splits:
        split = open_split(data, name)
        task = open_task(split, Protocol(granularity=False))
        images = split.images
        ids = [category.id for category in images.categories]
        evaluator = InstanceEvaluator(images, task.category_ids or ids, task.groups, task.protocol)
        records = []
        for i in task.positions:
            images.load_image(i)
            evaluator.start(i, None)
            records.append(evaluator.finish())
        found.append(sum(int(record["instances"].sum()) for record in records))
        assert sum(int(record["positives"][:, 0].sum()) for record in records) == found[-1]
    return found


def verdict(step, data: DataOptions):
    try:
        return step(data)
    except UserError as error:
        return str(error)


def verdicts(data: DataOptions) -> list[list[int] | str]:
    """What each of the three finds, or why it refuses."""
    return [verdict(step, data) for step in (prepared, trained, evaluated)]

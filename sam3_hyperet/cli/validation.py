"""What the validation of a run scores, and by which rule."""

from collections.abc import Callable

from lightning_fabric import Fabric

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.run_options import RunOptions
from sam3_hyperet.data.answers import AnsweredImages
from sam3_hyperet.data.sources import Split
from sam3_hyperet.data.vocabularies import listed
from sam3_hyperet.evaluation.kept import kept_lines, open_kept
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.evaluation.validation_score import ValidationScore, known_metrics, open_validation
from sam3_hyperet.training.choice import Rule


def validation_task(tuning: Split | None, options: RunOptions, say: Callable[[str], None]) -> EvalTask | None:
    """What a validation scores, if it does. Raises ConfigError for a rule of metrics that there will not be."""
    if tuning is None or not options.train.scored_images:
        return None
    rule, kept = Rule.parse(options.train.best), None
    if rule.names_kept:  # which is more to ask, each time
        kept = open_own_kept(tuning, options, say)
    task = open_validation(tuning, options.protocol, options.train.scored_images, kept)
    rule.check(known_metrics(task), _scored(task))
    return task


def validation_score(
    task: EvalTask | None,
    model: host.Sam3Image,
    options: RunOptions,
    fabric: Fabric,
    say: Callable[[str], None],
    stop: Callable[[], bool],
) -> ValidationScore | None:
    """The score of a validation, if it has a task; `stop` as for `Validation`.

    Raises ConfigError for a rule of metrics that the base's answers leave undefined.
    """
    if task is None:
        return None
    score = ValidationScore(task, model, fabric, stop)
    if task.kept:  # answered by now
        for line in kept_lines(task):
            say(line)
        Rule.parse(options.train.best).check(known_metrics(task), _scored(task))
    return score


def open_own_kept(split: Split, options: RunOptions, say: Callable[[str], None]) -> AnsweredImages | None:
    """What `open_kept` returns for a split."""
    return open_kept(options.kept, split, options.protocol, of_runs=listed(options.rehearsal.names), say=say)


def _scored(task: EvalTask) -> str:
    return f"the {len(task.positions)} tuning images that are scored"

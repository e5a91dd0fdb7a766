"""The base's own answers on scored images, by which what a model keeps of them is measured without labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning_fabric import Fabric

from sam3_hyperet.data.answers import AnsweredImages
from sam3_hyperet.data.options import DataOptions, KeptOptions
from sam3_hyperet.data.sources import Split
from sam3_hyperet.data.vocabularies import absent_concepts
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics.evaluator import Record
from sam3_hyperet.evaluation.metrics.kept import AnswerEvaluator
from sam3_hyperet.evaluation.models import EvalModel
from sam3_hyperet.evaluation.protocol import Protocol, evenly_spread
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.recording import Progress, Say, record_runs, run_facts, split_facts
from sam3_hyperet.evaluation.runner import ModelRun, open_run, records_of
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.modeling.fingerprint import model_facts
from sam3_hyperet.training.gathering import from_first
from sam3_hyperet.wording import count_of

_ANSWERS = "answers"


def open_kept(
    options: KeptOptions, split: Split, protocol: Protocol, *, of_runs: Sequence[str] = (), say: Say
) -> AnsweredImages | None:
    """The scored images, to be annotated with the base's answers to the options' names; None for no names.

    of_runs: the names where the options have none. Of these, what cannot be measured is said. Names that have labels
    are left out, and counted. Raises ConfigError for names of the options that cannot be measured.
    """
    is_given = options.names is not None
    asked = absent_concepts(options.names if options.names is not None else of_runs, (), option="kept.names")
    if not asked:
        return None
    labelled = [*split.images.categories, *(split.labels.categories if split.labels else ())]
    names = absent_concepts(asked, labelled)
    if protocol.asks_present:
        fault = f"{protocol.prompted_by} leaves out what is absent, and no labels say what is present"
        expected = "protocol.exemplars=0 and protocol.present_only=false"
    elif not names:
        fault = f"all of the names have labels in {split.images.name}, by which they are scored"
        expected = "names without labels"
    else:
        if count := len(asked) - len(names):
            say(f"kept: {count_of(count, 'name')} with labels in {split.images.name} left out")
        return AnsweredImages(split.images, names, options)
    if is_given:
        raise ConfigError(f"kept.names={options.names!r:.80}: {fault}; expected {expected}, or kept.names=[]")
    say(f"kept: nothing is measured of the names of the run: {fault}")
    return None


def ask_base(
    base: EvalModel,
    data: DataOptions,
    task: EvalTask,
    folder: Path,
    fabric: Fabric,
    *,
    resume: bool,
    say: Say,
    progress: Progress,
) -> None:
    """Annotate a task's `kept` with what the base finds, in every process, and say it; all of them have to call this.

    Nothing is done where it is annotated. folder: keeps the records, from which a killed evaluation goes on.
    """
    assert task.kept is not None
    if task.kept.is_annotated:
        return
    run, facts = asking_run(base, task, RecordStore(folder)), []
    if fabric.is_global_zero:
        own = {key: value for key, value in task.kept.options.by_key().items() if key != f"{KeptOptions.SECTION}.names"}
        facts = [run_facts(run, model_facts([base.model])[0], split_facts(data, run.task)) | own]
    record_runs([run], facts, fabric, resume=resume, say=say, progress=progress)
    annotate(task.kept, run, from_first(fabric, lambda: run.store.read_all(run.positions)))
    for line in kept_lines(task):
        say(line)


def asking_run(base: EvalModel, task: EvalTask, store: RecordStore) -> ModelRun:
    """A run that asks the base, exactly, for the names of a task's `kept`, on as many of its images as they say."""
    assert task.kept is not None
    positions = evenly_spread(task.positions, task.kept.options.images)
    asking = EvalTask(Split(task.split.name, task.kept, None, None), task.protocol.exact(), positions)
    run = open_run(base, asking, store)
    return replace(run, evaluators={_ANSWERS: AnswerEvaluator(task.kept)}, probe=None)


def annotate(images: AnsweredImages, run: ModelRun, records: Sequence[Record]) -> None:
    """Annotate images with the answers in the records of their `asking_run`."""
    evaluator = run.evaluators[_ANSWERS]
    assert isinstance(evaluator, AnswerEvaluator)
    images.annotate(evaluator.answers(run.positions, records_of(records, _ANSWERS)))


def kept_lines(task: EvalTask) -> list[str]:
    """What the base has found on a task's images, for people."""
    assert task.kept is not None
    return task.kept.lines(f"{task.split.name} image", "only their absence is measured", "are not measured")

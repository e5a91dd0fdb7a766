"""What of a study failed, in any process, and why; without torch."""

import traceback
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from sam3_hyperet.ablation.failures import Failure, failure_in
from sam3_hyperet.ablation.plan import PRETRAIN, Plan
from sam3_hyperet.ablation.rows import RUNS, TRIALS
from sam3_hyperet.ablation.runs import runs_of, trials_of
from sam3_hyperet.cli.ablation_study import Study
from sam3_hyperet.cli.command import user_message
from sam3_hyperet.errors import UserError
from sam3_hyperet.wording import count_of

_FAULTS = (
    *("illegal memory access", "illegal address", "illegal instruction", "misaligned address"),
    *("device-side assert", "unspecified launch failure", "launch timed out", "hardware stack error"),
    *("uncorrectable ecc error", "invalid program counter"),
)
"""Of CUDA's messages, those of errors that stay until the process ends."""


def reason_of(error: BaseException) -> str:
    """Why something failed, in a line."""
    return user_message(error) or " ".join("".join(traceback.format_exception_only(error)).split())


def loses_device(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, is of those after which a process can compute nothing more on CUDA.

    A lack of memory is none of them, nor is what a library refuses.
    """
    while error is not None:
        text = str(error).lower()
        if any(fault in text for fault in _FAULTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def failures(study: Study) -> dict[Path, Failure]:
    """The failures that the folders of bases, trials and runs tell of."""
    folders = [study.composer.base_folder(*place) for place in study.bases_left()]
    folders += [study.composer.folder_of(run) for run in (*study.trials, *runs_of(study.part))]
    return {folder: failure for folder in folders if (failure := failure_in(folder)) is not None}


def failed_lines(study: Study, plan: Plan) -> list[str]:
    """How many of a plan's bases, trials and runs failed and are not made yet, and why: a line of each kind."""
    recipes = [
        (data, base)
        for data, world in plan.data.items()
        for base, options in world.bases.items()
        if PRETRAIN in options
    ]
    unmade = [place for place in recipes if not study.composer.has_base(*place)]
    failed = {"/".join(place): failure_in(study.composer.base_folder(*place)) for place in unmade}
    lines = [_line("base", len(recipes), failed)]
    for what, layout, runs in (("trial", TRIALS, trials_of(plan)), ("run", RUNS, runs_of(plan))):
        made = {layout.key_of(row): row.get("date", "") for row in study.rows(layout)}
        failed = {}
        for run in runs:
            failure, row_date = failure_in(study.composer.folder_of(run)), made.get(run.key(layout))
            is_open = row_date is None or study.options.changed == "rerun"  # then the row may be of other options
            if failure and is_open and failure.date > (row_date or ""):
                failed[run.name] = failure
        lines.append(_line(what, len(runs), failed))
    return [line for line in lines if line]


def raise_failed(study: Study, here: Mapping[str, str], *, has_lost_device: bool) -> None:
    """Raise a UserError of what failed in the part of the study.

    here: reasons of what failed in this call, by name. has_lost_device: of `Attempts`.
    """
    lines = failed_lines(study, study.part)
    if here and not lines:  # why could not be written, as on a full disk
        lines = [f"failed: {name}: {reason}" for name, reason in here.items()]
    if lines:
        rest = "what else could be made is, and the same command tries again"
        if has_lost_device:
            rest = "after an error of the device this process can compute nothing more; the same command goes on"
        raise UserError(f"{'; '.join(lines)}; {rest}")


def _line(what: str, count: int, failed: Mapping[str, Failure | None]) -> str:
    """The failed ones of so many, by reason; "" for none."""
    by_reason = defaultdict[str, list[str]](list)
    for name, failure in failed.items():
        if failure:
            by_reason[failure.reason].append(name)
    named = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
    return f"{sum(map(len, by_reason.values()))} of {count_of(count, what)} failed: {named}" if named else ""

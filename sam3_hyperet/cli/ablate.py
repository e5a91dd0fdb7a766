"""`sam3-hyperet ablate`: the runs of a plan, here or as a Slurm array, each a row of one CSV; then what the rows say.

Nothing here imports torch before a run begins.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from sam3_hyperet.cli.ablation_failures import raise_failed
from sam3_hyperet.cli.ablation_study import open_study
from sam3_hyperet.cli.ablation_work import left_lines, submit, work, write_results


def main(argv: Sequence[str] | None = None) -> Path:
    """Run the tool, or submit what is missing to Slurm; returns the CSV. Raises UserError at the end if runs failed."""
    study = open_study(list(sys.argv[1:] if argv is None else argv))
    if study.options.runs == 0:
        write_results(study)
        return study.csv
    study.check()
    if not study.options.dry_run:
        for line in study.take_over():
            study.say(line)
    for line in left_lines(study):
        study.say(line)
    if study.options.dry_run:
        return study.csv
    if study.options.launcher.name == "local":
        attempts = work(study)
        write_results(study)
        raise_failed(study, attempts.failed, has_lost_device=attempts.has_lost_device)
    else:
        submit(study)
    return study.csv

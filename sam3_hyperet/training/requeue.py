"""What Slurm tells a job that is to be requeued: submitit's signal, or SIGTERM with the time of a preemption.

Nothing heavy is imported: a job needs it before anything else is loaded.
"""

import os
import signal
import subprocess

import submitit

REQUEUE = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")  # submitit's warning of preemption or of the limit


def is_preempted() -> bool:
    """Whether Slurm is preempting this job.

    Where the cluster grants a preempted job some time (GraceTime), all that it sends at first is SIGTERM, as `scancel`
    does; and a job that ends within that time has failed, and is not requeued.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    try:
        asked = ["scontrol", "--oneliner", "show", "job", job]
        said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=5).stdout if job else ""
    except (OSError, subprocess.SubprocessError):
        return False
    of_job = next((line.split() for line in said.splitlines() if line.startswith(f"JobId={job} ")), [])
    times = [field.partition("=")[2] for field in of_job if field.startswith("PreemptTime=")]
    return bool(times) and times[0] not in ("None", "Unknown", "")

"""A Slurm of one node that a test starts from Debian's `slurm-wlm` and `munge`, and everything to watch a job in it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
CPUS = 7  # that the node claims to have: so many tasks run side by side


def why_not() -> str | None:
    """Why no cluster can be started here."""
    missing = [command for command in COMMANDS if not shutil.which(command)]
    if missing:
        return f"no Slurm here: {', '.join(missing)} not found (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "Slurm's daemons are started as root"


class SlurmCluster:
    """One controller and one node, with files and sockets of their own below `folder`.

    Clients find it by the variable SLURM_CONF.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        munge = [f"--{name}={self.folder / file}" for name, file in self._munge_files().items()]
        self._spawn("munged", "--foreground", "--force", *munge)
        self.wait_for(lambda: (self.folder / "munge.socket").exists(), 20, "munged")
        self.config.write_text(self._config())
        self._spawn("slurmctld", "-D", "-f", str(self.config))
        self._spawn("slurmd", "-D", "-f", str(self.config))
        self.wait_for(lambda: "State=IDLE" in self.ask("scontrol", "show", "node", check=False), 60, "the node")

    def stop(self) -> None:
        """End the jobs, then the daemons."""
        if self.config.exists():
            self.ask("scancel", "--full", "--signal=KILL", "--user=root", check=False)
            self.ask("scancel", "--user=root", check=False)
            deadline = time.monotonic() + 15
            while self.ask("squeue", "--noheader", check=False).strip() and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def ask(self, *command: str, check: bool = True) -> str:
        """What a command of Slurm's prints."""
        environment = {**os.environ, "SLURM_CONF": str(self.config)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What the controller says of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.ask("scontrol", "show", "job", "-o", number)))

    def hurry(self, number: str) -> None:
        """Let a requeued job start soon: Slurm would wait two minutes."""
        self.wait_for(lambda: self.job(number)["JobState"] == "PENDING", 60, f"the requeueing of job {number}", 0.25)
        time.sleep(1.1)  # Slurm takes a start in the second of the requeueing for the one it has ended, and refuses it
        self.ask("scontrol", "update", f"JobId={number}", "StartTime=now")

    def wait_for_end(self, number: str, seconds: float = 120) -> dict[str, str]:
        """The job, once nothing of it runs or waits."""
        busy = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED"}
        self.wait_for(lambda: self.job(number)["JobState"] not in busy, seconds, f"the end of job {number}", 0.25)
        return self.job(number)

    def wait_for(self, condition: Callable[[], bool], seconds: float, what: str, pause: float = 0.05) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [daemon.args[0] for daemon in self._daemons if daemon.poll() is not None]  # type: ignore[index]
            if dead or time.monotonic() > deadline:
                logs = "".join(f"\n{log}:\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))
                queue = self.ask("squeue", check=False) if self.config.exists() else ""
                raise AssertionError(f"waited for {what}; dead daemons: {dead}\n{queue}{logs}")
            time.sleep(pause)

    def _spawn(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out.log").open("wb") as log:
            self._daemons.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder))

    def _munge_files(self) -> dict[str, str]:
        return {
            "socket": "munge.socket",
            "key-file": "munge.key",
            "log-file": "munged.log",
            "pid-file": "munged.pid",
            "seed-file": "munged.seed",
        }

    def _config(self) -> str:
        host, folder = socket.gethostname().partition(".")[0], self.folder
        return f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SwitchType=switch/none
ReturnToService=2
KillWait=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SchedulerParameters=sched_min_interval=100000
NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

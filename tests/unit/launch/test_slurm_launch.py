"""Slurm jobs without a Slurm: options, the script, the job's own setting, and what it expects to take."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from one_line_errors import error_of
from submitit.core.utils import DelayedSubmission

import sam3_hyperet as hy
from sam3_hyperet.cli.command import CONFIGS
from sam3_hyperet.cli.submit import parse_runs
from sam3_hyperet.cli.train import main
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.launch.memory import estimate
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.launch.slurm import ToolJob, kept_variables, open_executor, rendezvous_port, script, submit
from sam3_hyperet.training.options import TrainOptions

SLURM = ["launcher=slurm", "model.checkpoint=random", "experiment=smoke"]


@pytest.fixture
def no_slurm(monkeypatch):
    which = shutil.which
    monkeypatch.setattr("shutil.which", lambda name, *rest: None if name == "srun" else which(name, *rest))


def lines_of(text: str) -> dict[str, str]:
    """Options of an sbatch script by name."""
    return {name: value.strip("'") for name, _, value in re.findall(r"#SBATCH --([\w-]+)(=(.*))?", text)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": 0}, "launcher.nodes=0; expected an integer from 1"),
        ({"tasks_per_node": 0}, "launcher.tasks_per_node=0; expected an integer from 1"),
        ({"timeout_min": 0}, "launcher.timeout_min=0; expected an integer from 1"),
        ({"max_timeouts": -1}, "launcher.max_timeouts=-1; expected an integer from 0"),
        ({"mem_gb": 0.0}, "launcher.mem_gb=0.0; expected a positive number, or null"),
        ({"exclude": "n1 n2"}, "launcher.exclude='n1 n2'; expected names of nodes, joined by commas"),
        ({"exclude": ("n1", "")}, "expected names of nodes, joined by commas"),
        ({"additional": ("x",)}, "launcher.additional=('x',); expected options of sbatch by name"),
        ({"signal_delay_s": 3000}, "takes a signal so early for a preemption, and requeues the job without end"),
        ({"name": "pbs"}, "launcher.name='pbs' is unknown; expected one of slurm, local"),
    ],
)
def test_impossible_options_are_refused(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        SlurmOptions(**values)


@pytest.mark.parametrize(
    ("values", "train", "message"),
    [
        ({"nodes": 2}, {}, "launcher.nodes=2, but train.nodes=1; expected the same number"),
        ({"tasks_per_node": 4}, {"devices": 2}, "launcher.tasks_per_node=4, but train.devices=2"),
        ({"gpus_per_node": 8}, {}, "launcher.gpus_per_node=8, but train.devices=1"),
        ({}, {"accelerator": "gpu"}, "train.accelerator=gpu, but launcher.gpus_per_node=0"),
    ],
)
def test_a_task_drives_a_device(values, train, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        SlurmOptions(**values).check(TrainOptions(max_steps=1, batch_size=1, **train))


def test_gpus_may_be_asked_for_by_an_option_of_sbatch():
    """As on clusters that count them by --gres alone."""
    options = SlurmOptions(tasks_per_node=8, additional={"gres": "gpu:8"})
    options.check(TrainOptions(max_steps=1, batch_size=1, devices=8, accelerator="gpu"))
    assert options.gpus_of_node == "the GPUs of launcher.additional"


def test_every_option_reaches_the_script(tmp_path, no_slurm):
    options = SlurmOptions(
        nodes=2,
        tasks_per_node=4,
        gpus_per_node=4,
        cpus_per_task=7,
        mem_gb=64,
        timeout_min=90,
        signal_delay_s=33,
        partition="long",
        account="vision",
        qos="low",
        constraint="a100",
        exclude=("n1", "n[4-6]"),
        array_parallelism=2,
        setup=("module load cuda",),
        additional={"mail-type": "END"},
    )
    text = script(options, tmp_path, "coco-a", jobs=3)
    found = lines_of(text)
    assert {key: found[key] for key in found if key not in ("error", "output", "wckey")} == {
        "array": "0-2%2",
        "job-name": "coco-a",
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "4",
        "cpus-per-task": "7",
        "mem": "64GB",
        "time": "90",
        "signal": "USR2@33",
        "partition": "long",
        "account": "vision",
        "qos": "low",
        "constraint": "a100",
        "exclude": "n1,n[4-6]",
        "mail-type": "END",
        "open-mode": "append",
        "requeue": "",
    }
    assert "\nmodule load cuda\n" in text
    [srun] = [line for line in text.splitlines() if line.startswith("srun ")]
    assert "--kill-on-bad-exit=1 --wait=0 --cpus-per-task=7 " in srun


def test_what_is_not_asked_for_is_left_to_the_cluster(tmp_path, no_slurm):
    left = {"mem", "partition", "account", "qos", "constraint", "exclude", "gpus-per-node", "array"}
    assert not left & lines_of(script(SlurmOptions(), tmp_path, "a")).keys()


def test_submitting_without_slurm_is_an_error_in_words(tmp_path, no_slurm):
    with pytest.raises(ConfigError, match="launcher=slurm: there is no srun here"):
        open_executor(SlurmOptions(), tmp_path, "a")


def test_what_a_user_tells_sbatch_by_variables_holds_where_no_option_does(tmp_path, monkeypatch):
    """sbatch would follow a variable rather than the script, and submitit takes all of them away."""
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text(f"#!/bin/sh\nenv > {tmp_path / 'told'}\necho Submitted batch job 12\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    given_ = {"ACCOUNT": "vision", "QOS": "low", "WCKEY": "own", "MEM_PER_CPU": "4G"}
    overruled = {"PARTITION": "short", "TIMELIMIT": "5", "JOB_NAME": "y", "NO_REQUEUE": "1", "GPUS": "1"}
    for name, value in (given_ | overruled).items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    monkeypatch.setenv("SLURM_CONF", "/own/slurm.conf")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    executor = open_executor(SlurmOptions(partition="long", gpus_per_node=2), tmp_path / "jobs", "a")
    assert submit(executor, [ToolJob("builtins:print", {"run_dir": "x"}, "")]) == ["12"]
    told = dict(line.split("=", 1) for line in (tmp_path / "told").read_text().splitlines() if "=" in line)
    found = {name: told[name] for name in told if name.startswith(("SBATCH_", "SLURM_"))}
    assert found == {"SLURM_CONF": "/own/slurm.conf", **{f"SBATCH_{name}": value for name, value in given_.items()}}
    own = SlurmOptions(mem_gb=8, additional={"wckey": "mine"})
    assert not kept_variables(script(own, tmp_path, "a"), {"SBATCH_MEM_PER_CPU": "4G", "SBATCH_WCKEY": "own"})


@given(st.integers(0, 2**26))
def test_every_job_meets_at_a_port_of_its_own(job):
    port = rendezvous_port(job)
    assert port == rendezvous_port(job)
    assert 1024 < port < 32768  # no system's port, and none that Linux gives away
    assert len({rendezvous_port(job + other) for other in range(500)}) == 500


@pytest.mark.parametrize(
    ("restarts", "left", "resume"),
    [("0", "state", "never"), ("1", "state", "auto"), ("1", "other", "never"), (None, "state", "never")],
)
def test_only_a_restarted_job_goes_on_from_its_state(monkeypatch, tmp_path, restarts, left, resume):
    monkeypatch.setenv("SLURM_JOB_ID", "21")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("COLUMNS", "100")
    if restarts is None:
        monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    else:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    (tmp_path / left).touch()
    seen = []

    def train(config):
        seen.append((config.resume, os.environ["MASTER_PORT"]))
        signal.raise_signal(signal.SIGTERM)  # scancel, where training itself does not listen

    monkeypatch.setattr("sam3_hyperet.cli.train.train_job", train)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as exit_:
            ToolJob("sam3_hyperet.cli.train:train_job", {"resume": "never", "run_dir": str(tmp_path)}, "state")()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert exit_.value.code == 143
    assert seen == [(resume, str(rendezvous_port(21)))]


def test_a_sweep_is_runs_with_folders_and_configurations_of_their_own(tmp_path):
    arguments = [*SLURM, "scheme=A,A+B", "optim.lr=1e-3,2e-3", "launcher.exclude=n1,n2", f"run_dir={tmp_path}"]
    configs, folder = parse_runs("train", arguments)
    assert folder == tmp_path
    assert [(config.hyperet.scheme, config.optim.lr) for config in configs] == [
        ("A", 1e-3),
        ("A", 2e-3),
        ("A+B", 1e-3),
        ("A+B", 2e-3),
    ]
    names = [config.run_dir.removeprefix(f"{tmp_path}/") for config in configs]
    assert names[0] == "smoke-scheme-A-optim.lr-0.001"
    assert names[3] == "smoke-scheme-A+B-optim.lr-0.002"
    assert {config.launcher.exclude for config in configs} == {"n1,n2"}


def test_without_a_cluster_commas_are_no_sweep(tmp_path):
    configs, folder = parse_runs("train", ["name=a,b", f"run_dir={tmp_path}"])
    assert [config.name for config in configs] == ["a,b"]
    assert folder == tmp_path


def test_a_dry_run_prints_the_script_and_leaves_nothing(tmp_path, capsys, no_slurm):
    run_dir = tmp_path / "run"
    options = ["launcher.dry_run=true", "launcher.mem_gb=8", "train.devices=2", "seed=range(0,2)"]
    main([*SLURM, *options, f"run_dir={run_dir}"])
    out = capsys.readouterr().out
    assert not run_dir.exists()
    expected, script_ = out.split("#!/bin/bash")
    assert [line.partition(": expected: ")[0] for line in expected.splitlines()[:-1]] == [
        f"{run_dir}/smoke-seed-{seed}" for seed in range(2)
    ]
    assert "memory of a process 0.02 GB (4.6 M weights, 0.01 M of them with gradient" in expected
    assert "asked for: 1 x 2 processes; a node has no GPU (launcher.gpus_per_node=0) and 8 GB; 240 min" in expected
    assert lines_of(script_)["ntasks-per-node"] == "2"
    assert "/run/slurm/%A_%a_%t_log.out" in script_


@pytest.mark.parametrize(
    ("options", "is_warned"),
    [
        ([], True),
        (["launcher.gpus_per_node=1"], False),
        (["launcher.additional={gres: 'gpu:a100:1'}"], False),
        (["model=tiny"], False),
    ],
)
def test_the_official_model_without_a_gpu_is_warned_of(tmp_path, capsys, no_slurm, options, is_warned):
    official = ["model=large", "model.checkpoint=random", "launcher.dry_run=true", f"run_dir={tmp_path / 'run'}"]
    main([*SLURM, *official, *options])
    assert ("launcher.gpus_per_node=1 asks for a GPU" in capsys.readouterr().out) == is_warned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launcher.partitions=x"], "; did you mean partition?"),
        (["launcher.timeout_min=soon"], "launcher.timeout_min='soon'; expected an integer"),
        (["launcher.tasks_per_node=2"], "launcher.tasks_per_node=2, but train.devices=1; expected the same number"),
        (["train.devices=1,2"], "the runs of a sweep are one array"),
        (["scheme=A,Z"], "scheme='Z' is unknown; expected one of none, A, B, C, P"),
        (["data.root=a/b,a:b"], "two runs of the sweep would be written to"),
        (["name=bash"], "name=bash: Lightning takes a job of this name for an interactive shell"),
        (["launcher.additional={job-name: interactive}"], "name=interactive: Lightning takes a job"),
        (["resume=/nowhere/state.pt"], "resume=/nowhere/state.pt: no such file"),
        ([], "run would fail: slurm: srun not on the PATH; expected Slurm's commands; remedy: run this on"),
    ],
)
def test_mistakes_are_found_before_anything_is_submitted(tmp_path, capsys, no_slurm, arguments, message):
    run = tmp_path / "run"
    assert message in error_of(main, [*SLURM, f"run_dir={run}", *arguments], capsys, run)[0]


@pytest.mark.parametrize("hyperet", [{}, {"scheme": "A+B", "structure": "diagonal"}, {"adapter": "lora"}])
@pytest.mark.parametrize("stage", [{"number": 1}, {"number": 2}])
def test_parameters_are_counted_without_making_them(another, hyperet, stage, tmp_path):
    expected = estimate({"name": "tiny", "resolution": None}, hyperet, stage, 10, tmp_path)
    model = hy.inject(another(), hy.HyperETConfig.from_mapping(hyperet))
    report = hy.set_stage(model, stage["number"])
    assert (expected.total, expected.trained) == (report.trainable + report.frozen, report.trainable)
    assert expected.memory_gb == pytest.approx(4e-9 * (expected.total + 3 * expected.trained))
    assert "time not known before the first step" in str(expected)


def test_the_time_to_come_is_that_of_the_run_so_far(tmp_path):
    lines = [{"step": 1, "train/seconds": 9.0}, {"step": 4, "train/seconds": 24.0}, {"step": 4, "tune/loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    expected = estimate({"name": "tiny", "resolution": None}, {}, {"number": 1}, 24, tmp_path)
    assert expected.seconds == pytest.approx(6.0 * 20)
    assert "about 2 min at the pace of the run so far" in str(expected)


def test_a_job_is_unpickled_before_anything_heavy_is_loaded(tmp_path):
    """submitit listens to signals only once it is."""
    DelayedSubmission(ToolJob("builtins:print", {"run_dir": "x"}, "")).dump(tmp_path / "job.pkl")
    program = (
        "import sys\n"
        "from submitit.core.utils import DelayedSubmission\n"
        f"job = DelayedSubmission.load({str(tmp_path / 'job.pkl')!r}).function\n"
        "assert job.config == {'run_dir': 'x'}\n"
        "heavy = sorted({'torch', 'sam3', 'lightning_fabric'} & sys.modules.keys())\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=CONFIGS.parent, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_the_configuration_of_a_job_is_plain(tmp_path):
    """submitit pickles it."""
    job = ToolJob(
        "builtins:print", OmegaConf.to_container(parse_runs("train", [*SLURM, f"run_dir={tmp_path}"])[0][0]), ""
    )
    assert type(job.config) is dict
    assert job.config["launcher"]["tasks_per_node"] == 1


@pytest.mark.parametrize(("minutes", "delay"), [(2, 120), (1, 1)])
def test_a_signal_before_the_job_has_begun_is_refused(minutes, delay):
    message = rf"launcher.timeout_min={minutes}, but Slurm's signal comes launcher.signal_delay_s={delay} before it"
    with pytest.raises(ConfigError, match=message):
        SlurmOptions(timeout_min=minutes, signal_delay_s=delay)
    SlurmOptions(timeout_min=minutes + 1, signal_delay_s=delay)

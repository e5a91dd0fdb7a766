"""`sam3-hyperet`: one command for all tools; help and mistakes come without torch."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam3_hyperet.cli import console
from sam3_hyperet.cli.console import TOOLS, main
from sam3_hyperet.version import __version__

REPOSITORY = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "sam3", "lightning_fabric", "matplotlib", "cv2", "scipy")


CASES = [
    ([], 0, "usage: "),
    (["--help"], 0, "  merge "),
    (["train", "--help"], 0, "choices, the default first"),
    (["train", "--cfg"], 0, "max_steps: 300"),
    (["evaluate", "--help", "protocol"], 0, "protocol.min_score=0.0"),
    (["train", "seed=one"], 1, "seed='one'; expected an integer from 0"),
    (["train", "train.strategy=fsdp"], 1, "train.strategy=fsdp in stage 1; expected stage=3 alone"),
    (["train", "hyperet.curvature=-1"], 1, "curvature=-1; expected a positive number"),
    (["evaluate", "resume=yes"], 1, "resume='yes'; expected auto or never"),
    (["predict", "images=x", "prompts=y", "score_threshold=2"], 1, "score_threshold=2; expected a probability"),
    (["trian"], 1, "'trian' is no tool; expected one of train, evaluate"),
    (["train", "optim.lrr=1"], 1, "optim.lrr is not an option; expected one of lr"),
    (["train", "launcher=slurm", "scheme=A,Z"], 1, "scheme='Z' is unknown"),
    (["predict", "prompts=[car]"], 1, "needs images=…"),
    (["score", "coco"], 1, "needs gt=… predictions=…"),
    (["prepare", "dat=coco"], 1, "did you mean data?"),
    (["init", "--help"], 0, "Files that exist are left alone"),
    (["init"], 1, "needs data.root=…"),
    (["doctor", "data.rot=x"], 1, "did you mean root?"),
    (["merge", "output=x"], 1, "did you mean out?"),
    (["export", "--help"], 0, "Nothing is written where they differ"),
    (["export", "bboxes=2"], 1, "did you mean boxes?"),
    (["ablate", "evidence", "only=lorents"], 1, "only='lorents' is unknown; expected one of"),
    (
        ["radius", "encoder=timm:a", "images=x", "scale=height"],
        1,
        "scale='height' is unknown; expected one of width",
    ),
    (["info", "--help"], 0, "--json prints the same as JSON"),
    (["push", "x"], 1, "needs repo=…"),
    (["benchmark"], 1, "subcommand is missing; there are attention, "),
    (["pretrain", "data=voc"], 1, "data='voc' is unknown"),
]
# what reads the command line takes longer to import than a case takes: one process imports it and forks them all
PROGRAM = """
import json, os, sys
import sam3_hyperet.cli.command
for number, arguments in enumerate(json.loads(sys.argv[1])):
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with open(f"{number}.code", "w") as file:
            file.write(str(status))
        continue
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
    sys.argv[1:] = arguments
    try:
        from sam3_hyperet.cli.console import main
        main(arguments)
    finally:
        print("modules:", *sys.modules)
    sys.exit()
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A folder with the exit status, output and errors of every case, by its number."""
    folder = tmp_path_factory.mktemp("cases")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", PROGRAM, json.dumps([arguments for arguments, _, _ in CASES])]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return folder


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: " ".join(CASES[number][0]))
def test_help_and_mistakes_do_not_import_torch(ended, number):
    _, code, message = CASES[number]
    status, out, err = ((ended / f"{number}.{name}").read_text() for name in ("code", "out", "err"))
    assert int(status) == code, err
    assert message in (err if code else out)
    _, _, modules = out.rpartition("modules: ")
    assert "sam3_hyperet.cli.console" in modules.split()
    assert not set(HEAVY) & set(modules.split())
    assert err.count("\n") == code


def test_every_tool_is_a_function_with_a_door():
    for tool, (function, _) in TOOLS.items():
        module, _, name = function.partition(":")
        assert callable(getattr(importlib.import_module(f"sam3_hyperet.cli.{module}"), name))
        assert f'run_tool("{tool}")' in (REPOSITORY / "tools" / f"{tool}.py").read_text()
    assert {path.stem for path in (REPOSITORY / "tools").glob("*.py")} == TOOLS.keys()


def test_a_tool_gets_the_other_arguments(monkeypatch, capsys):
    got = []
    monkeypatch.setattr("sam3_hyperet.cli.merge.main", got.append)
    main(["merge", "adapter=x", "out=y"])
    assert got == [["adapter=x", "out=y"]]
    main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


def test_benchmarks_are_in_the_repository(monkeypatch, tmp_path, capsys):
    import sam3_hyperet.cli.benchmark

    configs = tmp_path / "configs"
    configs.symlink_to(sam3_hyperet.cli.benchmark.CONFIGS)
    monkeypatch.setattr(sam3_hyperet.cli.benchmark, "CONFIGS", configs)
    with pytest.raises(SystemExit):
        console.main(["benchmark", "ops"])
    assert "benchmarks/ is not in the installed package; expected a clone of the repository" in capsys.readouterr().err


@pytest.mark.parametrize("during", ["hydra", "torch"])
def test_an_interrupt_in_the_first_seconds_is_one_line(during, tmp_path):
    """While the imports run."""
    program = (
        "import builtins, runpy, sys\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *rest, **options):\n"
        f"    if name == {during!r}:\n"
        "        raise KeyboardInterrupt\n"
        "    return real(name, *rest, **options)\n"
        "builtins.__import__ = interrupted\n"
        f"sys.argv = ['tools/train.py', 'experiment=smoke', 'run_dir={tmp_path / 'run'}']\n"
        "runpy.run_path('tools/train.py', run_name='__main__')\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (130, "error: interrupted\n")
    assert not (tmp_path / "run").exists()

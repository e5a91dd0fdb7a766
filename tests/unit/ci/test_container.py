"""The container's two recipes: the same files and steps, nobody is root, and what the steps' script does."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "container"
DOCKERFILE, DEFINITION = (FOLDER / name for name in ("Dockerfile", "apptainer.def"))
STEP = re.compile(r"sh /src/container/install\.sh /src /opt/sam3-hyperet")


def copied_by_docker() -> dict[str, str]:
    """Place of each file and folder that the Dockerfile takes from the repository."""
    found = {}
    for line in DOCKERFILE.read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            *names, place = line.split()[1:]
            found |= {name: place + name if place.endswith("/") else place for name in names}
    return found


def section(name: str) -> list[str]:
    """The lines of a section of the Apptainer definition."""
    _, _, rest = DEFINITION.read_text().partition(f"\n%{name}\n")
    return [line.strip() for line in rest.partition("\n%")[0].splitlines() if line.strip()]


def test_both_copy_the_same_files_and_all_that_a_wheel_needs():
    copied = copied_by_docker()
    assert copied == dict(line.split() for line in section("files"))
    assert all((REPOSITORY / name).exists() for name in copied)
    source = (REPOSITORY / "tests" / "integration" / "test_wheel.py").read_text()
    needed = ast.literal_eval(re.search(r"^SOURCES = (\(.*\))$", source, re.MULTILINE)[1])  # a wheel of these is tested
    assert set(needed) <= copied.keys()


def test_both_run_the_same_step_on_the_same_python():
    docker, definition = DOCKERFILE.read_text(), DEFINITION.read_text()
    assert len(STEP.findall(docker)) == len(STEP.findall("\n".join(section("post")))) == 1
    python = re.search(r"^ARG PYTHON=(.+)$", docker, re.MULTILINE)[1]
    assert f"From: python:{python}-slim" in definition
    assert "ARG TORCH_INDEX=default" in docker
    assert section("arguments") == ["TORCH_INDEX=default"]
    assert docker.count("pip install") == definition.count("pip install") == 0


def test_nobody_is_root_and_caches_are_mounted():
    docker = DOCKERFILE.read_text()
    assert re.findall(r"^USER (.+)$", docker, re.MULTILINE) == ["1000:1000"]
    assert docker.index("USER 1000") > docker.index("RUN mkdir")
    assert "HF_HOME=/cache/huggingface" in docker
    for recipe in (docker, DEFINITION.read_text()):
        assert not re.search(r"HF_TOKEN|\.cache|checkpoint|runs/", recipe)


@pytest.fixture
def installed(tmp_path):
    """A function that runs the script with a Python that records what it is asked, and returns the record."""

    def run(*arguments: str) -> list[str]:
        record, environment = tmp_path / "record", tmp_path / "environment"
        record.write_text("")
        say = f'#!/bin/sh\necho "$(basename "$0") $*" >> {record}\n'
        made = environment / "bin"
        make = f"mkdir -p {made}; cp {tmp_path}/said {made}/python; cp {tmp_path}/said {made}/sam3-hyperet\n"
        for path, text in ((tmp_path / "said", say), (tmp_path / "python3", say + make)):
            path.write_text(text)
            path.chmod(0o755)
        command = ["sh", str(FOLDER / "install.sh"), "/src", str(environment), *arguments]
        subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
        return record.read_text().replace(str(environment), "ENV").splitlines()

    return run


def test_the_steps(installed):
    pip = "python -m pip --disable-pip-version-check install --no-cache-dir"
    torch = "torch>=2.7 torchvision>=0.22"
    made, first, second, last = installed()
    assert (made, first) == ("python3 -m venv ENV", f"{pip} {torch}")
    assert (second, last) == (f"{pip} /src", "sam3-hyperet --help")
    assert installed("default")[1] == f"{pip} {torch}"
    assert installed("file:///wheels")[1] == f"{pip} --index-url file:///wheels {torch}"
    stated = (REPOSITORY / "setup.cfg").read_text()
    assert all(f"    {one}\n" in stated for one in torch.split())

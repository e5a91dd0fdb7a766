"""Commands in processes of their own, forked from one that has imported and built once what most of them need.

Nothing that a command leaves in its process reaches another or the tests, and its memory is returned.
"""

from __future__ import annotations

import importlib
import inspect
import io
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from forked_tools import REPOSITORY, end_with, server, status_of

_SECONDS = 300
_COMPOSED = "composed"


@dataclass(frozen=True)
class Done:
    """How a process ended, and what it printed."""

    status: int
    output: str


class CommandServer:
    """The process that forks one for every call; `hub` is the address that stands for the Hugging Face hub."""

    def __init__(self, hub: str, token: str) -> None:
        self._connection, there = server().Pipe()
        self._process = server().Process(target=_serve, args=(there, hub, token), daemon=True)
        self._process.start()
        there.close()

    def run(self, function: Callable[..., object], *arguments: object, folder: Path) -> Done:
        """Call a function of a module, in a folder. Its output goes to a file there."""
        self._connection.send((function, arguments, folder))
        return Done(self._connection.recv(), (folder / "output.txt").read_text(encoding="utf-8"))

    def compose(self, tool: str, arguments: list[str], folder: Path) -> None:
        """Compose a command in the server itself, whose processes then find the files read."""
        self._connection.send((_COMPOSED, [tool, *arguments], folder))
        self._connection.recv()

    def stop(self) -> None:
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, hub: str, token: str) -> None:
    import gc

    import torch
    from huggingface_hub import constants
    from matplotlib import pyplot
    from micro_model import MICRO
    from PIL import Image

    from sam3_hyperet.cli.command import parse_command
    from sam3_hyperet.cli.console import TOOLS
    from sam3_hyperet.modeling import build

    for tool in TOOLS:
        importlib.import_module(f"sam3_hyperet.cli.{tool}")
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_TOKEN": token, "HYDRA_FULL_ERROR": "1"}  # an error is raised as it is
    constants.ENDPOINT = hub
    constants.HUGGINGFACE_CO_URL_TEMPLATE = hub + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_DISABLE_XET, constants.HF_HUB_OFFLINE = True, False
    build.ARCHITECTURES["large"] = MICRO
    build.build_model("large", checkpoint="random")  # reads the tokenizer's vocabulary
    Image.init()  # imports a reader for each kind of file
    pyplot.figure().savefig(io.BytesIO(), format="svg")  # finds the fonts
    pyplot.close()
    gc.freeze()
    while True:
        try:
            function, arguments, folder = connection.recv()
        except EOFError:
            return
        if function == _COMPOSED:
            os.chdir(folder)
            parse_command(arguments[0], arguments[1:])
            connection.send(0)
            continue
        child = os.fork()
        if not child:
            connection.close()
            end_with(lambda: _become(function, arguments, folder))  # noqa: B023  (it never returns)
        connection.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _become(function: Callable[..., object], arguments: tuple[object, ...], folder: Path) -> int:
    from huggingface_hub import constants

    signal.alarm(_SECONDS)  # whatever hangs is killed
    os.chdir(folder)
    with Path("output.txt").open("w", encoding="utf-8") as opened:
        for number in (1, 2):
            os.dup2(opened.fileno(), number)
    warnings.simplefilter("error")
    constants.HF_HUB_CACHE = str(folder / "cache")
    return status_of(lambda: function(*arguments))


def run_tool(arguments: list[str]) -> None:
    """`sam3-hyperet` with these arguments."""
    from sam3_hyperet.cli.console import main

    tool = arguments[0]
    sys.argv = ["sam3-hyperet", *arguments]
    if tool == "evaluate":
        _write_no_page()
    elif tool == "forecast":
        _forecast_nothing()
    elif tool == "demo":
        _serve_nothing()
    elif tool == "export":
        _write_no_graphs()
    elif tool == "radius":
        _open_small_encoders()
    elif tool == "benchmark":
        _measure_nothing()
    main(arguments)


def run_script(script: Path, arguments: list[str]) -> None:
    """`python SCRIPT` with these arguments."""
    sys.argv = [str(script), *arguments]
    if script.stem == "benchmark":
        _measure_nothing()
    runpy.run_path(str(script), run_name="__main__")


def run_blocks(blocks: dict[str, str], base: str, folder: Path) -> None:
    """Blocks of Python of a page, by where they are, one behind the other, on a base."""
    sys.argv = ["example"]
    names = _names(base, folder)
    for place, code in blocks.items():
        exec(compile(code, place, "exec"), names)


def _names(base: str, folder: Path) -> dict[str, Any]:
    """What the blocks take for granted, and adapters of the base in files."""
    import torch
    from PIL import Image
    from sam3.model.sam3_image_processor import Sam3Processor

    import sam3_hyperet as hy
    from sam3_hyperet.modeling.parameters import adapter_parameters

    checkpoint = "sam3.pt" if base == "large" else None
    model, other = (hy.build_model(base, checkpoint=checkpoint) for _ in range(2))
    hy.inject(other, {"scheme": "A", "geometry": "euclidean"})  # which folds
    for name in ("adapter", "cars", "parts"):
        (folder / f"{name}.safetensors").unlink(missing_ok=True)  # it may be a link to another's
        hy.save_adapter(other, folder / f"{name}.safetensors")
    trained = folder / "log_dir" / "checkpoints" / "checkpoint.pt"
    trained.parent.mkdir(parents=True)
    micro = hy.inject(hy.build_model("large", checkpoint="sam3.pt"), {"scheme": "A"})
    torch.save({"model": dict(adapter_parameters(micro))}, trained)
    hy.remove_adapter(other)
    image = Image.new("RGB", (640, 480))
    processor = Sam3Processor(model, resolution=hy.resolution(model), device="cpu")
    state = processor.set_image(image)
    video = SimpleNamespace(detector=other)
    return {"hy": hy, "model": model, "video": video, "image": image, "processor": processor, "state": state}


def _write_no_page() -> None:
    """In place of a report's figures and page, which take half of an evaluation's time here."""
    from sam3_hyperet.report import comparison_report

    def written(report: object, path: Path, **_: object) -> Path:
        path.write_text("<html></html>")
        return path

    comparison_report.write_report = written  # type: ignore[assignment]


def _forecast_nothing() -> None:
    """In place of steps on a pretended device, which take seconds."""
    from sam3_hyperet.cli import forecast

    class Forecasts:
        def __init__(self, kind: object) -> None:
            self.kind = kind

        def step(self, *_: int, **__: object) -> SimpleNamespace:
            return SimpleNamespace(peak=2**30)

        def interpolated(self, *_: int, **__: object) -> int:
            return 2**30

    forecast.Forecaster = Forecasts  # type: ignore[assignment, misc]


def _serve_nothing() -> None:
    """In place of the page with Gradio, which takes seconds to import: it is served, and Ctrl-C is pressed."""
    from sam3_hyperet.cli import demo

    @contextmanager
    def served(*_: object, **__: object):
        yield "http://127.0.0.1:7860"

    class Interrupted:
        def wait(self) -> None:
            raise KeyboardInterrupt

    page: Any = ModuleType("sam3_hyperet.demo.page")
    page.Start, page.served = lambda *_: None, served
    sys.modules[page.__name__] = page
    demo.threading = SimpleNamespace(Event=Interrupted)  # type: ignore[assignment]


def _write_no_graphs() -> None:
    """In place of half a minute in `torch.onnx`; the model is opened and folded, its outputs are computed before."""
    from sam3_hyperet.cli import export

    def written(model: object, out: Path, *_: object) -> dict[str, Any]:
        out.mkdir()
        return {"difference_from_pytorch": {"scores": 0.0}}

    export.export_onnx = written


def _open_small_encoders() -> None:
    """In place of timm's weights; that the names exist and take the resolutions is checked before."""
    from sam3_hyperet.cli import radius
    from sam3_hyperet.modeling.encoders.opening import open_encoder

    def small(name: str, side: int, *_: object, **__: object) -> object:
        return replace(open_encoder("timm:test_vit", side), name=name)

    radius.open_encoder = small  # type: ignore[assignment]


def _measure_nothing() -> None:
    """In place of minutes of measuring: that the benchmark is there and takes the options."""
    from sam3_hyperet.cli import benchmark

    def found(subcommand: str, options: dict[str, Any]) -> dict[str, object]:
        sys.path.insert(0, str(REPOSITORY))
        options.pop("out", None)
        inspect.signature(importlib.import_module(f"benchmarks.{subcommand}").run).bind(**options)
        return {}

    benchmark.benchmark = found

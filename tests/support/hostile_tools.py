"""The tools, each with a command line that works on the tree of `hostile_trees`."""

from __future__ import annotations

from pathlib import Path

from hostile_trees import ADAPTER, ANNOTATIONS

from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.evaluate import main as evaluate
from sam3_hyperet.cli.merge import main as merge
from sam3_hyperet.cli.predict import main as predict
from sam3_hyperet.cli.prepare import main as prepare
from sam3_hyperet.cli.score import main as score
from sam3_hyperet.cli.train import main as train

MODEL = ("model=tiny", "model.checkpoint=random")
COCO = ("data=coco", "data.root={}/coco", "data.splits={{train:train,val:val}}", "data.tune_images=0")
MAPS = (
    *("data=camvid", "data.root={}/maps", "data.names=names.txt", "data.ignore=255"),
    "data.splits={{train:[pictures,labels],tune:[pictures,labels],val:[pictures,labels]}}",
)
TOOLS = {
    "score coco": (score, ("coco", "gt={}/" + ANNOTATIONS, "predictions={}/detections.json", "out={}/out.json")),
    "score semantic": (
        score,
        (
            *("semantic", "labels={}/maps/labels", "predictions={}/maps/predictions"),
            *("names={}/maps/names.txt", "out={}/out.json"),
        ),
    ),
    "evaluate coco": (evaluate, (*MODEL, *COCO, "run_dir={}/out", "protocol.examples=0", "device=cpu")),
    "evaluate maps": (evaluate, (*MODEL, *MAPS, "run_dir={}/out", "protocol.examples=0", "device=cpu")),
    "evaluate adapter": (
        evaluate,
        (*MODEL, *COCO, "adapter={}/" + ADAPTER, "run_dir={}/out", "protocol.examples=0", "device=cpu"),
    ),
    "train coco": (
        train,
        (*MODEL, *COCO, "run_dir={}/out", "train.max_steps=1", "optim.warmup=0", "logger=none", "evaluate=false"),
    ),
    "train maps": (
        train,
        (*MODEL, *MAPS, "run_dir={}/out", "train.max_steps=1", "optim.warmup=0", "logger=none", "evaluate=false"),
    ),
    "predict": (
        predict,
        (
            *(*MODEL, "images={}/coco/val/1.png", "prompts=[car]"),
            *("adapter={}/" + ADAPTER, "run_dir={}/out", "device=cpu"),
        ),
    ),
    "merge": (merge, (*MODEL, "adapter={}/" + ADAPTER, "out={}/out.pt", "device=cpu")),
    "prepare": (prepare, (*COCO[1:], "counts=null", "out=null")),
}


def run_tool(tool: str, root: Path, *options: str) -> None:
    """Run a tool in this process on the tree at `root`, as its script does."""
    main, arguments = TOOLS[tool]
    values = [argument.format(root) for argument in (*arguments, *options)]
    exit_cleanly(main)(values)

"""What `train` prints at its end."""

from __future__ import annotations

import io
import shlex
from functools import partial

from coco_cases import Case, write_case
from rich.console import Console

from sam3_hyperet.cli.after_training import print_next
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.data.coco import read_coco


def test_the_next_command_prompts_for_what_is_annotated_and_can_be_pasted(tmp_path):
    def with_a_root(content):
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        content["categories"][1]["name"] = 'car, "red"'

    root = write_case(tmp_path / "my shop", Case(with_a_root))
    images, held_out = (read_coco(root / f"annotations/instances_{s}.json", root / s) for s in ("train", "val"))
    console = Console(record=True, file=io.StringIO())
    say = partial(console.print, markup=False, soft_wrap=True)
    print_next(say, tmp_path / "run", images, held_out)
    command = shlex.split(console.export_text().splitlines()[-1].removeprefix("next: "))
    assert command[3] == f"images={root / 'val/0001.png'}"
    values = parse_command("predict", command[3:])[1]  # the run is none
    assert list(values.prompts) == ['car, "red"', "house"]

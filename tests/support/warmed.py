"""What every forked run needs first, done once where it is imported: options composed, the tokenizer built."""

from __future__ import annotations

import gc
import os

import torch
from forked_tools import OF_CALLER

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.modeling.build import build_model

os.environ["PYTHONPATH"] = os.environ.pop(OF_CALLER, "")
torch.set_num_threads(1)
os.fsync = lambda _: None  # as in tests/conftest.py
parse_command("train", ["experiment=smoke", "logger=none"])
build_model("tiny", checkpoint="random")
gc.collect()
gc.freeze()

"""Configurations that are handed out: each is the caller's own, of the files as they are, with nothing left open."""

from __future__ import annotations

import os
import re

import pytest
from omegaconf import OmegaConf

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.errors import ConfigError

OPEN = {"b": "???", "a": {"c": "???", "d": ["x", "???", {"e": "???"}]}, "g": {}, "h": None}


def test_what_is_changed_changes_no_later_one_and_a_tool_s_file_is_read_anew(tmp_path):
    (tmp_path / "shape").mkdir()
    (tmp_path / "shape/tiny.yaml").write_text("sides: [1, 2]\n")
    tool = tmp_path / "check.yaml"
    tool.write_text("defaults: [_self_, shape: tiny]\n")
    config = parse_command("check", [], tmp_path)[1]
    config.shape.sides[0] = 9
    assert parse_command("check", [], tmp_path) == ("", {"shape": {"sides": [1, 2]}})
    written = tool.stat().st_mtime_ns
    tool.write_text("defaults: [_self_]\nseed: 3\n")
    os.utime(tool, ns=(written + 1, written + 1))
    assert parse_command("check", [], tmp_path) == ("", {"seed": 3})


def test_what_was_left_without_a_value_is_what_omegaconf_finds(tmp_path):
    found = sorted(OmegaConf.missing_keys(OmegaConf.create(OPEN)))
    assert found == ["a.c", "a.d[1]", "a.d[2].e", "b"]
    OmegaConf.save(OmegaConf.create({**OPEN, "f": "${b}"}), tmp_path / "check.yaml")
    needs = " ".join(f"{key}=…" for key in found)
    with pytest.raises(ConfigError, match=re.escape(f"check: needs {needs} (see --help)")):
        parse_command("check", [], tmp_path)

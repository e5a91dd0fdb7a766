"""`--help`: choices, keys, and the options of a section with the tool's own defaults."""

from __future__ import annotations

import re

import pytest

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.errors import ConfigError


def test_help_lists_choices_and_keys_and_explains_sections(capsys):
    def said(tool, *arguments):
        with pytest.raises(SystemExit) as exit_:
            parse_command(tool, [*arguments, "--help"])
        assert exit_.value.code == 0
        return capsys.readouterr().out

    text = said("train")
    assert re.search(r"data +scenes \| ade20k .* coco ", text)
    assert re.search(r"stage +1 \| 2 \| 3 \| schedule", text)
    assert "scheme: B+prompt # where adapters go" in text
    assert re.search(r"optim +lr base_lr", text)
    text = said("train", "optim")
    assert "optim.lr=0.003   highest learning rate of the adapters." in text
    assert "max_steps" not in text
    defaults = said("train", "hyperet", "train", "launcher")  # the tool's, which differ from the dataclasses'
    assert all(one in defaults for one in ("hyperet.gate=auto ", "hyperet.scheme=B+prompt ", "train.save_every=100 "))
    assert "launcher.cpus_per_task=4 " in defaults
    assert "model.name=large " in said("forecast", "model")
    assert "hyperet.geometry=mobius " in said("train", "hyperet", "experiment=paper")
    assert "paths." not in said("evaluate", "data")
    assert "None" not in defaults
    assert " ablate PLAN key=value …\n" in said("ablate")
    assert "data=own.yaml" not in said("ablate")
    assert said("ablate", "evidence") == said("ablate")
    assert re.search(r"model +as run= has it \| large \| tiny", said("evaluate"))
    assert re.search(r"paths +scenes coco ", said("evaluate"))
    assert "scheme: none" in said("pretrain")
    assert re.search(r"cache +folder dtype", said("pretrain"))
    assert "experiment=demo" in said("train", "experiment")
    with pytest.raises(ConfigError, match=r"train --help: section 'optm' is unknown .did you mean optim"):
        parse_command("train", ["--help", "optm"])

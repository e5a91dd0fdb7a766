"""Training lowers the loss of the tiny model, and leaves the base alone."""

from __future__ import annotations

import pytest
import torch

from sam3_hyperet.modeling.fingerprint import base_fingerprint


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_loss_falls_and_the_base_stays(start, stream, precision):
    run = start()
    before, adapters = base_fingerprint(run.model), run.adapters()
    result = run.fit(max_steps=16, precision=precision, lr=1e-2)
    losses = [line["train/loss"] for line in run.lines() if "train/loss" in line]
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert base_fingerprint(run.model) == before
    assert not [name for name, p in run.adapters().items() if torch.equal(p, adapters[name])]
    assert {p.dtype for p in run.adapters().values()} == {torch.float32}
    assert (result.step, result.skipped_steps) == (16, 0)
    assert not any(module.training for module in run.model.modules())

"""Every control: the base at first and at dial 0, the same from a file, and folded at its dial."""

from __future__ import annotations

import pytest
import torch
from answers import answers, equal, largest_relative_difference

import sam3_hyperet as hy

KINDS = {
    "lora": {"sites": ["trunk_qv", "prompt", "fpn"], "rank": 3},
    "dora": {"sites": ["trunk_qv", "prompt", "fpn"], "rank": 3},
    "ia3": {"sites": ["encoder_layer", "fpn"]},
    "oft": {"scheme": "A+B"},
    "boft": {"sites": ["pixel_decoder", "trunk_qv"], "oft_block_size": 4},
    "ln": {},
    "bitfit": {},
}


@pytest.fixture(scope="module")
def expected(base, picture):
    return answers(base, picture)


@pytest.fixture(scope="module")
def expected_in_bfloat16(base, picture):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return answers(base, picture)


@pytest.mark.parametrize("adapter", KINDS)
def test_a_control(adapter, base, another, picture, expected, expected_in_bfloat16, randomized, tmp_path):
    model, path = hy.inject(another(), {"adapter": adapter, **KINDS[adapter]}), tmp_path / "adapter.safetensors"
    assert equal(answers(model, picture), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert equal(answers(model, picture), expected_in_bfloat16)
    randomized(model, scale=0.1)
    full = answers(model, picture)
    assert largest_relative_difference(full, expected) > 1e-3
    hy.set_dial(model, 0.4)
    hy.save_adapter(model, path)
    between = answers(hy.adapted_copy(base, path), picture)
    assert equal(answers(model, picture), between)
    assert not equal(between, full)
    for dial, known in ((1, full), (0, expected)):
        hy.set_dial(model, dial)
        assert equal(answers(model, picture), known)
    hy.set_dial(model, 0.4)
    assert largest_relative_difference(answers(hy.merge(model), picture), between) <= 1e-5

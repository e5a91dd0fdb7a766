"""Names of precisions, what a device makes of them, and TF32 as a setting that is left as it was found."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.precision import device_of, float32_products, precision_text, resolved_precision

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


@pytest.fixture
def card(monkeypatch):
    """A function that pretends a card with or without bfloat16; None for no card."""

    def pretend(bf16: bool | None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bf16 is not None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")

    return pretend


@pytest.mark.parametrize(
    ("name", "on_cpu", "on_old", "on_new"),
    [
        ("auto", "32-true", "32-true", "bf16-mixed"),
        ("32-true", "32-true", "32-true", "32-true"),
        ("tf32", "32-true", "32-true", "tf32"),
        ("bf16-mixed", "bf16-mixed", None, "bf16-mixed"),
    ],
)
def test_a_name_becomes_what_the_device_computes_in(card, name, on_cpu, on_old, on_new):
    assert resolved_precision(name, "cpu") == on_cpu
    card(True)
    assert resolved_precision(name, "cuda") == on_new
    card(False)
    if on_old:
        assert resolved_precision(name, "cuda") == on_old
    else:
        expected = "train.precision=bf16-mixed, but Tesla V100 does not compute in bfloat16; expected auto or 32-true"
        with pytest.raises(ConfigError, match=expected):
            resolved_precision(name, "cuda", "train.precision")


def test_what_a_run_says(card):
    card(None)
    assert precision_text("32-true", "32-true", "cpu") == "precision: 32-true on cpu"
    assert precision_text("auto", "32-true", "cpu") == "precision: 32-true on cpu (auto; PyTorch finds no CUDA device)"
    card(True)
    assert precision_text("auto", "bf16-mixed", "cuda") == "precision: bf16-mixed on cuda (auto)"
    assert [device_of(name) for name in ("auto", "gpu", "cuda", "cpu")] == ["cuda", "cuda", "cuda", "cpu"]
    card(None)
    assert device_of("auto") == "cpu"


@pytest.mark.parametrize("before", [(False, True), (True, False)])
def test_tf32_is_on_for_tf32_alone_and_restored(before):
    found = MATMUL.allow_tf32, CUDNN.allow_tf32
    try:
        MATMUL.allow_tf32, CUDNN.allow_tf32 = before
        for precision, allowed in (("tf32", True), ("32-true", False), ("bf16-mixed", False)):
            with float32_products(precision):
                assert (MATMUL.allow_tf32, CUDNN.allow_tf32) == (allowed, allowed)
            assert (MATMUL.allow_tf32, CUDNN.allow_tf32) == before
    finally:
        MATMUL.allow_tf32, CUDNN.allow_tf32 = found


@pytest.mark.skipif(not hasattr(MATMUL, "fp32_precision"), reason="PyTorch before 2.9")
def test_tf32_that_was_set_by_the_newer_interface():
    """In a process of its own: PyTorch refuses to read by one interface what was set by the other."""
    program = (
        "import warnings; warnings.simplefilter('error')\n"
        "import torch\n"
        "from sam3_hyperet.precision import float32_products\n"
        "matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv\n"
        "matmul.fp32_precision, conv.fp32_precision = 'tf32', 'ieee'\n"
        "for precision, expected in (('tf32', 'tf32'), ('32-true', 'ieee')):\n"
        "    with float32_products(precision):\n"
        "        assert matmul.fp32_precision == conv.fp32_precision == expected\n"
        "    assert (matmul.fp32_precision, conv.fp32_precision) == ('tf32', 'ieee')\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr

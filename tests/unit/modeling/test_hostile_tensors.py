"""Base and adapter files that nobody should have: one line that names file and key, or a loaded model; never a hang."""

from __future__ import annotations

import json
import struct
import time
import warnings
import zipfile

import pytest
import torch
from refused_bases import refused_in_one_line
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from special_files import SPECIAL, replace_by

import sam3_hyperet as hy
from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.modeling.checkpoint import load_base, save_base
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.tensor_files import read_state
from sam3_hyperet.training.state import read_state as read_training_state

KEY = "dot_prod_scoring.hs_proj.weight"


@pytest.fixture
def state(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def one(make):
    """Save a state in which the tensor KEY is made into another."""
    return lambda state, path: torch.save({**state, KEY: make(state[KEY])}, path)


def repacked(state, path):
    torch.save(state, path.with_suffix(".bin"))
    with zipfile.ZipFile(path.with_suffix(".bin")) as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))


def endless(state, path):
    content: dict[str, object] = {}
    content["model"] = content
    torch.save(content, path)


def claims_terabytes(state, path):
    header = json.dumps({KEY: {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}).encode()
    path.with_suffix(".safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    path.with_suffix(".safetensors").rename(path)


PT = {
    "integer keys": (lambda s, p: torch.save(dict(enumerate(s.values())), p), r"has the key 0, expected names"),
    "sparse": (one(torch.Tensor.to_sparse), rf"{KEY} is a sparse tensor"),
    "sparse rows": (one(torch.Tensor.to_sparse_csr), rf"{KEY} is a sparse tensor"),
    "meta": (one(lambda t: t.to("meta")), rf"{KEY} is a meta tensor"),
    "quantised": (one(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)), rf"{KEY} is a quantised tensor"),
    "complex": (one(lambda t: t.to(torch.complex64)), rf"{KEY} is complex64; expected float32, bfloat16"),
    "integers": (one(torch.Tensor.long), rf"{KEY} is int64; expected float32"),
    "truth values": (one(torch.Tensor.bool), rf"{KEY} is bool; expected float32"),
    "float8": (one(lambda t: t.to(torch.float8_e4m3fn)), rf"{KEY} is float8_e4m3fn; quantised weights need scales"),
    "all NaN": (lambda s, p: torch.save({k: v * float("nan") for k, v in s.items()}, p), r"(\d+) of \1 weights have"),
    "too large for 32 bits": (one(lambda t: t.double() + 1e300), r"1 of \d+ weights have values that are not finite"),
    "zero size": (one(lambda t: t[:0]), rf"{KEY} has shape \(0, 64\), expected \(64, 64\)"),
    "one number, endlessly": (one(lambda t: t[:1, 0].expand(2**40)), rf"{KEY} has shape .* the file is too small"),
    "containers": (lambda s, p: torch.save({"epoch": 3, "ema": {"model": s}}, p), r"with the keys 'epoch', 'ema'; exp"),
    "in itself": (endless, r"holds no tensors by name; found dict with the keys 'model'"),
    "lists": (lambda s, p: torch.save({"model": list(s.values())}, p), r"holds no tensors by name"),
    "a compressed archive": (repacked, r"it is a compressed archive"),
    "terabytes": (claims_terabytes, r"not a readable safetensors file"),
    "both names": (lambda s, p: torch.save(s | {f"module.{KEY}": s[KEY] + 1}, p), rf"as {KEY} and as module.{KEY}"),
    "prefix first": (lambda s, p: torch.save({f"detector.{KEY}": s[KEY], **s}, p), rf"as detector.{KEY} and as {KEY}"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PT)
def test_a_base_file_that_cannot_be_loaded_is_one_line(model, state, tmp_path, case):
    write, message = PT[case]
    path = tmp_path / "weights.pt"
    write(state, path)
    refused_in_one_line(model, path, message)


FINE = {
    "float64": (torch.float64, lambda t: t.double()),
    "float16": (torch.float16, lambda t: t.half()),
    "bfloat16": (torch.bfloat16, lambda t: t.bfloat16()),
    "other strides": (torch.float32, lambda t: t.mT.contiguous().mT if t.ndim > 1 else t),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("case", FINE)
def test_other_precisions_and_strides_load_and_are_said(model, state, tmp_path, caplog, case, suffix):
    dtype, change = FINE[case]
    changed, path = {key: change(tensor) for key, tensor in state.items()}, tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(changed, path)
    else:
        save_file({key: tensor.contiguous() for key, tensor in changed.items()}, path)
    with caplog.at_level("INFO"):
        load_base(model, path)
    assert all(torch.equal(p, changed[name].to(p.dtype)) for name, p in model.named_parameters())
    said = f"stored as {str(dtype).removeprefix('torch.')}"
    assert (said in caplog.text) == (dtype is not torch.float32)


def test_the_container_is_known_by_its_content(model, state, tmp_path):
    save_file(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.bin", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.bin"):
        assert read_state(tmp_path / name).keys() == state.keys()
    torch.save(state, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"it is a file of torch\.save; call it \.pt"):
        read_state(tmp_path / "c.safetensors")


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("read", [read_state, read_training_state, hy.load_adapter], ids=["base", "state", "adapter"])
def test_nothing_but_files_is_opened(base, tmp_path, read, kind):
    path = replace_by(kind, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=f"weights.pt: cannot be read .it is a {kind}"):
        read(base, path) if read is hy.load_adapter else read(path)


def adapter_of(model, path, **options):
    """Save the adapters of a configuration, and return what changes the file's configuration and tensors."""
    hy.save_adapter(hy.inject(model, hy.HyperETConfig(**options)), path)

    def rewrite(config=None, change=lambda tensors: None):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        change(tensors)
        if isinstance(config, dict):
            metadata["config"] = json.dumps(json.loads(metadata["config"]) | config)
        elif config is not None:
            metadata["config"] = config
        save_file(tensors, path, metadata=metadata)

    return rewrite


@pytest.mark.parametrize("open_", [hy.load_adapter, hy.adapted_copy])
def test_no_pattern_of_a_file_is_run(model, another, tmp_path, open_):
    path = tmp_path / "adapter.safetensors"
    rewrite = adapter_of(model, path, adapter="bitfit")
    rewrite({"biases": ["(([a-z_.0-9]+)+)+!", "(.|.)" * 40 + "!"]})
    start = time.monotonic()
    assert base_fingerprint(open_(another(), path)) == base_fingerprint(model)
    assert time.monotonic() - start < 5
    rewrite(None, lambda tensors: tensors.update({"transformer.none.bias": torch.zeros(4)}))
    with pytest.raises(CheckpointError, match="adapter keys differ from those that were saved"):
        open_(another(), path)


CONFIG = {
    "brackets": ("[" * 5_000, "its brackets are nested too deeply"),
    "digits": ('{"rank": ' + "9" * 5_000 + "}", "its configuration cannot be read .*limit"),
    "a key twice": ('{"scheme": "A", "scheme": "B"}', "the key 'scheme' occurs twice"),
    "a curvature of 400 digits": ({"curvature": 10**400}, "curvature=1000.*expected a number"),
    "a long scheme": ({"scheme": "x" * 10_000}, "scheme='xxx.*…"),
    "a nested list": ({"levels": json.loads("[" * 400 + "]" * 400)}, "levels=.*expected a list of integers"),
    "NaN": ({"curvature": float("nan")}, "curvature=nan; expected a positive number"),
    "a level that is not there": ({"levels": [7]}, "does not fit this model"),
    "a block of a billion": ({"structure": "block_diagonal", "block_size": 10**9}, "does not fit this model"),
    "a band of a billion": ({"structure": "banded", "bandwidth": 10**9}, "does not fit this model"),
    "null": ("null", "cannot be read"),
}


@pytest.mark.parametrize("case", CONFIG)
def test_a_configuration_of_a_file_that_cannot_be(model, another, tmp_path, case):
    config, message = CONFIG[case]
    path = tmp_path / "adapter.safetensors"
    adapter_of(model, path)(config)
    with pytest.raises(CheckpointError, match=message) as raised:
        hy.load_adapter(another(), path)
    assert str(raised.value).startswith(f"{path}: ")
    assert len(str(raised.value)) < 1000


def test_a_rank_of_a_million_takes_no_memory(model, another, tmp_path):
    path = tmp_path / "adapter.safetensors"
    rewrite = adapter_of(model, path, adapter="lora", rank=2)
    rewrite({"rank": 10**6})
    with pytest.raises(CheckpointError, match=r"lora_A.* has shape \(2, .*expected the rank 1000000"):
        hy.load_adapter(another(), path)
    rewrite(None, lambda tensors: [tensors.pop(key) for key in list(tensors) if "lora_A" in key])
    with pytest.raises(CheckpointError, match=r"rank=1000000; expected at most \d+, the full rank"):
        hy.load_adapter(another(), path)


def test_an_adapter_and_a_base_in_each_others_place(model, another, tmp_path):
    save_base(model, tmp_path / "base.safetensors")
    hy.save_adapter(hy.inject(model, hy.HyperETConfig()), tmp_path / "adapter.safetensors")
    torch.save({"a": torch.ones(1)}, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match="holds adapters, expected base weights; adapters are given as adapter="):
        load_base(another(), tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match=r"base weights are given as model\.checkpoint="):
        hy.load_adapter(another(), tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError, match=r"not a readable safetensors file .it is a file of torch\.save"):
        hy.load_adapter(another(), tmp_path / "base.pt")


ODD = {
    "complex": (lambda t: t.to(torch.complex64), "is complex64; expected float32"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "is float8_e4m3fn"),
    "integers": (lambda t: t.to(torch.int32), "is int32; expected float32"),
    "NaN": (lambda t: t + float("nan"), "not finite"),
    "no dimension": (lambda t: t.sum(), r"has shape \(\)"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_tensors_of_an_adapter(model, another, tmp_path, case):
    change, message = ODD[case]
    path = tmp_path / "adapter.safetensors"
    adapter_of(model, path)(None, lambda tensors: tensors.update({(k := min(tensors)): change(tensors[k])}))
    with warnings.catch_warnings(), pytest.raises(CheckpointError, match=message):
        hy.load_adapter(another(), path)

"""Adapter files: bit-equal round trips, readable metadata, whole files or none, refusal of what does not fit."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sam3_hyperet as hy
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling import fingerprint, tensor_files
from sam3_hyperet.modeling.adapter_file import read_adapter_config
from sam3_hyperet.modeling.checkpoint import save_base
from sam3_hyperet.modeling.fingerprint import base_fingerprint, rounded_fingerprints
from sam3_hyperet.modeling.parameters import adapter_parameters

CONFIG = hy.HyperETConfig(geometry="gyro", structure="banded", learn_curvature=True, levels=[1, 0], residual=0.5)


@pytest.fixture
def adapted(model, randomized):
    return randomized(hy.inject(model, CONFIG))


@pytest.fixture
def saved(adapted, tmp_path):
    hy.save_adapter(adapted, tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


def masks(model, picture):
    return torch.stack([answer.mask_logits for answer in Predictor(model, ["car", "sky"], 128).predict(picture)])


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        hy.HyperETConfig(),
        hy.HyperETConfig(share=True, residual=0.2, learn_residual=True),
        hy.HyperETConfig(sites=["fpn"], levels=[1], structure="block_diagonal", block_size=8, geometry="mobius"),
    ],
)
@pytest.mark.parametrize("injected_before", [False, True])
def test_round_trip_is_bit_equal(model, another, picture, randomized, tmp_path, config, injected_before):
    randomized(hy.inject(model, config))
    hy.save_adapter(model, tmp_path / "deep" / "adapter.safetensors")
    other = hy.inject(another(), config) if injected_before else another()
    assert not torch.equal(masks(other, picture), masks(model, picture))
    assert hy.load_adapter(other, tmp_path / "deep" / "adapter.safetensors") is other
    assert other.hyperet_config == config
    assert torch.equal(masks(other, picture), masks(model, picture))


def test_a_model_without_places_round_trips(model, another, tmp_path):
    hy.save_adapter(hy.inject(model, hy.HyperETConfig(scheme="none")), tmp_path / "none.safetensors")
    assert hy.parameter_report(hy.load_adapter(another(), tmp_path / "none.safetensors"))["added"] == 0


def test_the_file_holds_the_adapters_alone_and_says_what_it_is(saved, adapted):
    assert load_file(saved).keys() == dict(adapter_parameters(adapted)).keys()
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "sam3_hyperet-adapter-1"
    assert metadata["version"] == hy.__version__
    assert metadata["base"] == base_fingerprint(adapted)
    assert json.loads(metadata["config"])["geometry"] == "gyro"
    assert read_adapter_config(saved) == CONFIG


def test_nothing_to_save(base, tmp_path):
    with pytest.raises(ConfigError, match=r"no adapters to save; call inject"):
        hy.save_adapter(base, tmp_path / "adapter.safetensors")


def test_another_base_is_refused(saved):
    other = hy.build_model("tiny", checkpoint="random", seed=1)
    with pytest.raises(CheckpointError, match=r"made for the base [0-9a-f]{12}…, this model's is [0-9a-f]{12}…"):
        hy.load_adapter(other, saved)
    assert not hasattr(other, "hyperet_config")


def test_another_configuration_is_refused(saved, another):
    with pytest.raises(CheckpointError, match=r"holds HyperETConfig\(.*gyro.*the model has .*lorentz"):
        hy.load_adapter(hy.inject(another(), hy.HyperETConfig()), saved)


def rewritten(path, change):
    """The same file with its tensors and metadata changed."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    return path


FIRST = "backbone.fpn_adjustment.adjustments.0.matrix.offset"
TAMPERED = {
    "shape": (lambda t, m: t.update({FIRST: t[FIRST][:-1].clone()}), r"offset has shape \(189,\), expected \(190,\)"),
    "missing key": (lambda t, m: t.pop(FIRST), rf"adapter keys differ from the model's, first {FIRST}"),
    "extra key": (lambda t, m: t.update(extra=torch.ones(1)), r"adapter keys differ from the model's, first extra"),
    "format": (lambda t, m: m.update(format="peft"), r"not an adapter file; format is 'peft', expected"),
    "no format": (lambda t, m: m.pop("format"), r"not an adapter file; format is None, expected"),
    "no base": (lambda t, m: m.pop("base"), r"made for the base "),
    "no config": (lambda t, m: m.pop("config"), r"its configuration cannot be read"),
    "config is no JSON": (lambda t, m: m.update(config="{"), r"its configuration cannot be read"),
    "config is a list": (lambda t, m: m.update(config="[]"), r"its configuration cannot be read"),
    "newer option": (lambda t, m: m.update(config='{"warp": 1}'), r"hyperet.warp is not an option"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_a_changed_file_is_refused_and_the_model_is_as_before(saved, another, picture, case):
    change, message = TAMPERED[case]
    rewritten(saved, change)
    other = another()
    before = masks(other, picture)
    names = [name for name, _ in other.named_parameters()]
    with pytest.raises(CheckpointError, match=message) as raised:
        hy.load_adapter(other, saved)
    assert str(raised.value).startswith(f"{saved}: ")
    assert torch.equal(masks(other, picture), before)
    assert [name for name, _ in other.named_parameters()] == names
    assert not hasattr(other, "hyperet_config")


def test_a_foreign_base_file_is_refused(model, tmp_path):
    save_base(model, tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError, match=r"base.safetensors: not an adapter file; format is"):
        hy.load_adapter(model, tmp_path / "base.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved, another, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"adapter.safetensors: not a readable safetensors file"):
        hy.load_adapter(another(), saved)


class _Bomb:
    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


@pytest.mark.parametrize("write", [lambda p: p.write_bytes(pickle.dumps(_Bomb())), lambda p: torch.save(_Bomb(), p)])
def test_pickles_are_never_read(model, tmp_path, write):
    path = tmp_path / "adapter.safetensors"
    write(path)
    with pytest.raises(CheckpointError, match=r"not a readable safetensors file"):
        hy.load_adapter(model, path)


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere.safetensors: no such file"):
        hy.load_adapter(model, tmp_path / "nowhere.safetensors")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(saved, adapted, monkeypatch):
    before = saved.read_bytes()

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(tensor_files, "save_file", half)
    with pytest.raises(OSError, match="no space left"):
        hy.save_adapter(adapted, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_file_with_the_former_name_of_a_geometry_is_read(model, another, tmp_path, randomized):
    path = tmp_path / "adapter.safetensors"
    hy.save_adapter(randomized(hy.inject(model, {"geometry": "moebius"})), path)
    assert model.hyperet_config == hy.HyperETConfig(geometry="mobius")
    rewritten(path, lambda t, m: m.update(config=m["config"].replace("mobius", "moebius")))
    other = hy.load_adapter(another(), path)
    assert other.hyperet_config == model.hyperet_config
    assert hy.HyperET(4, geometry="moebius").geometry == "mobius"


def test_adapters_of_earlier_versions_find_the_whole_base(adapted, saved, another, tmp_path):
    """Their fingerprints cover what nothing reads, too: they need the same file, or one of the same layout."""
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    assert metadata.pop("fingerprint") == "2"
    rounded = rounded_fingerprints(adapted, "1")
    former = {"base": base_fingerprint(adapted, "1"), **{f"base.{key}": value for key, value in rounded.items()}}
    assert former["base"] != metadata["base"]
    old = tmp_path / "old.safetensors"
    save_file(load_file(saved), old, {**metadata, **former})
    hy.load_adapter(another(), old)
    half = another()
    for parameter in half.parameters():
        parameter.data = parameter.data.half()
    hy.load_adapter(half, old)
    other = another()
    with torch.no_grad():
        other.geometry_encoder.points_pool_project.bias.add_(1)  # of point prompts, which are never given
    hy.load_adapter(other, saved)
    hy.remove_adapter(other)
    with pytest.raises(CheckpointError, match=r"an earlier version wrote it, which also needs .* the same layout"):
        hy.load_adapter(other, old)
    save_file(load_file(saved), old, {**metadata, "fingerprint": "4"})
    with pytest.raises(CheckpointError, match=r"fingerprints of version '4', .*; expected one of 1, 2, 3"):
        hy.load_adapter(another(), old)


def test_a_frozen_base_is_read_once_where_nothing_writes_to_it(adapted, tmp_path, monkeypatch):
    digests = []
    monkeypatch.setattr(fingerprint, "tensors_digest", lambda tensors: digests.append(1) or str(len(digests)))
    adapted.requires_grad_(False)

    def read():
        before = len(digests)
        for _ in range(2):
            hy.save_adapter(adapted, tmp_path / "adapter.safetensors")
        return len(digests) - before

    with fingerprint.fingerprints_kept(adapted):
        assert read() == 3
        adapted.dot_prod_scoring.hs_proj.bias.requires_grad_(True)  # it trains: read every time
        assert read() == 6
    adapted.requires_grad_(False)
    assert read() == 6


def test_a_base_written_to_without_a_sign(adapted, tmp_path):
    """As `data.add_` and exchanges for averages write: neither address nor version of the tensor changes."""
    path = tmp_path / "adapter.safetensors"
    adapted.requires_grad_(False)
    hy.save_adapter(adapted, path)
    with safe_open(path, "pt") as file:
        before = file.metadata()["base"]
    adapted.dot_prod_scoring.hs_proj.bias.data.add_(1)
    hy.save_adapter(adapted, path)
    with safe_open(path, "pt") as file:
        assert file.metadata()["base"] == base_fingerprint(adapted) != before

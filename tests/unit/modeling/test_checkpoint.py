"""Base weights load from every layout met in the wild; anything else is one clear line, and changes nothing."""

from __future__ import annotations

import argparse
import collections
import zipfile

import pytest
import torch
from refused_bases import refused_in_one_line
from safetensors.torch import save_file

import sam3_hyperet as hy
from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.modeling.checkpoint import check_without_adapters, load_base, save_base
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.layouts.base_files import HUB_FILES, locate_base
from sam3_hyperet.modeling.parameters import base_state_dict


@pytest.fixture(scope="module")
def source():
    """State dict of another base than the one loaded into, buffers and all."""
    return hy.build_model("tiny", checkpoint="random", seed=1).state_dict()


def prefixed(prefix):
    return lambda state: {prefix + key: value for key, value in state.items()}


LAYOUTS = {
    "bare": lambda state: state,
    "detector": prefixed("detector."),
    "model": prefixed("model."),
    "module": prefixed("module."),
    "nested": prefixed("module.model.detector."),
    "wrapped": lambda state: {"model": dict(state), "epoch": 3},
    "wrapped, prefixed": lambda state: {"state_dict": prefixed("module.")(state), "optimizer": {"lr": 1.0}},
    "official": lambda state: {
        **prefixed("detector.")(state),
        "tracker.transformer.weight": torch.ones(3),
        "tracker.backbone.vision_backbone.trunk.pos_embed": torch.ones(1),
    },
}


def test_the_container_of_old_pytorch_is_read(model, source, tmp_path):
    torch.save({"model": dict(source)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load_base(model, tmp_path / "old.pt") == len(list(model.parameters()))
    assert all(torch.equal(p, source[name]) for name, p in model.named_parameters())


FLAT = [layout for layout in LAYOUTS if "wrapped" not in layout]  # safetensors files do not nest


@pytest.mark.parametrize(("layout", "suffix"), [*((x, ".pt") for x in LAYOUTS), *((x, ".safetensors") for x in FLAT)])
def test_every_layout_loads(model, source, tmp_path, layout, suffix):
    path = tmp_path / f"weights{suffix}"
    state = LAYOUTS[layout](source)
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file({key: value.clone() for key, value in state.items() if not value.is_complex()}, path)
    assert load_base(model, path) == len(list(model.parameters()))
    assert all(torch.equal(p, source[name]) for name, p in model.named_parameters())


def test_what_lies_beside_the_weights_is_said(model, source, tmp_path, caplog):
    torch.save({"model": dict(source), "ema": dict(source), "epoch": 3}, tmp_path / "run.pt")
    with caplog.at_level("INFO"):
        load_base(model, tmp_path / "run.pt")
    assert "run.pt: the weights are those below 'model'; not read: 'ema', 'epoch'" in caplog.text


@pytest.mark.parametrize("scheme", ["A", "B+prompt", "C", "P"])
def test_adapters_beside_a_base_are_warned_of(model, another, tmp_path, scheme, caplog):
    of_base = set(model.state_dict())
    state = hy.inject(model, {"scheme": scheme}).state_dict()
    torch.save(state, file := tmp_path / "adapted.pt")
    added = [key for key in state if key not in of_base]
    load_base(another(), file)
    (warned,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warned.startswith(f"{file}: holds {len(added)} weights of adapters beside the base, first {added[0]};")
    assert "hy.adapted_model(name, FILE, hyperet=…, adapter=FILE) opens both" in warned
    with pytest.raises(CheckpointError, match=f"adapted.pt: holds {len(added)} weights of adapters"):
        check_without_adapters(file)


def test_what_the_model_has_no_place_for_is_warned_of(model, source, tmp_path, caplog):
    more = {"backbone.vision_backbone.trunk.neck.weight": torch.ones(1), "head.bias": torch.ones(1)}
    torch.save(LAYOUTS["official"](source) | prefixed("detector.")(more), tmp_path / "more.pt")
    load_base(model, tmp_path / "more.pt")
    (warned,) = caplog.messages
    assert "2 weights that the model has no place for, first backbone.vision_backbone.trunk.neck.weight;" in warned
    check_without_adapters(tmp_path / "more.pt")


def test_an_adapted_model_loads_a_base_and_keeps_its_adapters(model, source, tmp_path, randomized):
    randomized(hy.inject(model, hy.HyperETConfig()))
    adapters = {name: p.clone() for name, p in model.named_parameters() if "fpn_adjustment" in name}
    torch.save(source, tmp_path / "base.pt")
    assert load_base(model, tmp_path / "base.pt") == len(base_state_dict(model))
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in adapters.items())
    assert torch.equal(parameters["segmentation_head.mask_predictor.mask_embed.layers.0.weight"],
                       source["segmentation_head.mask_predictor.mask_embed.layers.0.weight"])  # fmt: skip


def test_save_base_round_trip(model, another, tmp_path):
    hy.inject(model, hy.HyperETConfig())
    save_base(model, tmp_path / "base.safetensors")
    other = hy.build_model("tiny", checkpoint=tmp_path / "base.safetensors", seed=9)
    assert base_fingerprint(other) == base_fingerprint(model) == base_fingerprint(another())
    save_base(model, tmp_path / "half.safetensors", dtype=torch.bfloat16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.51 * (tmp_path / "base.safetensors").stat().st_size
    load_base(other, tmp_path / "half.safetensors")
    assert all(
        torch.equal(p, q.bfloat16().float()) for p, q in zip(other.parameters(), another().parameters(), strict=True)
    )


def truncated(state, path):
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def partial(state, path):
    torch.save({key: value for key, value in state.items() if not key.startswith("segmentation_head.")}, path)


def wrong_shape(state, path):
    torch.save({**state, "dot_prod_scoring.hs_proj.weight": torch.zeros(64, 63)}, path)


def foreign_zip(state, path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no weights")


def with_an_object(state, path):
    torch.save({"model": state, "namespace": collections.deque([object()])}, path)


REFUSED = {
    "partly": (partial, r"\d+ of \d+ weights of the model found; missing first segmentation_head\."),
    "another model": (lambda s, p: torch.save({"fc.weight": torch.ones(2)}, p), r"\b0 of \d+ weights .*fc\.weight"),
    "shape": (wrong_shape, r"dot_prod_scoring.hs_proj.weight has shape \(64, 63\), expected \(64, 64\)"),
    "truncated": (truncated, r"not a readable checkpoint"),
    "foreign zip": (foreign_zip, r"not a readable checkpoint"),
    "text": (lambda s, p: p.write_text("hello"), r"not a readable checkpoint"),
    "empty": (lambda s, p: p.write_bytes(b""), r"not a readable checkpoint"),
    "a list": (lambda s, p: torch.save([1, 2], p), r"holds no tensors by name; found list"),
    "a tensor": (lambda s, p: torch.save(torch.ones(2), p), r"holds no tensors by name; found Tensor"),
    "an empty dict": (lambda s, p: torch.save({}, p), r"holds no tensors by name; found dict"),
    "pickled object": (with_an_object, r"not a readable checkpoint"),
    "web page": (lambda s, p: p.write_text("\n<!DOCTYPE html><title>Log in</title>"), r"it is a web page"),
    "LFS pointer": (
        lambda s, p: p.write_text("version https://git-lfs.github.com/spec/v1\n"),
        r"Git LFS pointer; .*pull",
    ),
    "no bytes": (lambda s, p: p.write_bytes(b""), r"\(it is empty; download or copy it again\)"),
    "namespace": (
        lambda s, p: torch.save({"model": s, "args": argparse.Namespace(lr=1.0)}, p),
        r"object of class argparse\.Namespace, which is never loaded .*torch\.save\(model\.state_dict\(\), path\)",
    ),
    "not finite": (
        lambda s, p: torch.save({k: v * float("nan") if "hs_proj" in k else v for k, v in s.items()}, p),
        r"2 of \d+ weights have values that are not finite numbers, first dot_prod_scoring\.hs_proj\.",
    ),
    "missing": (lambda s, p: None, r"no such file"),
    "a folder": (lambda s, p: p.mkdir(), r"a folder without base weights; found nothing; expected sam3.pt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_is_one_line_and_changes_nothing(model, source, tmp_path, case):
    write, message = REFUSED[case]
    path = tmp_path / "weights.pt"
    write(source, path)
    refused_in_one_line(model, path, message)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"<html>", b"version https://git-lfs", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"]
)
def test_what_is_no_safetensors_file_is_refused(model, tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights.safetensors: not a readable safetensors file"):
        load_base(model, path)


def test_the_hub_says_how_to_get_access(model, monkeypatch):
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    response = httpx.Response(401, request=httpx.Request("GET", "https://huggingface.co/facebook/sam3"))
    for repository, file in HUB_FILES.items():
        for error, message in (
            (GatedRepoError("gated", response=response), "the repository is gated; ask for access .*hf auth login"),
            (HfHubHTTPError("expired", response=response), "the hub answered with status 401; log in with `hf auth"),
            (LocalEntryNotFoundError("offline"), "cannot be reached, and it is not in the cache"),
            (httpx.ProxyError("403 Forbidden"), r"does not answer \(ProxyError\); try again"),
            (OSError(28, "No space left on device"), "No space left on device; make room"),
        ):

            def refuse(*args, error=error):
                raise error

            monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
            whole = rf"^{repository}: cannot fetch {file}: .*{message}.* or give checkpoint=PATH of a local copy$"
            with pytest.raises(CheckpointError, match=whole):
                load_base(model, repository)


def test_a_home_folder_is_found_by_its_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate_base("~/sam3.pt") == tmp_path / "sam3.pt"
    (tmp_path / "sam3").mkdir()
    (tmp_path / "sam3" / "model.safetensors").touch()
    assert locate_base("~/sam3") == tmp_path / "sam3" / "model.safetensors"


@pytest.mark.parametrize(
    ("repository", "file"), [("facebook/sam3", "sam3.pt"), ("facebook/sam3.1", "sam3.1_multiplex.pt")]
)
def test_the_hub_file_is_loaded_like_any_other(model, source, monkeypatch, tmp_path, repository, file):
    import huggingface_hub

    torch.save(prefixed("detector.")(source), tmp_path / file)
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *what: asked.append(what) or tmp_path / what[1])
    assert load_base(model, repository) == len(list(model.parameters()))
    assert asked == [(repository, file)]


@pytest.mark.parametrize(
    "names", [["sam3.pt", "model.safetensors"], ["sam3.1_multiplex.pt"], ["model.safetensors.index.json"]]
)
def test_the_published_file_of_a_folder_is_found(tmp_path, names):
    for name in ["config.json", *names]:
        (tmp_path / name).touch()
    assert locate_base(tmp_path) == tmp_path / names[0]


def test_fingerprint_sees_values_names_and_nothing_of_the_adapters(model, another):
    before = base_fingerprint(model)
    hy.inject(model, hy.HyperETConfig())
    assert base_fingerprint(model) == before
    with torch.no_grad():
        model.dot_prod_scoring.hs_proj.bias[0].add_(1e-6)
    assert base_fingerprint(model) != before
    other = another()
    for parameter in other.parameters():
        parameter.data = parameter.data.bfloat16()
    assert base_fingerprint(other) != before

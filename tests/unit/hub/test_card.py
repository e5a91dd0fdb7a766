"""Model cards: metadata that huggingface_hub reads back, numbers of the run, what got worse, how to load it."""

from __future__ import annotations

import json

import pytest
import yaml
from huggingface_hub import ModelCard
from local_hub import card_faults
from shared_runs import ALONG, METRICS, write_adapter, write_run

from sam3_hyperet.cli.info import main as info
from sam3_hyperet.cli.push import main as push
from sam3_hyperet.digest import tensors_sha256
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.hub.adapter_info import PACKAGED_BASES, read_adapter_info
from sam3_hyperet.modeling.adapter_file import write_adapter_dial
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.modeling.config import PACKAGED
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.training.run_files import ADAPTER_DIGEST


def card(source, tmp_path, *arguments):
    folder = tmp_path / f"preview-{sum(1 for _ in tmp_path.glob('preview-*'))}"
    push([str(source), "repo=user/shop", f"preview={folder}", *arguments])
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert not card_faults(text)
    return ModelCard(text, ignore_metadata_errors=False)


def test_metadata_comes_back_from_huggingface_hub(run, tmp_path):
    data = card(run, tmp_path).data
    assert [data.license, data.library_name, data.pipeline_tag] == ["apache-2.0", "sam3_hyperet", "image-segmentation"]
    assert {"scheme-b", "lorentz", "sam3"} <= set(data.tags)
    assert data.model_name == "shop"
    found = {result.metric_type: result for result in data.eval_results}
    assert found.keys() == {"part/segm/AP", "fused/mIoU"}
    part = found["part/segm/AP"]
    assert [part.dataset_type, part.metric_value] == ["shop", 0.178]
    assert part.metric_args == {"base": 0.106, "difference": 0.072, "interval_95": [0.059, 0.09]}


def test_a_card_has_what_the_run_knows(run, tmp_path):
    (tmp_path / "note.md").write_text("Made for *one* shop.", encoding="utf-8")
    (tmp_path / "along.json").write_text(json.dumps(ALONG))
    text = card(run, tmp_path, f"note={tmp_path}/note.md", f"evaluations=[{tmp_path}/along.json]").text
    for part in (
        "20 parameters (0.27 % of the base)",
        "Made for *one* shop.",
        'hy.load_adapter(model, "hub:user/shop")',
        "| concepts | part: wheel, roof |",
        "| Mask AP | shop · part | .106 | .178 | +.072 (+.059 to +.090) |",
        "### What got worse\n\n| metric | data | base | adapted | difference (95 % interval) |\n"
        "| --- | --- | ---: | ---: | ---: |\n| mIoU | shop · fused | .852 | .843 | −.009 (−.016 to −.003) |",
        "Lost on concepts that were not trained on: object/segm/AP .006",
        "| dial | coco/segm/AP |\n| --- | ---: |\n| 0 | .500 |\n| 0.5 | .490 |\n| 1 | .460 |",
        "at dial 0.75",
        "the base answers 0 % and the adapted model 7 %",
        "peng2025hyperet",
    ):
        assert part in text, part
    assert "Box AP" not in text


def test_a_card_lists_what_is_worse_without_an_interval(run, tmp_path):
    (run / "metrics.json").write_text(
        json.dumps({k: v for k, v in METRICS.items() if not k.endswith(("/low", "/high"))})
    )
    text = card(run, tmp_path).text
    assert "Worse, without an interval that tells whether by chance:" in text
    worse = text.partition("### What got worse")[2].partition("##")[0]
    assert "| Right about what is absent | shop · part | 1.000 | .930 | −.070 |" in worse
    assert "Mask AP" not in worse
    assert "No row above" not in text
    better = {k: v for k, v in METRICS.items() if "AP" in k and "difference" not in k}
    (run / "metrics.json").write_text(json.dumps(better))
    assert "No row above is worse by 0.005 or more; no intervals were made." in card(run, tmp_path).text


def test_false_alarms_of_a_card_have_digits_that_tell_them_apart(run, tmp_path):
    fewer = {key: x for key, x in METRICS.items() if "accuracy_absent" not in key}
    of = "shop/presence/accuracy_absent"
    tripled = {f"base/{of}": 0.998, of: 0.9935, f"difference/{of}/low": -0.0048, f"difference/{of}/high": -0.0042}
    (run / "metrics.json").write_text(json.dumps(fewer | tripled))
    text = card(run, tmp_path).text
    assert "the base answers 0.2 % and the adapted model 0.65 %" in text
    assert "| Right about what is absent | shop |" in text.partition("### What got worse")[2]
    (run / "metrics.json").write_text(json.dumps(METRICS))


def test_numbers_of_another_dial_are_called_so(run, tmp_path, capsys):
    said = "**The file is at dial 0.75; numbers of this table were measured at dial 1.**"
    for dial, is_said in (({"dial": 1.0}, True), ({"dial": 0.75}, False), ({"a/dial": 1.0}, False), ({}, False)):
        (run / "metrics.json").write_text(json.dumps({**METRICS, **dial}))
        assert (said in card(run, tmp_path).text) == is_said
        capsys.readouterr()
        info([str(run)])
        assert ("dial: 0.75; the metrics were measured at dial 1\n" in capsys.readouterr().out) == is_said


def test_the_way_to_load_it_keeps_the_dial_and_asks_for_what_was_scored(run, tmp_path):
    (run / "metrics.json").write_text(json.dumps({**METRICS, "data": {"prompts": ["red wheel", "a,b", "roof", "car"]}}))
    text = card(run, tmp_path).text
    assert "| images a step | 16 |" in text
    assert "\nhy.set_dial" not in text
    assert "images=photos 'prompts=red wheel,roof'\n" in text


def test_agreement_with_the_base_is_no_result(run, tmp_path):
    file = run / "metrics.json"
    metrics = json.loads(file.read_text())
    kept = {"base/shop/kept/segm/AP": 1.0, "shop/kept/segm/AP": 0.9, "shop/kept/presence/accuracy_absent": 0.1}
    file.write_text(json.dumps({**metrics, **kept, "base/shop/kept/presence/accuracy_absent": 1.0}))
    found = card(run, tmp_path)
    file.write_text(json.dumps(metrics))
    assert "kept" not in str(found.data)
    assert "own answers" not in found.text


def test_a_card_without_a_run_says_so(tmp_path, capsys):
    file = write_adapter(tmp_path / "lone.safetensors", base="f" * 64)
    found = card(file, tmp_path, "base_model=facebook/sam3")
    assert [found.data.base_model, found.data.base_model_relation] == ["facebook/sam3", "adapter"]
    assert [found.data.license, found.data.license_name] == ["other", "sam-license"]
    assert "nothing is known of how well it does" in found.text
    assert 'hy.build_model("large", checkpoint="facebook/sam3")' in found.text
    assert "no run beside the adapter" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"preview=.*: is there already"):
        push([str(file), "repo=user/shop", f"preview={tmp_path}/preview-0"])


def test_a_local_checkpoint_is_named_without_its_folder(tmp_path):
    run = write_run(tmp_path / "run", checkpoint="/home/somebody/sam3.pt", base="f" * 64, scheme="A", gate="none")
    text = card(run, tmp_path, "license=cc-by-nc-4.0").content
    assert 'hy.build_model("large", checkpoint="sam3.pt")' in text
    assert "license: cc-by-nc-4.0" in text
    assert "somebody" not in text
    text = card(run, tmp_path, "base_model=facebook/sam3").content
    assert 'hy.build_model("large", checkpoint="facebook/sam3")' in text
    assert " model.checkpoint=facebook/sam3 " in text


@pytest.mark.parametrize(
    ("config", "tag", "method"),
    [
        ({"geometry": "euclidean"}, "euclidean", "by Euclidean adjustments of its features, a control"),
        ({"adapter": "lora", "gate": "none"}, "lora", "by lora, a control"),
    ],
)
def test_a_control_is_not_called_hyperbolic(tmp_path, config, tag, method):
    found = card(write_adapter(tmp_path / "lone.safetensors", **config), tmp_path)
    assert tag in found.data.tags
    assert "lorentz" not in found.data.tags
    assert method in found.text


def test_the_card_of_another_encoder_has_nothing_of_sam3(tmp_path):
    places = '[["encoder.layer.0.attention.query", "q", 0, 4, -1]]'
    file = write_adapter(tmp_path / "lone.safetensors", base="f" * 64, encoder=places, gate="none")
    found = card(file, tmp_path)
    assert [found.data.license, found.data.pipeline_tag] == [None, "image-feature-extraction"]
    assert found.data.tags == ["hyperet", "adapter", "lorentz"]
    for part in ("sam-license", "SAM 3", "noun phrase", "carion2025sam3"):
        assert part not in found.content, part
    assert "for a frozen vision encoder. It changes the features of the encoder, by adjustments" in found.text
    assert card(file, tmp_path, "license=mit").data.license == "mit"


def test_the_way_to_load_it_is_the_one_that_was_measured(tmp_path):
    run = write_run(tmp_path / "run", checkpoint="/home/somebody/sam3.pt", base="f" * 64)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["resolution"] = 672
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "metrics.json").write_text(json.dumps({**METRICS, "data": {"name": "shop", "split": "tune"}}))
    found = card(run, tmp_path, "base_model=somebody/mine")
    assert 'hy.build_model("large", checkpoint="sam3.pt", resolution=672)  # the weights of somebody/mine' in found.text
    assert " model=large model.checkpoint=sam3.pt model.resolution=672 images=" in found.text
    assert {result.dataset_split for result in found.data.eval_results} == {"tune"}
    assert "split tune; images 120" in found.text
    (run / "metrics.json").write_text(json.dumps(METRICS))  # as an earlier version wrote them
    assert {result.dataset_split for result in card(run, tmp_path).data.eval_results} == {None}


OF_OTHERS = {
    "several": ({"a/params/added": 20, "b/params/added": 20, "a/coco/segm/AP": 0.1}, "metrics of 2 models, a, b"),
    "the base": ({"params/added": 0, "coco/segm/AP": 0.1}, "metrics of a model without an adapter"),
    "another": (
        {"params/added": 20, ADAPTER_DIGEST: "0123456789abcdef"},
        "of another adapter, .* 0123456789ab…",
    ),
}


@pytest.mark.parametrize("case", OF_OTHERS)
def test_numbers_of_other_models_are_no_evaluation_of_this_one(run, tmp_path, case):
    metrics, message = OF_OTHERS[case]
    (file := tmp_path / "other.json").write_text(json.dumps(metrics))
    with pytest.raises(ConfigError, match=rf"^evaluations: {file}: .*{message}; expected an evaluation of"):
        card(run, tmp_path, f"evaluations=[{file}]")


def test_an_evaluation_says_which_adapter_it_is_of_at_any_dial(run, tmp_path):
    digest = tensors_sha256(run / "adapter.safetensors")
    write_adapter_dial(run / "adapter.safetensors", 0.5)
    metrics = {ADAPTER_DIGEST: digest, "base/coco/mIoU": 0.6, "base/coco/segm/AP": 0.5, "coco/segm/AP": 0.4}
    (tmp_path / "coco.json").write_text(json.dumps(metrics | {"data": {"name": "coco", "split": "val"}}))
    found = card(run, tmp_path, f"evaluations=[{tmp_path}/coco.json]")
    assert "| Mask AP | COCO | .500 | .400 | −.100 |" in found.text
    assert "| mIoU | COCO |" not in found.text  # of the base alone
    (of_coco,) = (result for result in found.data.eval_results if result.dataset_type == "coco")
    assert [of_coco.metric_value, of_coco.dataset_split] == [0.4, "val"]
    along = {f"dial_{dial}/params/added": 20 for dial in ("0.5", "1")} | ALONG | {ADAPTER_DIGEST: digest}
    (tmp_path / "along.json").write_text(json.dumps(along))
    assert "| 0.5 | .490 |" in card(run, tmp_path, f"evaluations=[{tmp_path}/along.json]").text


def test_info_says_what_an_adapter_is(run, capsys):
    found = info([str(run), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["metrics"].keys() == found["metrics"].keys()
    assert [found["scheme"], found["parameters"], found["gates"], found["dial"]] == ["B (encoder_layer)", 20, 1, 0.75]
    assert [found["base_name"], found["trained_on"]] == ["tiny_levels", "shop"]
    info([str(run / "adapter.safetensors")])
    out = capsys.readouterr().out
    assert "structure and geometry: dense, a gate per prompt; lorentz with c = 0.01\n" in out
    assert "base: tiny_levels, of the package; fingerprint d65c6b35f8" in out
    (run / "config.yaml").unlink()
    info([str(run)])
    assert "trained on: unknown: no config.yaml beside it" in capsys.readouterr().out


def test_info_of_the_packaged_adapter(tmp_path, capsys):
    found = info(["package:tiny_levels"])
    assert [found["base_name"], found["trained_on"], found["training"]["steps"]] == ["tiny_levels", "scenes", "1100"]
    out = capsys.readouterr().out
    assert "Mask AP, scenes · held-out groups: .000 → .225" in out
    assert "unknown" not in out
    assert "no run beside" not in card("package:tiny_levels", tmp_path).text
    with pytest.raises(ConfigError, match=r"^package:large: no adapter .*; expected package:tiny_levels$"):
        info(["package:large"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.write_bytes(b"<html>"), r"not a readable safetensors file \(it is a web page"),
        (lambda f: write_adapter(f, geometry="flat"), "its configuration cannot be read"),
        (lambda f: f.unlink(), "no such file"),
    ],
)
def test_what_is_no_adapter_is_refused(tmp_path, change, message):
    file = write_adapter(tmp_path / "a.safetensors")
    change(file)
    with pytest.raises(CheckpointError, match=f"^{file}: {message}"):
        read_adapter_info(file)


@pytest.mark.parametrize("name", PACKAGED)
def test_the_packaged_bases_are_known_by_name(name):
    assert base_fingerprint(build_model(name)) == PACKAGED_BASES[name]

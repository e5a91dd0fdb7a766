"""ONNX files of a model: what ONNX Runtime makes of them is what PyTorch makes of the adapted model."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from moved_adapters import moved
from one_line_errors import error_of
from PIL import Image
from tokenizers import Tokenizer

import sam3_hyperet as hy
from sam3_hyperet.cli import export as tool
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.export import check, folder, onnx_files
from sam3_hyperet.inference.exemplars import Exemplars
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.rounding import TOLERANCE
from sam3_hyperet.modeling.parameters import adapter_sites

DOCS = Path(__file__).resolve().parents[3] / "docs" / "onnx.md"
PHRASES = ("car", "the window of a house", "sky", "visual")


@pytest.fixture(scope="module")
def exported_folder(exported):
    return exported[0]


@pytest.fixture(scope="module")
def sessions(exported_folder):
    names = ("image_encoder", "text_encoder", "grounding")
    return [onnxruntime.InferenceSession(str(exported_folder / f"{name}.onnx")) for name in names]


@pytest.fixture(scope="module")
def noise():
    image = np.random.default_rng(1).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    return Image.fromarray(image)


def answers(sessions, image, tokens, exemplars):
    encoder, text, grounding = sessions
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    texts = [text.run(None, {"tokens": np.array([ids])}) for ids in tokens]
    boxes, labels = check.boxes_and_labels(exemplars, 2)
    inputs = [*encoder.run(None, {"pixels": pixels}), *map(np.concatenate, zip(*texts, strict=True)), boxes, labels]
    named = {port.name: value for port, value in zip(grounding.get_inputs(), inputs, strict=True)}
    return dict(zip([port.name for port in grounding.get_outputs()], grounding.run(None, named), strict=True))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_prompts_of_any_number_with_and_without_boxes(adapted, sessions, noise, count):
    given = [
        None,
        Exemplars(((0.5, 0.5, 0.3, 0.4),)),
        None,
        Exemplars(((0.4, 0.4, 0.3, 0.3), (0.7, 0.7, 0.2, 0.1)), (True, False)),
    ]
    exemplars = given[-count:]
    phrases = PHRASES[-count:]
    tokens = adapted.backbone.language_backbone.tokenizer(list(phrases), context_length=32).tolist()
    found = answers(sessions, noise, tokens, exemplars)
    expected = list(Predictor(adapted, phrases, 128).predict(noise, exemplars=exemplars))
    assert found["scores"].shape == (count, adapted.transformer.decoder.num_queries)
    for i, one in enumerate(expected):
        of_prompt = {
            "scores": one.scores,
            "boxes_xyxy": one.boxes,
            "masks": one.mask_logits,
            "semantic": one.semantic_logits,
        }
        for name, value in of_prompt.items():
            assert np.abs(found[name][i] - value.numpy()).max() <= 1e-4 * float(value.abs().max()), name
        assert found["presence"][i] == pytest.approx(one.presence, rel=1e-4)


def test_the_description_says_what_is_in_the_files(exported_folder, sessions, adapter):
    description = json.loads((exported_folder / "export.json").read_text())
    files = {path.name for path in exported_folder.iterdir()}
    assert files == {"export.json", "tokenizer.json", *description["graphs"]}
    dtypes = {"float32": "tensor(float)", "int64": "tensor(int64)", "bool": "tensor(bool)"}
    for graph, session in zip(description["graphs"].values(), sessions, strict=True):
        for kind, ports in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            found = {port.name: (port.shape, port.type) for port in ports}
            assert found == {name: (port["shape"], dtypes[port["dtype"]]) for name, port in graph[kind].items()}
    said = {key: description[key] for key in ("adapter", "dial", "merged", "model", "boxes_of_a_prompt")}
    assert said == {
        "adapter": adapter.stem,
        "dial": 0.75,
        "merged": False,
        "model": "tiny_levels",
        "boxes_of_a_prompt": 2,
    }
    assert max(description["difference_from_pytorch"].values()) <= 1e-4
    for path in exported_folder.iterdir():  # nor does anything lead to this machine
        assert not any(
            word in path.read_bytes() for word in (b"site-packages", bytes(DOCS.parents[1]), bytes(adapter.parent))
        )


def test_an_adapter_that_does_not_fold_stays_in_the_graphs(exported):
    _, said = exported
    assert "the adapter stays a part of the graphs: site " in said
    assert "its gate differs from prompt to prompt" in said or "does not fold" in said


def test_an_adapter_that_folds_is_folded(tiny_is_micro, tmp_path, monkeypatch, capsys):
    exported = []
    monkeypatch.setattr(folder, "write_onnx", lambda graph, where: exported.append(graph))
    monkeypatch.setattr(folder, "largest_differences", lambda *_: {"scores": 0.0})
    file = tmp_path / "adapter.safetensors"
    model = hy.build_model("tiny", checkpoint="random")
    hy.save_adapter(moved(hy.inject(model, {"scheme": "A", "geometry": "euclidean"})), file)
    out = tool.main(["model.checkpoint=random", f"adapter={file}", f"out={tmp_path / 'onnx'}"])
    assert "the adapter is folded into the weights" in capsys.readouterr().out
    assert json.loads((out / "export.json").read_text())["merged"] is True
    assert [type(graph).file for graph in exported] == ["image_encoder.onnx", "text_encoder.onnx", "grounding.onnx"]
    assert not any(adapter_sites(graph) for graph in exported)


def test_the_example_of_the_documentation(exported_folder, adapted, noise, tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    (tmp_path / "onnx").symlink_to(exported_folder)
    noise.save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    found: dict[str, np.ndarray] = {}
    exec(compile(example, str(DOCS), "exec"), found)  # the example is ours
    expected = list(Predictor(adapted, ("car", "red wheel"), 128).predict(noise))
    for name, of_all in (("scores", [e.scores for e in expected]), ("masks", [e.mask_logits for e in expected])):
        assert np.abs(found[name] - torch.stack(of_all).numpy()).max() <= 1e-4 * np.abs(found[name]).max()
    assert capsys.readouterr().out.startswith("car [")


def test_the_tokenizer_reads_as_sam3_does(exported_folder, adapted):
    ours = adapted.backbone.language_backbone.tokenizer
    file = Tokenizer.from_file(str(exported_folder / "tokenizer.json"))
    phrases = [
        "a",
        "Two  Red\tcars ",
        "man's hat",
        "24/7 café",
        "naïve Straße",
        "日本",
        "!?…",
        "🚗 taxi",
        "x_y-z",
        "12345",
    ]
    phrases += ["man’s “red” hat", "ﬁsh and eﬀect", "ＣＡＲ　３！", "ĳs ʼn ŉ", "ｶﾞﾗｽ", "‘‚„‟"]
    phrases.append("word " * 60)
    for phrase, ids in zip(phrases, ours(phrases, context_length=32).tolist(), strict=True):
        assert file.encode(phrase).ids == ids, phrase


def test_prompts_are_checked_few_at_a_time(exported_folder, adapted, noise, monkeypatch):
    runs = []

    class Session(onnxruntime.InferenceSession):
        def run(self, names, inputs):
            runs.extend([len(inputs["boxes"])] if "boxes" in inputs else [])
            return super().run(names, inputs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    pixels = torch.from_numpy(np.asarray(noise, np.float32)).permute(2, 0, 1) / 127.5 - 1
    checked = check.trials(adapted, [pixels], [*PHRASES, "car roof"], 2)
    assert max(check.largest_differences(adapted, exported_folder, checked).values()) <= TOLERANCE
    assert runs == [4, 1, 4, 1]
    masks = checked[0].outputs["masks"]
    masks[4, 0] += np.abs(masks).max()  # of the last prompt alone
    assert check.largest_differences(adapted, exported_folder, checked[:1])["masks"] >= 0.4


def test_a_phrase_that_would_be_read_otherwise(adapted, tmp_path):
    with pytest.raises(ConfigError, match=r"the prompt 'a &amp; b': tokenizer\.json would read it as"):
        folder.write_tokenizer(adapted, tmp_path, ["car", "a &amp; b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out={there}"], "is there already; expected a new folder"),
        (["out={new}", "boxes=0"], "boxes=0; expected an integer from 1"),
        (["out={new}", "adapters=x"], "did you mean adapter?"),
        (["out={new}", "images=/nowhere"], "/nowhere: no such image or folder"),
        ([], "needs out=…"),
    ],
)
def test_mistakes_are_found_before_the_model_is_built(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "open_adapted", None)
    (tmp_path / "there").mkdir()
    places = {"there": tmp_path / "there", "new": tmp_path / "new"}
    assert message in error_of(tool.main, [one.format(**places) for one in arguments], capsys)[0]
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_extra_is_named_before_the_model_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "open_adapted", None)
    monkeypatch.setattr(folder, "_NEEDED", ("onnx", "not_installed"))
    with pytest.raises(ConfigError, match=r"^export needs not_installed: pip install 'sam3_hyperet\[onnx\]'$"):
        tool.main([f"out={tmp_path / 'onnx'}"])


@pytest.mark.parametrize("fault", ["outputs", "upstream"])
def test_nothing_is_kept_of_an_export_that_fails(fault, tiny_is_micro, tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("cannot\ntranslate aten.x")

    expected: contextlib.AbstractContextManager[object]
    if fault == "upstream":
        monkeypatch.setattr(torch.export, "export", refused)
        expected = pytest.raises(ConfigError, match=r"image_encoder\.onnx: PyTorch .* cannot translate aten\.x$")
    else:
        monkeypatch.setattr(folder, "write_onnx", lambda graph, where: (where / graph.file).touch())
        monkeypatch.setattr(folder, "largest_differences", lambda *_: {"scores": 1e-6, "masks": float("nan")})
        expected = pytest.raises(CheckpointError, match="differ from PyTorch's by nan")
    with expected:
        tool.main(["model.checkpoint=random", f"out={tmp_path / 'new' / 'onnx'}"])
    assert not list(tmp_path.rglob("*onnx*"))


def test_the_exporter_is_left_as_it_was(exported_folder):
    assert torch.backends.mha.get_fastpath_enabled()
    with onnx_files._quiet():
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()

"""Files with the official builders' own keys load in every layout, and what we write is read by SAM 3's own loader."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from official import image_model, on_meta, video_model
from published_layouts import keys_of_3_1
from reachable import tensors_of

import sam3_hyperet as hy
from sam3_hyperet.errors import CheckpointError, ConfigError, StorageError
from sam3_hyperet.modeling.build import Architecture, assemble
from sam3_hyperet.modeling.checkpoint import load_base, save_official
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.parameters import adapter_sites, base_state_dict

WEIGHTS = 1102  # parameters of the official image detector
SAM2_NECK = 22
TRACKER = 309
LOGGER = "sam3_hyperet.modeling.checkpoint"


@pytest.fixture(scope="module")
def video():
    """SAM 3's video model, of which the official file is the state dict."""
    return video_model()


@pytest.fixture(scope="module")
def large():
    with on_meta():
        return assemble(Architecture())


@pytest.fixture(scope="module")
def official_file(video):
    """Every key of the official file with its shape; one element of memory each."""
    state = video.state_dict()
    return {key: torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape) for key, tensor in state.items()}


def renamed(state, prefix):
    """The file's detector below another prefix; the tracker below what is before "detector."."""
    outer = prefix.removesuffix("detector.")
    return {
        prefix + key.removeprefix("detector.") if key.startswith("detector.") else outer + key: tensor
        for key, tensor in state.items()
    }


LAYOUTS = {
    "official": lambda state: state,
    "bare": lambda state: renamed(state, ""),
    "model.": lambda state: renamed(state, "model."),
    "module.": lambda state: renamed(state, "module."),
    "nested": lambda state: renamed(state, "module.model.detector."),
    "wrapped": lambda state: {"model": state, "epoch": 1},
    "wrapped, prefixed": lambda state: {"state_dict": renamed(state, "module.detector.")},
    "image model alone": lambda state: {
        key.removeprefix("detector."): tensor
        for key, tensor in state.items()
        if key.startswith("detector.") and "sam2_convs" not in key
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_official_keys_load_in_every_layout(large, official_file, tmp_path, caplog, layout):
    assert len(official_file) == 1465
    path = tmp_path / "sam3.pt"
    torch.save(LAYOUTS[layout](official_file), path)
    with caplog.at_level(logging.INFO, LOGGER):
        assert load_base(large, path) == len(list(large.parameters())) == WEIGHTS
    tracker = f", {SAM2_NECK} of the tracker's neck, {TRACKER} of the tracker"
    assert caplog.messages == [
        f"{path}: 1,102 of 1,102 base weights loaded; left out: 32 of the buffers, which are computed"
        f"{'' if layout == 'image model alone' else tracker}"
    ]


@pytest.mark.parametrize("repackaged", [False, True])
def test_the_keys_of_sam_3_1_load(large, official_file, tmp_path, caplog, repackaged):
    """Also as others repackage the file, without buffers and CLIP's projection, in half precision."""
    shapes = {key: tensor.shape for key, tensor in official_file.items()}
    dtype = torch.float16 if repackaged else torch.float32
    state = {key: torch.zeros(1, dtype=dtype).expand(shapes.get(key, (3, 2))) for key in keys_of_3_1(official_file)}
    if repackaged:
        state = {key: tensor for key, tensor in state.items() if "freqs_cis" not in key}
        del state["detector.backbone.language_backbone.encoder.text_projection"]
    path = tmp_path / "sam3.1_multiplex.pt"
    torch.save(state, path)
    assert len(state) == 1623 - 33 * repackaged
    neck = "backbone.vision_backbone.convs.3"
    absent = f"{neck}.conv_1x1, {neck}.conv_3x3"
    text = "backbone.language_backbone.encoder.text_projection, " if repackaged else ""
    buffers = "" if repackaged else "32 of the buffers, which are computed, "
    count, stored = WEIGHTS - 4 - repackaged, ", stored as float16" if repackaged else ""
    with caplog.at_level(logging.INFO, LOGGER):
        assert load_base(large, path) == count
    assert caplog.messages == [
        f"{path}: {count:,} of 1,102 base weights loaded{stored}; set to zero, for SAM 3 never reads them: "
        f"{text}{absent}; left out: {buffers}18 of the interactive neck, 18 of the tracker's neck, 457 of the tracker"
    ]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (
            "detector.backbone.",
            r"705 of 1102 weights of the model found; missing first geometry_encoder\.label_embed",
        ),
        ("tracker.", r"\b0 of 1102 weights .* missing first backbone\..*; the file has first tracker\."),
    ],
)
def test_a_part_of_the_official_file_is_refused(large, official_file, tmp_path, kept, message):
    path = tmp_path / "sam3.pt"
    torch.save({key: tensor for key, tensor in official_file.items() if key.startswith(kept)}, path)
    with pytest.raises(CheckpointError, match=message):
        load_base(large, path)


def test_the_video_detector_is_the_same_base(large, video, official_file, tmp_path, caplog):
    def described(model):
        return {name: tuple(tensor.shape) for name, tensor in base_state_dict(model).items()}

    assert described(video.detector) == described(large)
    path = tmp_path / "sam3.pt"
    torch.save(official_file, path)
    with caplog.at_level(logging.INFO, LOGGER):
        load_base(video.detector, path)
    read = f"{SAM2_NECK} of {SAM2_NECK} that only the tracker reads; left out: 32 of the buffers, which are computed"
    assert f"{read}, {TRACKER} of the tracker" in caplog.text


def test_what_is_written_and_carried_over_is_the_whole_official_file(large, official_file):
    written = {f"detector.{key}": tuple(tensor.shape) for key, tensor in large.state_dict().items()}
    assert all(shape == tuple(official_file[key].shape) for key, shape in written.items())
    others = official_file.keys() - written.keys()
    assert len(others) == SAM2_NECK + TRACKER
    assert all(key.startswith(("tracker.", "detector.backbone.vision_backbone.sam2_convs.")) for key in others)


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning", "ignore:`torch.jit.script`:FutureWarning")
def test_the_interactive_image_model_is_the_same_base(large, official_file, tmp_path, caplog):
    with on_meta():
        model = image_model(enable_inst_interactivity=True)
    model.inst_interactive_predictor.model.bf16_context.__exit__(None, None, None)
    assert base_state_dict(model).keys() == base_state_dict(large).keys()
    path = tmp_path / "sam3.pt"
    torch.save(official_file, path)
    with caplog.at_level(logging.INFO, LOGGER):
        load_base(model, path)
    own = SAM2_NECK + TRACKER  # with the random matrix of its position encoding, which is a buffer
    assert f"{own} of {own} that only the tracker reads" in caplog.text
    assert caplog.messages[0].endswith("; left out: 32 of the buffers, which are computed")


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")
def test_adapters_on_a_model_of_the_builder_share_all_its_tensors():
    with on_meta():
        model = image_model()
        copies = [hy.adapted_copy(model, {"scheme": scheme}) for scheme in ("A", "P")]
    own = {id(tensor) for tensor in tensors_of(model)}
    assert len(own) > WEIGHTS  # among them SAM 3's precomputed positions
    for adapted in copies:
        added = {id(t) for site in adapter_sites(adapted).values() for t in tensors_of(site)}
        assert {id(tensor) for tensor in tensors_of(adapted)} - added == own
        assert [type(m) for m in hy.remove_adapter(adapted).modules()] == [type(m) for m in model.modules()]


@pytest.fixture
def with_tracker(another):
    """The tiny model with a SAM 2 neck and something of a tracker."""
    model = another()
    neck = model.backbone.vision_backbone
    neck.sam2_convs = copy.deepcopy(neck.convs)
    model.inst_interactive_predictor = torch.nn.Module()
    model.inst_interactive_predictor.model = torch.nn.Linear(2, 3)
    return model


def test_what_the_detector_never_reads_is_no_part_of_the_base(model, with_tracker, randomized, tmp_path):
    assert base_fingerprint(with_tracker) == base_fingerprint(model)
    randomized(hy.inject(model, hy.HyperETConfig()))
    hy.save_adapter(model, tmp_path / "adapter.safetensors")
    with torch.no_grad():
        for parameter in with_tracker.backbone.vision_backbone.sam2_convs.parameters():
            parameter.add_(1)
    hy.load_adapter(with_tracker, tmp_path / "adapter.safetensors")
    before = model.backbone.fpn_adjustment.state_dict()
    after = with_tracker.backbone.fpn_adjustment.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_the_tracker_gets_what_the_file_has_for_it(base, with_tracker, tmp_path):
    linear = with_tracker.inst_interactive_predictor.model
    neck = with_tracker.backbone.vision_backbone.sam2_convs
    before = neck.state_dict()["0.conv_1x1.bias"].clone()
    state = {f"detector.{key}": tensor for key, tensor in base.state_dict().items()}
    state |= {"tracker.weight": torch.full((3, 2), 5.0), "tracker.memory": torch.ones(1)}
    state["detector.backbone.vision_backbone.sam2_convs.1.conv_1x1.bias"] = torch.full((64,), 7.0)
    torch.save(state, tmp_path / "sam3.pt")
    assert load_base(with_tracker, tmp_path / "sam3.pt") == len(base_state_dict(base))
    assert linear.weight.eq(5).all()
    assert neck.state_dict()["1.conv_1x1.bias"].eq(7).all()
    assert torch.equal(neck.state_dict()["0.conv_1x1.bias"], before)
    torch.save(state | {"tracker.weight": torch.ones(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"inst_interactive_predictor\.model\.weight has shape \(2, 2\)"):
        load_base(with_tracker, tmp_path / "other.pt")


def test_the_tracker_of_sam_3_1_is_its_interactive_head(base, with_tracker, tmp_path):
    state = {f"detector.{key}": tensor for key, tensor in base.state_dict().items()}
    state["detector.backbone.vision_backbone.interactive_convs.1.conv_1x1.bias"] = torch.full((64,), 7.0)
    state |= {"tracker.model.weight": torch.ones(9), "tracker.model.interactive_weight": torch.full((3, 2), 5.0)}
    state["tracker.model.interactivity_bias"] = torch.full((3,), 6.0)
    torch.save(state, tmp_path / "sam3.1_multiplex.pt")
    load_base(with_tracker, tmp_path / "sam3.1_multiplex.pt")
    linear = with_tracker.inst_interactive_predictor.model
    assert linear.weight.eq(5).all()
    assert linear.bias.eq(6).all()
    assert with_tracker.backbone.vision_backbone.sam2_convs[1].conv_1x1.bias.eq(7).all()


def test_what_is_written_loads_with_sam3s_own_loader(model, tmp_path, capsys):
    from sam3.model_builder import _load_checkpoint

    save_official(model, tmp_path / "new" / "sam3.pt")
    content = torch.load(tmp_path / "new" / "sam3.pt", weights_only=True)
    assert list(content) == [f"detector.{key}" for key in model.state_dict()]
    assert any("freqs_cis" in key for key in content)
    stock = hy.build_model("tiny", checkpoint="random", seed=5)
    assert base_fingerprint(stock) != base_fingerprint(model)
    _load_checkpoint(stock, tmp_path / "new" / "sam3.pt")
    assert capsys.readouterr().out == ""  # it prints the keys that are missing
    assert base_fingerprint(stock) == base_fingerprint(model)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sam3.pt"]
    save_official(model, tmp_path / "again.pt")  # its bytes depend on no name, nor on the time
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "new" / "sam3.pt").read_bytes()


def test_a_place_that_cannot_be_written_to_is_named(model):
    with pytest.raises(StorageError, match=r"/proc/sam3.pt: .*; expected a place with free space"):
        save_official(model, "/proc/sam3.pt")


def test_the_rest_of_an_official_file_is_carried_over(model, tmp_path):
    path = tmp_path / "sam3.pt"
    theirs = {f"detector.{key}": torch.zeros_like(tensor) for key, tensor in model.state_dict().items()}
    others = {
        "tracker.maskmem": torch.arange(6.0).view(2, 3).bfloat16(),
        "detector.backbone.vision_backbone.sam2_convs.0.bias": torch.rand(4),
    }
    torch.save({"model": {**theirs, **others}}, path)
    save_official(model, path, carry_over=path)  # onto itself
    content = torch.load(path, weights_only=True)
    assert content.keys() == theirs.keys() | others.keys()
    assert all(torch.equal(content[key], tensor) for key, tensor in others.items())
    assert content["tracker.maskmem"].dtype == torch.bfloat16
    assert all(torch.equal(content[f"detector.{key}"], tensor) for key, tensor in model.state_dict().items())
    size = sum(tensor.nbytes for tensor in content.values())
    assert size < path.stat().st_size < 1.2 * size


def test_the_interactive_predictor_is_not_written_twice(with_tracker, tmp_path):
    save_official(with_tracker, tmp_path / "sam3.pt")
    content = torch.load(tmp_path / "sam3.pt", weights_only=True)
    assert not [key for key in content if "inst_interactive_predictor" in key]
    assert "detector.backbone.vision_backbone.sam2_convs.0.conv_1x1.bias" in content


def test_what_cannot_be_written_leaves_the_file_there(model, tmp_path, monkeypatch):
    path = tmp_path / "sam3.pt"
    path.write_text("before")
    state = model.state_dict()
    bare = tmp_path / "bare.pt"
    torch.save(state, bare)
    with pytest.raises(CheckpointError, match=r"bare.pt: not an official file of this model; 0 of \d+ keys found"):
        save_official(model, path, carry_over=bare)
    other = hy.build_model("tiny", checkpoint="random", resolution=64)
    save_official(other, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"freqs_cis has shape \(64, 12\), expected \(256, 12\)"):
        save_official(model, path, carry_over=tmp_path / "other.pt")
    hy.inject(model, hy.HyperETConfig())
    with pytest.raises(ConfigError, match=r"the model has adapters .* merge them .*save_adapter"):
        save_official(model, path)
    with monkeypatch.context() as patch:

        def full(content, file):
            file.write(b"half")
            raise OSError("no space left")

        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="no space left"):
            save_official(other, path)
    assert path.read_text() == "before"
    assert {file.name for file in tmp_path.iterdir()} == {"sam3.pt", "bare.pt", "other.pt"}

"""What an encoder's adapter file knows its base by: whole stacks, with the buffers that training moves."""

from __future__ import annotations

import pytest
import torch
from small_encoders import small_encoder
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.modeling.encoders.places import Place, stems
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.tensor_files import read_safetensors, write_safetensors


@pytest.mark.parametrize(
    ("module", "stem"),
    [
        ("blocks.0.attn.qkv", "blocks."),
        ("dinov2.encoder.layer.0.attention.attention.query", "dinov2.encoder.layer."),
        ("layer1.0.conv2", "layer1."),
        ("layers_0.blocks.0.attn.qkv", "layers_0.blocks."),
        ("vision_model.post_layernorm", "vision_model."),
        ("layernorm", ""),
    ],
)
def test_a_stack_ends_before_its_number(module, stem):
    assert stems([Place(module, "output", 0, 4)]) == (stem,)


class Classifier(nn.Module):
    """An encoder whose name has a digit in it, below a head of any number of classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.dinov2 = small_encoder("timm_vit")
        self.classifier = nn.Linear(24, classes)


def test_another_head_is_no_other_base(randomized, tmp_path):
    trained = randomized(hy.inject_qv(Classifier(3), {"structure": "diagonal"}))
    hy.save_adapter(trained, file := tmp_path / "adapter.safetensors")
    other = hy.load_adapter(Classifier(5), file)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(other.dinov2(pixels), trained.dinov2(pixels))
        (changed := Classifier(3)).dinov2.blocks[1].mlp.fc1.weight[0, 0] += 1
    with pytest.raises(CheckpointError, match="made for the base"):
        hy.load_adapter(changed, file)


def test_files_of_earlier_versions_still_load(tmp_path):
    trained = hy.inject_qv(small_encoder("timm_vit"), {"structure": "diagonal"})
    hy.save_adapter(trained, file := tmp_path / "adapter.safetensors")
    tensors, metadata = read_safetensors(file)
    assert metadata["fingerprint"] == "3"
    for version in ("1", "2"):
        earlier = {key: value for key, value in metadata.items() if not key.startswith("base.")}
        earlier |= {"fingerprint": version, "base": base_fingerprint(trained, version)}
        write_safetensors(tensors, file, earlier)
        hy.load_adapter(small_encoder("timm_vit"), file)


class Stages(nn.Module):
    """Convolutions with running statistics, in a stage as ResNets have it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            blocks = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for _ in range(2)]
        self.layer1 = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer1(x)


def test_running_statistics_that_moved_are_another_base(tmp_path):
    model = hy.wrap(Stages(), r"layer1\.\d+\.0$", {"structure": "diagonal"})
    hy.save_adapter(model, kept := tmp_path / "kept.safetensors")
    hy.load_adapter(Stages(), kept)
    with torch.no_grad():
        model.train()(torch.randn(2, 4, 3, 3))
    hy.save_adapter(model, moved := tmp_path / "moved.safetensors")
    with pytest.raises(CheckpointError, match=r"made for the base .*; running statistics, as of BatchNorm, count"):
        hy.load_adapter(fresh := Stages(), moved)
    fresh.load_state_dict(model.state_dict(), strict=False)
    hy.load_adapter(fresh, moved)

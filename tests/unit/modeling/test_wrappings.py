"""Models wrapped by torch.compile, Fabric and DDP: the public functions work on what is inside, by its own names."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.tensor_files import read_safetensors
from sam3_hyperet.modeling.wrappings import unwrapped
from sam3_hyperet.training.optimizer import build_optimizer
from sam3_hyperet.training.options import OptimizerOptions


class Distributed(nn.parallel.DistributedDataParallel):
    """What DDP is seen as, without a group of processes."""

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module


def compiled(module):
    return torch.compile(module, backend="eager")


WRAPPINGS = {
    "compiled": compiled,
    "fabric": lambda model: Fabric(accelerator="cpu", devices=1).setup_module(model),
    "distributed": Distributed,
    "several": lambda model: Distributed(compiled(model)),
}


@pytest.fixture(params=WRAPPINGS)
def wrapping(request):
    return WRAPPINGS[request.param]


def compile_trunk(model):
    neck = model.backbone.vision_backbone
    neck.trunk = compiled(neck.trunk)
    return model


def same_files(first, second):
    (ours, own), (theirs, others) = map(read_safetensors, (first, second))
    return own == others and ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def masks(model, picture):
    return torch.stack([answer.mask_logits for answer in Predictor(model, ["car"], 128).predict(picture)])


def test_an_adapter_of_a_wrapped_model_is_that_of_its_model(model, another, randomized, tmp_path, wrapping):
    wrapped = wrapping(randomized(hy.inject(model, {"scheme": "A+P"})))
    hy.set_dial(wrapped, 0.5)
    hy.save_adapter(wrapped, tmp_path / "wrapped.safetensors")
    hy.save_adapter(model, tmp_path / "plain.safetensors")
    assert same_files(tmp_path / "wrapped.safetensors", tmp_path / "plain.safetensors")
    other = wrapping(hy.inject(another(), {"scheme": "A+P"}))
    assert hy.load_adapter(other, tmp_path / "plain.safetensors") is other
    hy.save_adapter(other, tmp_path / "again.safetensors")
    assert same_files(tmp_path / "again.safetensors", tmp_path / "plain.safetensors")


def test_switches_reports_and_stages_reach_what_is_inside(model, randomized, picture, wrapping):
    before = masks(model, picture)
    wrapped = wrapping(randomized(hy.inject(model, {"scheme": "A"})))
    report = hy.parameter_report(model)
    assert hy.parameter_report(wrapped) == report
    assert hy.set_stage(wrapped, 1).trainable == report["added"]
    names = [group["name"] for group in build_optimizer(wrapped, OptimizerOptions()).param_groups]
    assert set(names) == {"adapters"}
    hy.set_training_mode(wrapped)
    assert model.training
    assert not model.backbone.vision_backbone.trunk.training
    model.eval()
    assert not torch.equal(masks(model, picture), before)
    with hy.adapters_disabled(wrapped):
        assert torch.equal(masks(model, picture), before)
    assert hy.remove_adapter(wrapped) is wrapped
    assert torch.equal(masks(model, picture), before)
    assert not hasattr(model, "hyperet_config")


def test_a_wrapped_model_merges_and_is_saved_as_its_model(model, another, randomized, tmp_path, wrapping):
    randomized(hy.inject(model, {"scheme": "P", "structure": "diagonal"}))
    hy.save_adapter(model, tmp_path / "adapter.safetensors")
    plain = hy.merge(hy.load_adapter(another(), tmp_path / "adapter.safetensors"))
    wrapped = wrapping(model)
    assert hy.merge(wrapped) is wrapped
    hy.save_official(wrapped, tmp_path / "wrapped.pt")
    hy.save_official(plain, tmp_path / "plain.pt")
    ours, theirs = (torch.load(tmp_path / f"{name}.pt") for name in ("wrapped", "plain"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_adapters_are_not_added_behind_a_wrapping(model, another, tmp_path, wrapping):
    hy.save_adapter(hy.inject(another(), {"scheme": "A"}), tmp_path / "adapter.safetensors")
    wrapped = wrapping(model)
    for add in (lambda: hy.inject(wrapped, {}), lambda: hy.load_adapter(wrapped, tmp_path / "adapter.safetensors")):
        with pytest.raises(ConfigError, match=r"wraps a model; adapters first, .* pass its \.(_orig_mod|module)$"):
            add()
    assert unwrapped(wrapped) is model


@pytest.mark.parametrize("scheme", ["A", "P"])
def test_a_compiled_trunk_changes_no_name(model, another, randomized, picture, tmp_path, scheme):
    plain = randomized(hy.inject(another(), {"scheme": scheme}))
    hy.save_adapter(plain, tmp_path / "plain.safetensors")
    compile_trunk(hy.inject(model, {"scheme": scheme}) if scheme == "P" else model)
    assert base_fingerprint(model) == base_fingerprint(another())
    hy.load_adapter(model, tmp_path / "plain.safetensors")
    torch.testing.assert_close(masks(model, picture), masks(plain, picture), rtol=1e-4, atol=1e-4)
    hy.save_adapter(model, tmp_path / "compiled.safetensors")
    ours, theirs = (load_file(tmp_path / f"{name}.safetensors") for name in ("compiled", "plain"))
    assert ours.keys() == theirs.keys()
    assert hy.set_stage(model, 1).trainable == hy.parameter_report(plain)["added"]
    assert hy.set_stage(model, 3).frozen == 0
    groups = {group["name"] for group in build_optimizer(model, OptimizerOptions()).param_groups}
    hy.set_stage(plain, 3)
    assert groups == {group["name"] for group in build_optimizer(plain, OptimizerOptions()).param_groups}
    torch.compiler.reset()


def test_layers_of_a_compiled_part_are_not_replaced(model):
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match="trunk is compiled; adapters first, then compile"):
        hy.inject(compile_trunk(model), {"scheme": "A", "adapter": "lora"})


def test_an_encoder_is_wrapped_compiled_and_saved(tmp_path):
    def encoder():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.GELU(), nn.Linear(8, 4)))

    adjusted = hy.wrap(encoder(), r"^0$", {"structure": "diagonal"})
    hy.save_adapter(compiled(adjusted), tmp_path / "adapter.safetensors")
    hy.load_adapter(encoder(), tmp_path / "adapter.safetensors")
    part = hy.wrap(encoder(), r"^0$", {"structure": "diagonal"})
    part[1] = compiled(part[1])
    again = compiled(part)
    assert hy.load_adapter(again, tmp_path / "adapter.safetensors") is again
    part = encoder()
    part[1] = compiled(part[1])
    with pytest.raises(ConfigError, match="1 is compiled; adapters first, then compile"):
        hy.wrap(part, r"^0$", {"structure": "diagonal"})
    with pytest.raises(ConfigError, match=r"pass its \._orig_mod"):
        hy.wrap(compiled(encoder()), r"^0$")

"""Controls take the code path of HyperET: identity, files, stages, fingerprints, dial, and folding for good."""

from __future__ import annotations

import sys

import pytest
import torch
from answers import answers, equal, largest_relative_difference
from omegaconf import OmegaConf
from safetensors.torch import load_file

import sam3_hyperet as hy
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.adapter_file import read_adapter_config
from sam3_hyperet.modeling.checkpoint import load_base, save_base
from sam3_hyperet.modeling.config import SITES
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.latest_radii import LatestRadii
from sam3_hyperet.modeling.opening import open_adapted_model
from sam3_hyperet.modeling.parameters import adapter_parameters, adapter_sites, base_state_dict
from sam3_hyperet.modeling.radius_sums import RadiusSums

CONVS, BLOCKS = "backbone.vision_backbone.convs", "backbone.vision_backbone.trunk.blocks"
LAYERS = "transformer.encoder.layers"
LORA, BITFIT = hy.HyperETConfig(adapter="lora"), hy.HyperETConfig(adapter="bitfit")
EVERYWHERE = hy.HyperETConfig(adapter="oft", sites=[s for s in SITES if s != "prompt"], oft_block_size=4)
CONTROLS = {"lora": LORA, "oft everywhere": EVERYWHERE, "bitfit": BITFIT}  # one of each file


@pytest.fixture(scope="module")
def expected(base, picture):
    return answers(base, picture)


@pytest.fixture(scope="module")
def same_copy(base):
    """A copy that no test changes for good."""
    return shared_copy(base)


@pytest.fixture(params=CONTROLS)
def config(request):
    return CONTROLS[request.param]


@pytest.fixture
def adapted(model, config, randomized):
    """With a control away from where it starts."""
    return randomized(hy.inject(model, config), scale=0.1)


def values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_identity_at_first_and_the_exact_base_when_disabled(model, base, config, picture, expected, randomized):
    names = list(dict(model.named_parameters()))
    assert hy.inject(model, config) is model
    assert equal(answers(model, picture), expected)
    assert sorted(base_state_dict(model)) == sorted(names)
    randomized(model, scale=0.1)
    assert largest_relative_difference(answers(model, picture), expected) > 1e-3
    with hy.adapters_disabled(model) as same:
        assert same is model
        assert equal(answers(model, picture), expected)
        with pytest.raises(KeyError), hy.adapters_disabled(model):
            raise KeyError
        assert equal(answers(model, picture), expected)
    assert largest_relative_difference(answers(model, picture), expected) > 1e-3


def test_switching_off_leaves_what_trains(adapted):
    hy.set_stage(adapted, 1)
    frozen = adapter_parameters(adapted)[0][1].requires_grad_(False)
    before = {name: (p.requires_grad, p) for name, p in adapted.named_parameters()}
    with hy.adapters_disabled(adapted):
        pass
    after = {name: (p.requires_grad, p) for name, p in adapted.named_parameters()}
    assert before.keys() == after.keys()
    assert all(before[name][0] == after[name][0] and before[name][1] is after[name][1] for name in before)
    assert not frozen.requires_grad


@pytest.mark.parametrize("training", [False, True])
def test_injecting_changes_neither_mode_nor_what_trains(model, config, training):
    model.train(training)
    model.dot_prod_scoring.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    hy.inject(model, config)
    assert {module.training for module in model.modules()} == {training}
    after = base_state_dict(model) | dict(adapter_parameters(model))
    assert {name: after[name].requires_grad for name in before} == before
    assert all(p.requires_grad for _, p in adapter_parameters(model))
    assert not hasattr(model, "peft_config")


def test_the_base_is_seen_as_it_was(adapted, base, tmp_path):
    names = dict(base.named_parameters())
    for disabled in (False, True):
        if disabled:
            switch_off(adapted)
        assert base_fingerprint(adapted) == base_fingerprint(base)
        assert base_state_dict(adapted).keys() == names.keys()
        assert all(torch.equal(tensor, names[name]) for name, tensor in base_state_dict(adapted).items())
    save_base(adapted, tmp_path / "base.safetensors")
    assert base_fingerprint(hy.build_model("tiny", checkpoint=tmp_path / "base.safetensors")) == base_fingerprint(base)


def switch_off(model):
    for site in adapter_sites(model).values():
        site.enabled = False


def test_another_base_goes_below_the_control(adapted, picture, tmp_path):
    before = {name: p.detach().clone() for name, p in adapter_parameters(adapted)}
    other = hy.build_model("tiny", checkpoint="random", seed=1)
    save_base(other, tmp_path / "base.safetensors")
    load_base(adapted, tmp_path / "base.safetensors")
    assert all(torch.equal(p, before[name]) for name, p in adapter_parameters(adapted))
    with hy.adapters_disabled(adapted):
        assert equal(answers(adapted, picture), answers(other, picture))


@pytest.mark.parametrize("injected_before", [False, True])
def test_round_trip_is_bit_equal(adapted, another, config, picture, tmp_path, injected_before):
    path = tmp_path / "adapter.safetensors"
    with hy.adapters_disabled(adapted):  # what is saved does not hang on it
        hy.save_adapter(adapted, path)
    saved = load_file(path)
    assert saved.keys() == dict(adapter_parameters(adapted)).keys()
    assert sum(tensor.numel() for tensor in saved.values()) == hy.parameter_report(adapted)["added"]
    assert read_adapter_config(path) == config
    other = hy.inject(another(), config) if injected_before else another()
    assert hy.load_adapter(other, path) is other
    assert other.hyperet_config == config
    assert equal(answers(other, picture), answers(adapted, picture))


@pytest.mark.parametrize("kinds", [("hyperet", "lora"), ("lora", "hyperet"), ("bitfit", "lora"), ("hyperet", "bitfit")])
def test_a_file_of_another_kind_is_refused(model, another, tmp_path, kinds):
    saved, present = (hy.HyperETConfig(adapter=kind) for kind in kinds)
    hy.save_adapter(hy.inject(model, saved), tmp_path / "adapter.safetensors")
    other = hy.inject(another(), present)
    before = values(other)
    with pytest.raises(CheckpointError, match=rf"holds .*adapter='{kinds[0]}'.*the model has .*adapter='{kinds[1]}'"):
        hy.load_adapter(other, tmp_path / "adapter.safetensors")
    assert all(torch.equal(p, before[name]) for name, p in other.named_parameters())


def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(adapted, another, picture, expected, tmp_path, config):
    path = tmp_path / "adapter.safetensors"
    hy.save_adapter(adapted, path)
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors.pop(next(iter(tensors)))
    save_file(tensors, path, metadata=metadata)
    other = another()
    with pytest.raises(CheckpointError, match="adapter keys differ"):
        hy.load_adapter(other, path)
    assert_untouched(other, another())
    assert equal(answers(other, picture), expected)


def assert_untouched(model, fresh):
    assert [(name, type(module)) for name, module in model.named_modules()] == [
        (name, type(module)) for name, module in fresh.named_modules()
    ]
    assert [(n, p.requires_grad) for n, p in model.named_parameters()] == [
        (n, p.requires_grad) for n, p in fresh.named_parameters()
    ]
    for name in ("hyperet_config", "hyperet_control", "peft_config"):
        assert not hasattr(model, name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"adapter": "lora", "structure": "diagonal"},
            r"HyperET would add 128 parameters, but rank=1 takes 640 in .*convs\.0\.conv_3x3 alone; "
            r"to have it all the same, 1,280 parameters, set hyperet\.rank=1",
        ),
        ({"adapter": "lora", "scheme": "C"}, r"HyperET would add 32 parameters.* 192 in .*set hyperet.rank=1"),
        ({"adapter": "lora", "levels": [7]}, r"levels=\[7\]: the model has no FPN level 7"),
        ({"adapter": "lora", "levels": [7], "rank": 1}, r"levels=\[7\]: the model has no FPN level 7"),
        ({"adapter": "lora", "scheme": "P", "blocks": [4], "rank": 1}, r"no ViT block 4"),
        ({"adapter": "lora", "scheme": "B", "layers": [2], "rank": 1}, r"no layer of the fusion encoder 2"),
        ({"adapter": "lora", "structure": "block_diagonal", "block_size": 7}, r"block_size must divide dim=64"),
        ({"adapter": "bitfit", "biases": ["^transformer", "^nowhere"]}, r"biases: '\^nowhere' is found in no bias's"),
        ({"adapter": "bitfit", "biases": [rf"^{CONVS}\.2\."]}, r"is found in no bias's name; these are backbone"),
        ({"adapter": "bitfit", "biases": ["weight$"]}, r"'weight\$' is found in no bias's name"),
        ({"adapter": "bitfit", "biases": ["("]}, r"biases: '\(' is not a regular expression"),
        ({"adapter": "bitfit", "biases": [3]}, r"biases=\[3\]; expected a list of text"),
        ({"adapter": "bitfit", "biases": []}, r"biases is empty; expected regular expressions"),
        (
            {"adapter": "ln", "norms": ["cross_attn_norm", "conv"]},
            r"norms: 'conv' is found in no LayerNorm's name; these",
        ),
        (
            {"adapter": "boft", "scheme": "C"},
            r"adapter=boft: HyperET would add 32 parameters, but oft_block_size=2 takes",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(same_copy, base, options, message):
    with pytest.raises(ConfigError, match=message):
        hy.inject(same_copy, hy.HyperETConfig(**options))
    assert_untouched(same_copy, base)


def test_without_peft(model, another, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    for adapter in ("lora", "dora", "ia3"):
        with pytest.raises(ConfigError, match=rf'adapter={adapter} needs peft .*: pip install "sam3_hyperet\[peft\]"'):
            hy.inject(model, {"adapter": adapter})
        assert_untouched(model, another())
    for adapter in ("oft", "boft", "ln", "bitfit"):
        hy.remove_adapter(hy.inject(model, {"adapter": adapter}))


def test_an_error_of_peft_leaves_the_model_as_it_was(model, another, monkeypatch):
    import peft

    inject = peft.inject_adapter_in_model

    def fail(config, model):
        inject(config, model)
        raise RuntimeError("late")

    monkeypatch.setattr(peft, "inject_adapter_in_model", fail)
    with pytest.raises(RuntimeError, match="late"):
        hy.inject(model, LORA)
    assert_untouched(model, another())


def test_the_matched_size_is_printed(capsys):
    open_adapted_model({"checkpoint": "random"}, hy.HyperETConfig(adapter="oft", scheme="C"))
    printed = capsys.readouterr().out
    assert printed == "adapter=oft: oft_block_size=2 in 1 of 2 layers, 32 parameters; HyperET would have 32\n"


def test_a_second_adapter_is_refused(adapted):
    with pytest.raises(ConfigError, match="already has adapters"):
        hy.inject(adapted, hy.HyperETConfig())


def test_a_copy_is_independent(adapted, base, picture, expected, randomized, copy_of):
    before = answers(adapted, picture)
    copy = copy_of(adapted)
    assert equal(answers(copy, picture), before)
    randomized(copy, scale=0.3)
    assert not equal(answers(copy, picture), before)
    with hy.adapters_disabled(copy):
        assert equal(answers(copy, picture), expected)
        assert equal(answers(adapted, picture), before)
    assert base_fingerprint(copy) == base_fingerprint(base)
    assert not {id(p) for _, p in adapter_parameters(copy)} & {id(p) for p in adapted.parameters()}


@pytest.mark.parametrize("disabled", [False, True])
def test_folding_leaves_a_stock_model(adapted, base, config, picture, disabled):
    before = answers(adapted, picture)
    if disabled:
        switch_off(adapted)
    assert hy.merge(adapted) is adapted
    assert [(name, type(module)) for name, module in adapted.named_modules()] == [
        (name, type(module)) for name, module in base.named_modules()
    ]
    assert adapted.state_dict().keys() == base.state_dict().keys()
    assert [name for name, _ in adapted.named_parameters()] == [name for name, _ in base.named_parameters()]
    assert all(module.training == twin.training for module, twin in zip(adapted.modules(), base.modules(), strict=True))
    assert not hasattr(adapted, "hyperet_config")
    assert not adapter_parameters(adapted)
    after = answers(adapted, picture)
    assert equal(after, before) if config.adapter == "bitfit" else largest_relative_difference(after, before) <= 1e-5
    assert base_fingerprint(adapted) != base_fingerprint(base)
    hy.inject(adapted, hy.HyperETConfig())


def test_what_cannot_be_folded(model, base, config):
    hy.inject(model, config)
    name, parameter = adapter_parameters(model)[-1]
    with torch.no_grad():
        parameter.view(-1)[0] = float("nan")
    with pytest.raises(ConfigError, match=rf"^{name} has values that are not finite"):
        hy.merge(model)
    assert base_fingerprint(model) == base_fingerprint(base)


def test_there_are_no_radii_to_watch(adapted, picture):
    assert {site.site_name("") for site in adapter_sites(adapted).values()} == {adapted.hyperet_config.adapter}
    with LatestRadii(adapted) as latest, RadiusSums(adapted) as sums:
        answers(adapted, picture)
    assert latest.latest() == {}
    assert sums.sites == {}


def test_bfloat16_autocast(adapted, picture):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(value.isfinite().all() for value in answers(adapted, picture).values())


def test_the_control_moves_with_the_model(adapted, picture, expected):
    before = answers(adapted, picture)
    adapted.double().float()
    assert equal(answers(adapted, picture), before)
    with hy.adapters_disabled(adapted):
        assert equal(answers(adapted, picture), expected)
    adapted.to("meta")
    assert {tensor.device.type for tensor in base_state_dict(adapted).values()} == {"meta"}
    assert {p.device.type for _, p in adapter_parameters(adapted)} == {"meta"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], hy.HyperETConfig(scheme="B+prompt", gate="prompt")),
        (["adapter=lora", "scheme=A"], LORA),
        (["adapter=lora", "scheme=P", "hyperet.rank=2"], hy.HyperETConfig(adapter="lora", scheme="P", rank=2)),
        (["adapter=bitfit", "scheme=A"], BITFIT),
        (["adapter=bitfit", "scheme=A", "hyperet.biases=[norm]"], hy.HyperETConfig(adapter="bitfit", biases=["norm"])),
        (["adapter=boft", "scheme=A", "hyperet.oft_block_size=8"], hy.HyperETConfig(adapter="boft", oft_block_size=8)),
    ],
)
def test_one_switch_of_the_command_line(arguments, expected):
    _, config = parse_command("train", arguments)
    assert hy.HyperETConfig.from_mapping(OmegaConf.to_container(config.hyperet)) == expected


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"rank": 4}, "rank=4: adapter=hyperet has none; it is of adapter=lora and dora, expected that, or no hyperet"),
        ({"adapter": "ia3", "rank": 4}, "rank=4: adapter=ia3 has none"),
        ({"adapter": "lora", "oft_block_size": 4}, "oft_block_size=4: adapter=lora has none"),
        ({"norms": ["."]}, r"norms=\['\.'\]: adapter=hyperet has none; it is of adapter=ln, expected that"),
        ({"adapter": "ln", "biases": []}, r"biases=\[\]: adapter=ln has none; it is of adapter=bitfit"),
    ],
)
def test_options_that_an_adapter_has_not_are_refused(options, found):
    with pytest.raises(ConfigError, match=found):
        hy.HyperETConfig(**options)

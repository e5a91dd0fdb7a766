"""HyperETConfig: what cannot be is refused with what can, and plain values from a file make an equal config."""

from __future__ import annotations

import json

import pytest

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.options import read_options

REFUSED = [
    (
        {"structure": "sparse"},
        r"structure='sparse' is unknown; expected one of diagonal, block_diagonal, banded, dense",
    ),
    ({"geometry": "sphere"}, r"geometry='sphere' is unknown; expected one of euclidean, mobius, lorentz, gyro"),
    ({"geometry": ["lorentz"]}, r"geometry=[\[(]'lorentz',?[\])](; expected text| is unknown; expected one of)"),
    ({"scheme": "Z"}, r"scheme='Z' is unknown; expected one of none, A"),
    ({"scheme": "A+"}, r"scheme='' is unknown; expected one of none, A"),
    ({"scheme": None}, r"scheme=None; expected (a name|text)"),
    ({"sites": ["neck"]}, r"sites='neck' is unknown; expected one of fpn"),
    ({"sites": {"fpn": 1}}, r"sites=.*; expected a list of text or null"),
    ({"biases": [3]}, r"biases=\[3\]; expected a list of text"),
    ({"curvature": 0.0}, r"curvature=0.0; expected a positive number"),
    ({"curvature": -1}, r"curvature=-1; expected a positive number"),
    ({"curvature": float("nan")}, r"curvature=nan; expected a positive number"),
    ({"curvature": float("inf")}, r"curvature=inf; expected a positive number"),
    ({"curvature": "high"}, r"curvature='high'; expected a (positive )?number"),
    ({"curvature": True}, r"curvature=True; expected a (positive )?number"),
    ({"block_size": 0}, r"block_size=0; expected an integer from 1"),
    ({"block_size": 2.5}, r"block_size=2.5; expected an integer"),
    ({"bandwidth": 0}, r"bandwidth=0; expected an integer from 1"),
    ({"bandwidth": None}, r"bandwidth=None; expected an integer"),
    ({"residual": "a bit"}, r"residual='a bit'; expected a number or null"),
    ({"residual": float("nan")}, r"residual=nan; expected a finite number, or null"),
    ({"residual": float("-inf")}, r"residual=-inf; expected a finite number, or null"),
    ({"learn_residual": True}, r"learn_residual=true needs residual"),
    ({"learn_curvature": "yes"}, r"learn_curvature='yes'; expected true or false"),
    ({"learn_curvature": True, "geometry": "euclidean"}, r"geometry euclidean has no curvature"),
    ({"share": 1}, r"share=1; expected true(,| or) false or null"),
    ({"levels": []}, r"levels=\[\]; expected distinct integers"),
    ({"levels": [0, 0]}, r"levels=\[0, 0\]; expected distinct integers"),
    ({"levels": ["0"]}, r"levels=\['0'\]; expected a list of integers or null"),
    ({"levels": 0}, r"levels=0; expected a list"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        HyperETConfig(**values)
    with pytest.raises(ConfigError, match=message):
        HyperETConfig.from_mapping(values)


def test_an_unknown_key_lists_the_valid_ones():
    with pytest.raises(ConfigError, match=r"hyperet.curvture is not an option; expected one of scheme, .*curvature"):
        HyperETConfig.from_mapping({"curvture": 0.1})


@pytest.mark.parametrize("values", [[], ["scheme"], None, "A"])
def test_what_is_no_mapping_is_refused(values):
    with pytest.raises(ConfigError, match="hyperet"):
        read_options(HyperETConfig, values, "hyperet")


def test_a_text_is_one_entry_of_a_list():
    assert HyperETConfig(sites="fpn") == HyperETConfig.from_mapping({"sites": "fpn"}) == HyperETConfig(sites=("fpn",))
    assert HyperETConfig(adapter="bitfit", biases="norm").biases == ("norm",)


def test_lists_and_tuples_make_the_same_config():
    config = HyperETConfig(sites=["fpn"], levels=[0, 1])
    assert config == HyperETConfig(sites=("fpn",), levels=(0, 1))
    assert hash(config) == hash(HyperETConfig(sites=("fpn",), levels=(0, 1)))
    assert config == HyperETConfig.from_mapping(json.loads(json.dumps(config.to_dict())))


@pytest.mark.parametrize(
    ("values", "sites"),
    [
        ({}, ("fpn",)),
        ({"scheme": "none"}, ()),
        ({"scheme": "A+A"}, ("fpn",)),
        ({"scheme": "none+A"}, ("fpn",)),
        ({"scheme": "B+prompt"}, ("encoder_layer", "prompt")),
        ({"scheme": "none", "sites": ["fpn", "fpn"]}, ("fpn",)),
        ({"sites": []}, ()),
    ],
)
def test_sites_of_a_scheme(values, sites):
    assert HyperETConfig(**values).resolved_sites == sites


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"scheme": "A+B"}, "fpn+encoder_layer"),
        ({"scheme": "none"}, ""),
        ({"adapter": "oft", "sites": ["prompt"]}, "oft prompt"),
        ({"adapter": "ln"}, "ln"),
    ],
)
def test_where_adapters_are_in_a_word(options, place):
    assert HyperETConfig(**options).place == place


@pytest.mark.parametrize(
    ("options", "gate"),
    [
        ({"sites": ["encoder_layer", "prompt"]}, "prompt"),
        ({"scheme": "B"}, "prompt"),
        ({"scheme": "A+B"}, "none"),  # the pyramid does not see the prompt
        ({"scheme": "P"}, "none"),
        ({"scheme": "none"}, "none"),
        ({"scheme": "B", "adapter": "lora"}, "none"),
        ({"adapter": "ln"}, "none"),
    ],
)
def test_an_automatic_gate_is_there_where_there_can_be_one(options, gate):
    assert HyperETConfig.from_mapping({**options, "gate": "auto"}).to_dict()["gate"] == gate


def test_the_same_sites_by_a_scheme_and_by_name_do_not_differ():
    """Before schemes could name sites, `sites` stood beside a scheme that it replaced."""
    by_name = HyperETConfig(scheme="A", sites=("encoder_layer", "prompt"))
    by_scheme = HyperETConfig(scheme="B+prompt")
    assert by_name.differences(by_scheme) == by_scheme.differences(by_name) == []
    assert by_name.differences(HyperETConfig(scheme="A")) == ["sites"]
    assert by_scheme.differences(HyperETConfig(scheme="B", curvature=0.5)) == ["scheme", "curvature"]


def test_options_of_no_site_in_a_file_decide_nothing():
    values = {**HyperETConfig(scheme="B").to_dict(), "levels": [0], "layers": [1], "attention": "self"}
    assert HyperETConfig.from_file(values) == HyperETConfig(scheme="B", layers=(1,))
    with pytest.raises(ConfigError, match="hyperet"):
        HyperETConfig.from_file([])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"scheme": "B+prompt", "levels": [0]},
            r"levels=\[0\] is of no site that is adjusted; expected fpn or pixel_dec",
        ),
        ({"layers": [0]}, r"layers=\[0\] is of no site"),
        ({"attention": "self"}, r"attention=self is of no site .*; expected attention among scheme and sites"),
    ],
)
def test_an_option_of_sites_that_are_not_adjusted_is_an_error(values, message):
    with pytest.raises(ConfigError, match=message):
        HyperETConfig(**values).check_sites()
    HyperETConfig(scheme="A+B+C", levels=[0], layers=[0], attention="self").check_sites()


@pytest.mark.parametrize("learnt", [False, True])
def test_a_residual_of_0_is_read_and_learns_nothing(learnt):
    """An adapter file may have it, above a norm cap even a trained one."""
    config = HyperETConfig.from_file({"residual": 0.0, "learn_residual": learnt})
    with pytest.raises(ConfigError, match=r"residual=0\.0, with which the adjustments do not learn; expected another"):
        config.check_learns()

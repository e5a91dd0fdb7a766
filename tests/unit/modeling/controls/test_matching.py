"""The matched size is the largest that fits; controls of the official size are as large as their formulas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from official import on_meta

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.build import ARCHITECTURES, assemble
from sam3_hyperet.modeling.controls.matching import matched_size
from sam3_hyperet.modeling.parameters import adapter_sites


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(0, 5000))
def test_the_matched_size_is_the_largest_that_fits(sizes, budget):
    sizes = {str(i): size for i, size in enumerate(sizes)}
    costs = [
        (rank, {name: rank * size for name, size in sizes.items()})
        for rank in range(budget // sum(sizes.values()) + 2, 0, -1)
    ]
    if budget < min(sizes.values()):
        with pytest.raises(ConfigError, match=rf"adapter=a: HyperET would add {budget:,} parameters.* set hyperet.r=1"):
            matched_size("a", "r", costs, budget)
        return
    rank, names = matched_size("a", "r", costs, budget)
    added = rank * sum(sizes[name] for name in names)
    assert added <= budget
    if names == list(sizes):
        assert added + sum(sizes.values()) > budget
    else:
        assert rank == 1
        assert names == sorted(names, key=int)
        assert min(size for name, size in sizes.items() if name not in names) > budget - added


@pytest.fixture(scope="module")
def large():
    with on_meta():
        return assemble(ARCHITECTURES["large"])


CONV, LINEAR2, QKV = 2304 + 256, 2048 + 256, 1024 + 3072


@pytest.mark.parametrize(
    ("adapter", "options", "added", "layers"),
    [
        ("lora", {"scheme": "A"}, 196608 // (3 * CONV) * 3 * CONV, 3),
        ("lora", {"scheme": "B"}, 393216 // (6 * LINEAR2) * 6 * LINEAR2, 6),
        ("lora", {"scheme": "P"}, 2 * 1024**2 // (32 * QKV) * 32 * QKV, 32),
        ("lora", {"scheme": "P", "structure": "diagonal"}, 16 * QKV, 16),
        ("lora", {"sites": ["pixel_decoder"]}, 196608 // (2 * CONV) * 2 * CONV, 2),
        ("dora", {"scheme": "A"}, 25 * 3 * CONV + 3 * 256, 3),
        ("ia3", {"scheme": "P"}, 32 * 3072, 32),
        ("oft", {"scheme": "A"}, 3 * 2304 * (48 - 1) // 2, 3),
        ("oft", {"scheme": "B"}, 6 * 2048 * (64 - 1) // 2, 6),
        ("oft", {"scheme": "P"}, 32 * 1024 * (128 - 1) // 2, 32),
        ("boft", {"scheme": "A"}, 3 * 2 * 2304 * (24 - 1) // 2, 3),
        ("boft", {"scheme": "P"}, 32 * 2 * 1024 * (64 - 1) // 2, 32),
        ("ln", {}, 2 * (1024 * (32 * 2 + 1) + 256 * (6 * 3 + 6 * 4 + 2)), None),
        ("bitfit", {}, 456469, None),
    ],
)
def test_the_official_size(large, adapter, options, added, layers):
    model = hy.inject(large, {"adapter": adapter, **options})
    report = hy.parameter_report(model)
    assert report["added"] == added
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert 0 < report["added_ratio"] < 0.01
    if layers is not None:
        sites = adapter_sites(model)
        assert layers == (len(model.hyperet_control.names) if "hyperet_control" in sites else len(sites))
    hy.remove_adapter(model)

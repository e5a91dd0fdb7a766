import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.report.figures.radius_maps import RadiusMap, site_maps

GREY = np.full((60, 80, 3), 120, np.uint8)


def pixels(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB")).astype(int)


def ramp(low, high):
    return np.linspace(low, high, 12).reshape(3, 4)


def test_panels_and_scales():
    before, after = ramp(0.2, 0.5), ramp(0.2, 0.8)
    (site,) = site_maps([RadiusMap(GREY, "fpn.0", before, after)])
    assert [panel.title for panel in site.rows[0]] == ["Image", "Before", "After", "After − before"]
    assert [panel.note for panel in site.rows[0]] == ["", "mean .350", "mean .500", "mean +.150"]
    scale, change = site.bars
    assert (scale.low, scale.high) == pytest.approx((0.2, 0.8))
    assert -change.low == change.high == pytest.approx(0.3, rel=0.05)
    assert scale.gradient.count("#") == 9
    assert all(max(pixels(panel.address).shape) == 288 for panel in site.rows[0])


def test_larger_radii_are_lighter_on_one_scale_for_all_pictures():
    low, high = np.full((2, 2), 0.1), np.full((2, 2), 0.9)
    (site,) = site_maps([RadiusMap(GREY, "s", low, low), RadiusMap(GREY, "s", high, high)])
    brightness = [pixels(row[1].address).mean() for row in site.rows]
    assert brightness[1] > brightness[0] + 60
    same = [pixels(row[3].address).mean(axis=(0, 1)) for row in site.rows]
    np.testing.assert_allclose(same[0], same[1], atol=2)  # no change is one colour, whatever the radius


def test_sites_stay_apart_and_what_is_not_finite_is_left_out():
    bad = np.array([[0.1, math.nan]])
    maps = [RadiusMap(GREY, "a", ramp(0, 1), ramp(0, 1)), RadiusMap(GREY, "b", ramp(0.4, 0.5), ramp(0.4, 0.5))]
    maps += [RadiusMap(GREY, "a", bad, bad), RadiusMap(GREY, "c", np.zeros((0, 0)), np.zeros((0, 0)))]
    sites = site_maps(maps)
    assert [(site.site, len(site.rows)) for site in sites] == [("a", 1), ("b", 1)]
    assert sites[1].bars[0].high == pytest.approx(0.5)
    assert site_maps([]) == []

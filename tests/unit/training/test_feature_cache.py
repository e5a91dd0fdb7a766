"""The cached trunk gives what the trunk gives, computes a view once, and refuses what it cannot keep."""

from __future__ import annotations

import shutil

import pytest
import torch

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.training.feature_cache import bytes_per_view, cached_trunk, check_cache
from sam3_hyperet.training.options import CacheOptions, StageOptions
from sam3_hyperet.training.stages import set_training_mode


@pytest.fixture
def adapted(model, randomized):
    randomized(hy.inject(model, hy.HyperETConfig(scheme="A+B")), scale=0.05)
    hy.set_stage(model, 1)
    return model


def options(tmp_path, dtype="float32"):
    return CacheOptions(str(tmp_path / "features"), dtype)


def images(count, seed=0):
    return torch.randn(count, 3, 128, 128, generator=torch.Generator().manual_seed(seed))


def losses(model, batches):
    loss = GroundingLoss(model, LossOptions())
    set_training_mode(model, checkpoint_activations=False)
    return [loss(model, batch, model(batch))[TOTAL] for batch in batches]


def test_losses_and_gradients_are_the_same_with_and_without(adapted, make_batch, tmp_path):
    batches = [make_batch([("car", [(20, 20, 80, 70)]), ("sky", [])], seed=seed) for seed in (0, 5)]
    expected = losses(adapted, batches)
    gradients = torch.autograd.grad(sum(expected), [p for p in adapted.parameters() if p.requires_grad])
    with cached_trunk(adapted, options(tmp_path), 2, "32-true") as cache:
        for _ in range(2):
            found = losses(adapted, batches)
            assert torch.equal(torch.stack(found), torch.stack(expected))
            again = torch.autograd.grad(sum(found), [p for p in adapted.parameters() if p.requires_grad])
            assert all(torch.equal(x, y) for x, y in zip(again, gradients, strict=True))
        assert (cache.misses, cache.hits) == (2, 2)


def test_a_view_is_computed_once_for_all_runs_of_a_base(adapted, another, tmp_path, monkeypatch):
    trunk = adapted.backbone.vision_backbone.trunk
    pictures = images(3)
    with torch.no_grad():
        expected = trunk(pictures)[0]
        with cached_trunk(adapted, options(tmp_path), 3, "32-true") as cache:
            first = adapted.backbone.vision_backbone.trunk(pictures)[0]
            assert (cache.misses, cache.hits) == (3, 0)
        assert adapted.backbone.vision_backbone.trunk is trunk
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-5)
        other = another()
        hy.inject(other, hy.HyperETConfig(scheme="C"))
        hy.set_stage(other, 1)
        monkeypatch.setattr(host.ViT, "forward", lambda *_: pytest.fail("the trunk ran again"))
        with cached_trunk(other, options(tmp_path), 3, "32-true") as cache:
            again = other.backbone.vision_backbone.trunk(pictures[[2, 0]])[0]
            assert (cache.misses, cache.hits) == (0, 2)
    assert torch.equal(again, first[[2, 0]])


def test_another_base_precision_or_dtype_is_kept_apart(adapted, tmp_path):
    def misses(**changes):
        settings = {"dtype": "float32", "precision": "32-true"} | changes
        with cached_trunk(adapted, options(tmp_path, settings["dtype"]), 1, settings["precision"]) as cache:
            adapted.backbone.vision_backbone.trunk(images(1))
        return cache.misses

    assert [misses(), misses(), misses(dtype="bfloat16"), misses(precision="bf16-mixed")] == [1, 0, 1, 1]
    with torch.no_grad():
        adapted.backbone.vision_backbone.trunk.blocks[0].attn.qkv.weight.mul_(1.5)
    assert misses() == 1


def test_bfloat16_is_half_the_size_and_rounded(adapted, tmp_path):
    with torch.no_grad():
        expected = adapted.backbone.vision_backbone.trunk(images(1))[0]
        with cached_trunk(adapted, options(tmp_path, "bfloat16"), 1, "32-true"):
            found = adapted.backbone.vision_backbone.trunk(images(1))[0]
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.bfloat16().float())
    (file,) = tmp_path.rglob("*.npy")
    size = bytes_per_view(adapted, "bfloat16")
    assert size == bytes_per_view(adapted, "float32") // 2 == 96 * 16 * 16 * 2
    assert size < file.stat().st_size < size + 256


def test_a_disk_too_small_is_refused_with_the_numbers(adapted, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    message = r"100,000 views of 0\.1 MiB need 9\.2 GiB more, the disk has 1\.0"
    with pytest.raises(ConfigError, match=message), cached_trunk(adapted, options(tmp_path), 100_000, "32-true"):
        pass
    with cached_trunk(adapted, options(tmp_path), 1_000, "32-true"):
        pass


@pytest.mark.parametrize("scheme", ["P", "A+P"])
def test_a_trunk_that_changes_is_refused(model, tmp_path, scheme):
    hy.inject(model, hy.HyperETConfig(scheme=scheme))
    hy.set_stage(model, 1)
    with pytest.raises(ConfigError, match="trunk changes"), cached_trunk(model, options(tmp_path), 1, "32-true"):
        pass


def test_a_trunk_that_trains_is_refused(adapted, tmp_path):
    hy.set_stage(adapted, 3)
    with pytest.raises(ConfigError, match="trunk changes"), cached_trunk(adapted, options(tmp_path), 1, "32-true"):
        pass


@pytest.mark.parametrize("first", [1, 2])
def test_a_trunk_that_trains_in_a_later_stage_is_refused(adapted, tmp_path, first):
    """A schedule's first stage shows nothing of it, and stage 2 would train what the cache never runs."""
    boundaries, pattern = (0.5,) * (2 - first), r"backbone\.vision_backbone\.trunk\.blocks\.1\."
    hy.set_stage(adapted, first, (pattern,))
    with pytest.raises(ConfigError, match=r"names \d+ tensors of the image trunk by .*blocks.* in stage 2; use no"):
        check_cache(adapted, options(tmp_path), StageOptions(first, (pattern,), boundaries), 1)
    hy.set_stage(adapted, first)
    check_cache(adapted, options(tmp_path), StageOptions(first, boundaries=boundaries), 1)
    with pytest.raises(ConfigError, match="stage 3 trains the image trunk"):
        check_cache(adapted, options(tmp_path), StageOptions(1, boundaries=(0.3, 0.6)), 1)


def test_unknown_dtype():
    with pytest.raises(ConfigError, match=r"cache\.dtype"):
        CacheOptions("x", "int8")


@pytest.mark.parametrize("damage", [b"", b"not numpy", None])
def test_a_damaged_file_is_computed_anew_and_counted(adapted, tmp_path, caplog, damage):
    trunk = "backbone.vision_backbone"
    pictures = images(2)
    with torch.no_grad(), cached_trunk(adapted, options(tmp_path), 2, "32-true"):
        expected = adapted.get_submodule(trunk).trunk(pictures)[0]
    file, _ = sorted(tmp_path.rglob("*.npy"))
    file.write_bytes(file.read_bytes()[:5000] if damage is None else damage)
    with torch.no_grad(), cached_trunk(adapted, options(tmp_path), 2, "32-true") as cache:
        assert torch.equal(adapted.get_submodule(trunk).trunk(pictures)[0], expected)
        assert (cache.hits, cache.misses, cache.damaged) == (1, 1, 1)
        assert torch.equal(adapted.get_submodule(trunk).trunk(pictures)[0], expected)
        assert (cache.hits, cache.misses, cache.damaged) == (3, 1, 1)
    assert "1 files were damaged; their features were computed anew" in caplog.text

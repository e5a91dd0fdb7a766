"""Push and pull against a local hub: the same outputs, one commit or none, the cache, refusals in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from local_hub import TOKEN, Repository
from shared_runs import write_adapter

import sam3_hyperet as hy
from sam3_hyperet.cli.evaluate import find_trained
from sam3_hyperet.cli.info import main as info
from sam3_hyperet.cli.pull import main as pull
from sam3_hyperet.cli.push import main as push
from sam3_hyperet.errors import CheckpointError, ConfigError, UserError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.adapter_source import HubReference, adapter_name, locate_adapter
from sam3_hyperet.training.warm_start import initial_adapter

REPOSITORY = Path(__file__).resolve().parents[3]
FILES = {"README.md", "adapter.safetensors", "config.yaml", "metrics.json", "versions.json"}


def masks(model, picture):
    return torch.stack([answer.mask_logits for answer in Predictor(model, ["car"], 128).predict(picture)])


def test_pushed_and_loaded_outputs_are_bit_equal(hub, model, another, randomized, picture, monkeypatch):
    config = hy.HyperETConfig(scheme="B", gate="prompt", learn_curvature=True)
    hy.set_dial(randomized(hy.inject(model, config)), 0.75)
    pinned = hy.push_to_hub(model, "user/parts")
    assert pinned == f"hub:user/parts@{Repository.sha(1)}"
    assert hub.files("user/parts").keys() == {".gitattributes", "README.md", "adapter.safetensors"}
    loaded = hy.load_adapter(another(), "hub:user/parts")
    assert torch.equal(masks(loaded, picture), masks(model, picture))
    hub.repositories.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    beside = hy.adapted_copy(another(), pinned)  # out of the cache
    assert torch.equal(masks(beside, picture), masks(model, picture))
    assert initial_adapter("hub:user/parts", config)[0].name == "adapter.safetensors"
    assert list(find_trained([Path("hub:user/parts")], [], data="shop", use_weights=False)) == ["parts"]
    with pytest.raises(CheckpointError, match=r"^hub:user/other: cannot fetch adapter\.safetensors: HF_HUB_OFFLINE is"):
        hy.load_adapter(loaded, "hub:user/other")


def test_tools_without_torch_push_and_pull_what_they_say(hub, run, tmp_path):
    """In a process of its own, which knows the hub by HF_ENDPOINT."""
    program = (
        "import sys\n"
        "from sam3_hyperet.cli.console import main\n"
        f"main(['push', {str(run)!r}, 'repo=user/shop', 'private=true'])\n"
        "main(['info', 'hub:user/shop@main'])\n"
        f"main(['pull', 'hub:user/shop', 'out={tmp_path}/pulled'])\n"
        "assert 'torch' not in sys.modules\n"
    )
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hub.repositories["user/shop"].private
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == FILES
    for name in FILES:
        assert (tmp_path / "pulled" / name).read_bytes() == hub.files("user/shop")[name]
    assert (run / "adapter.safetensors").read_bytes() == hub.files("user/shop")["adapter.safetensors"]
    assert "left out of config.yaml: paths, launcher, run_dir" in done.stdout
    assert "local paths shortened to their last part: data.root" in done.stdout
    assert f"adapter=hub:user/shop@{Repository.sha(1)} is this very version" in done.stdout
    assert "Mask AP, shop · part: .106 → .178 (+.072, 95 % interval +.059 to +.090)" in done.stdout
    assert any(headers.get("authorization") == f"Bearer {TOKEN}" for _, _, headers in hub.requests)
    assert TOKEN not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert not [
        name for name, content in hub.files("user/shop").items() if b"somebody" in content or b"grant" in content
    ]
    assert adapter_name(tmp_path / "pulled") == "pulled"
    assert locate_adapter(tmp_path / "pulled") == tmp_path / "pulled" / "adapter.safetensors"


@pytest.mark.parametrize("broken", ["/commit/", "/lfs/", "/preupload/", "/api/validate-yaml"])
def test_a_push_that_fails_leaves_nothing(hub, run, broken, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the attempts at an upload
    hub.broken = broken
    with pytest.raises(CheckpointError, match=r"cannot push: .*that was made for it is taken away again"):
        push([str(run), "repo=user/shop"])
    assert not hub.repositories
    hub.repositories["user/shop"] = Repository()
    with pytest.raises(CheckpointError, match=r"cannot push: .*; the repository is as it was"):
        push([str(run), "repo=user/shop"])
    assert len(hub.repositories["user/shop"].commits) == 1


def test_a_token_that_may_write_but_not_create_updates_a_repository(hub, run):
    with pytest.raises(CheckpointError, match="status 403: You don't have the rights"):
        push([str(run), "repo=other/shop"])
    hub.repositories["other/shop"] = Repository()
    assert push([str(run), "repo=other/shop"]) == f"hub:other/shop@{Repository.sha(1)}"
    assert hub.files("other/shop").keys() >= FILES


def test_an_update_is_one_more_commit(hub, run, capsys):
    first, second = push([str(run), "repo=user/shop"]), push([str(run), "repo=user/shop", "private=true"])
    assert "who may see it is as it was" in capsys.readouterr().out
    assert [len(hub.repositories["user/shop"].commits), first == second] == [3, False]
    assert locate_adapter(first).parent.name == Repository.sha(1)
    hub.repositories["user/shop"].tags["v1"] = 1
    assert locate_adapter("hub:user/shop@v1") == locate_adapter(first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["repo=other/shop"],
            "the hub answered with status 403: You don't have the rights .*; expected a token that may",
        ),
        (["repo=user/shop", "revision=dev"], "cannot push: no such revision; expected a branch.*taken away again"),
        (["repo=shop"], "shop: not a repository of the hub; expected hub:user/name"),
        (["repo=user/a--b"], "user/a--b: not a repository of the hub"),
        (["repo=user/shop", "evaluations=[nowhere]"], "evaluations: nowhere: no such file"),
        (["repo=user/shop", "note=nowhere.md"], "nowhere.md: no such file"),
        (["repo=user/shop", f"token={TOKEN}"], "key 'token' is unknown"),
    ],
)
def test_refused_pushes_are_one_sentence(hub, run, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        push([str(run), *arguments])
    assert TOKEN not in str(caught.value)
    assert not hub.repositories


def test_missing_logins_and_repositories_are_one_sentence(hub, run, monkeypatch, tmp_path):
    push([str(run), "repo=user/shop", "private=true"])
    write_adapter(run / "weights.safetensors")
    with pytest.raises(CheckpointError, match="trained base weights too"):
        push([str(run), "repo=user/shop"])
    (run / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"hub:user/shop@v9: cannot fetch adapter\.safetensors: no such revision"):
        pull(["hub:user/shop@v9", f"out={tmp_path}/pulled"])
    hub.repositories["user/empty"] = Repository()
    with pytest.raises(
        CheckpointError, match=r"hub:user/empty: cannot fetch adapter\.safetensors: the repository has no"
    ):
        info(["hub:user/empty"])
    monkeypatch.delenv("HF_TOKEN")
    for source in ("hub:user/shop", "hub:user/nowhere"):
        with pytest.raises(
            CheckpointError, match="no such repository, or a private one that needs a login; log in with"
        ):
            pull([source, f"out={tmp_path}/pulled"])
    with pytest.raises(CheckpointError, match=r"status 401.*log in with `hf auth login` or set HF_TOKEN"):
        push([str(run), "repo=user/new"])
    with pytest.raises(ConfigError, match=f"out={run}: is there already"):
        pull(["hub:user/shop", f"out={run}"])
    assert not (tmp_path / "pulled").exists()


def test_a_hub_that_does_not_answer_is_one_sentence(hub, run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"cannot push: http://127\.0\.0\.1:9 does not answer \(ConnectError\)"):
        push([str(run), "repo=user/shop"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set; unset it"):
        push([str(run), "repo=user/shop"])


@pytest.mark.parametrize("text", ["hub:", "hub:user", "hub:user/a@", "hub:a/b/c", "hub:../a", "hub:user/..", "hub:u/ü"])
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(ConfigError, match="not a repository of the hub; expected hub:user/name"):
        HubReference.of(text)

"""The door to sam3: what is missing or changed is one clear error, and each workaround computes what sam3 computes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import HostError
from sam3_hyperet.modeling.build import ARCHITECTURES, _fusion_layer, _geometry_encoder, _position_encoding

REPOSITORY = Path(__file__).resolve().parents[2]


def execute_host():
    """Run the module's source once more, under another name."""
    spec = importlib.util.spec_from_file_location("sam3_host_again", host.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("name", ["sam3", "psutil", "triton", "open_clip"])
def test_a_missing_package_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(HostError, match=rf"missing {name}; .*pip install sam3_hyperet"):
        execute_host()


def test_a_missing_class_is_named(monkeypatch):
    import sam3.model.decoder

    monkeypatch.delattr(sam3.model.decoder, "TransformerDecoder")
    with pytest.raises(HostError, match=rf"sam3 {host.SAM3_VERSION} lacks .*TransformerDecoder.*expected sam3>="):
        execute_host()


def test_a_changed_signature_is_named(monkeypatch):
    def forward_text(self, texts):
        raise NotImplementedError

    monkeypatch.setattr(host.SAM3VLBackbone, "forward_text", forward_text)
    with pytest.raises(HostError, match=r"forward_text has no parameter \['captions', 'device'\]; expected sam3>="):
        host._assert_contract()


def test_a_missing_vocabulary_is_named(monkeypatch, tmp_path):
    elsewhere = importlib.util.spec_from_file_location("open_clip", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: elsewhere)
    with pytest.raises(HostError, match=rf"no vocabulary at {tmp_path}.*reinstall open_clip_torch"):
        host.vocabulary_path()


def test_vocabulary_is_clips():
    digest = hashlib.sha256(Path(host.vocabulary_path()).read_bytes()).hexdigest()
    assert digest.startswith("924691ac288e")


CARD = """
torch.cuda.is_available = lambda: True  # what makes sam3 switch TF32 on
torch.cuda.is_bf16_supported = lambda *args: True
torch.cuda.get_device_properties = lambda i: type("P", (), {"major": 8})()
"""
ALONE = """
warnings.simplefilter("error")
flags = lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
                 torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed())
torch.backends.cudnn.allow_tf32 = False
before, state = flags(), torch.get_rng_state()
import sam3_hyperet.sam3_host
assert flags() == before, (before, flags())
assert torch.equal(state, torch.get_rng_state())
import sam3.model_builder as builder
builder._setup_tf32()
assert flags() != before, "the test would not notice"
"""
NEWER = """
matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
matmul.fp32_precision, conv.fp32_precision = {precision!r}, "ieee"
import sam3_hyperet.sam3_host
assert (matmul.fp32_precision, conv.fp32_precision) == ({precision!r}, "ieee")
"""
IMPORTS = {"alone": ALONE} | {precision: NEWER.format(precision=precision) for precision in ("tf32", "ieee")}
FORKING = """
import json, os, sys, traceback, warnings
import torch, torchmetrics, torchvision
for program in json.loads(sys.stdin.read()):
    if not (child := os.fork()):
        try:
            exec(program)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def imported():
    """Exit status and errors of processes that import sam3 for the first time, forked from one that has PyTorch."""
    programs = json.dumps([CARD + program for program in IMPORTS.values()])
    command = [sys.executable, "-c", FORKING]
    run = subprocess.run(command, cwd=REPOSITORY, input=programs, capture_output=True, text=True, check=True)
    return dict(zip(IMPORTS, run.stdout.split(), strict=True)), run.stderr


def test_import_leaves_the_process_alone(imported):
    assert imported[0]["alone"] == "0", imported[1]


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="PyTorch before 2.9")
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_import_keeps_tf32_as_set_by_the_newer_interface(imported, precision):
    assert imported[0][precision] == "0", imported[1]


def literal_focal(inputs, targets, alpha, gamma):
    """-alpha_t (1 - p_t)^gamma log p_t, element by element as published."""
    p = inputs.sigmoid()
    p_t = torch.where(targets == 1, p, 1 - p)
    alpha_t = torch.where(targets == 1, torch.full_like(p, alpha), torch.full_like(p, 1 - alpha))
    return -alpha_t * (1 - p_t) ** gamma * torch.log(p_t)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (0.6, 2.0), (0.5, 0.5)])
def test_focal_losses_are_the_published_formula(alpha, gamma):
    generator = torch.Generator().manual_seed(0)
    inputs = (4 * torch.randn(5, 7, generator=generator, dtype=torch.float64)).requires_grad_()
    targets = (torch.rand(5, 7, generator=generator) < 0.3).double()
    expected = literal_focal(inputs, targets, alpha, gamma)
    focal, total = host.loss_fns.triton_sigmoid_focal_loss, host.loss_fns.triton_sigmoid_focal_loss_reduce
    torch.testing.assert_close(focal(inputs, targets, alpha, gamma), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(total(inputs, targets, alpha, gamma), expected.sum(), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda x: focal(x, targets, alpha, gamma), inputs)
    assert torch.autograd.gradcheck(lambda x: total(x, targets, alpha, gamma), inputs)


@pytest.mark.parametrize("reduce", [True, False])
def test_sam3s_focal_loss_runs_without_triton(reduce):
    inputs, targets = torch.randn(6, 9), torch.rand(6, 9).round()
    ours = host.loss_fns.sigmoid_focal_loss(inputs, targets, 3.0, reduce=reduce)
    plain = host.loss_fns.sigmoid_focal_loss(inputs, targets, 3.0, reduce=reduce, triton=False)
    torch.testing.assert_close(ours, plain)


class OnCuda(torch.Tensor):
    """A tensor that takes the branches of CUDA."""

    is_cuda = True


@pytest.mark.parametrize("name", ["_triton_focal", "_triton_focal_sum"])
def test_tritons_kernel_is_for_cuda_and_a_positive_gamma(monkeypatch, name):
    monkeypatch.setattr(host, name, lambda *arguments: "kernel")
    focal = {"_triton_focal": host._focal, "_triton_focal_sum": host._focal_sum}[name]
    inputs, targets = torch.tensor([20.0, -20.0]).as_subclass(OnCuda), torch.tensor([1.0, 0.0])
    assert focal(inputs, targets, 0.25, 2.0) == "kernel"
    inputs.requires_grad_()
    focal(inputs, targets, 0.25, 0.0).sum().backward()  # the kernel's gradient would not be a number
    assert inputs.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_focal_loss_is_finite_at_extreme_logits(dtype):
    inputs = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4], dtype=dtype).repeat(2, 1).requires_grad_()
    targets = torch.tensor([[0.0], [1.0]]).expand(2, 5)
    loss = host.loss_fns.triton_sigmoid_focal_loss_reduce(inputs, targets)
    loss.backward()
    assert loss.isfinite()
    assert inputs.grad.isfinite().all()


def test_a_dice_loss_that_runs_out_of_memory_says_so(monkeypatch):
    """So that the step is repeated with less; sam3's own computes on the CPU what comes after."""
    inputs, targets = torch.randn(3, 8), torch.rand(3, 8).round()
    expected = host.loss_fns.dice_loss(inputs, targets, 3.0)
    monkeypatch.setattr(torch.Tensor, "sigmoid", short_once(torch.Tensor.sigmoid))
    with pytest.raises(torch.OutOfMemoryError):
        host.loss_fns.dice_loss(inputs, targets, 3.0)
    assert torch.equal(host.loss_fns.dice_loss(inputs, targets, 3.0), expected)


def short_once(function):
    """The function, without memory for its first call."""
    shortages = iter([torch.OutOfMemoryError("CUDA out of memory.")])

    def short(*arguments):
        for shortage in shortages:
            raise shortage
        return function(*arguments)

    return short


@pytest.fixture(scope="module")
def geometry_encoders():
    """Ours, and sam3's own class with the same weights."""
    from sam3.model.geometry_encoders import SequenceGeometryEncoder

    sizes = ARCHITECTURES["tiny"]
    ours = _geometry_encoder(sizes).eval()
    stock = SequenceGeometryEncoder(
        pos_enc=_position_encoding(sizes),
        encode_boxes_as_points=False,
        points_direct_project=True,
        points_pool=True,
        points_pos_enc=True,
        boxes_direct_project=True,
        boxes_pool=True,
        boxes_pos_enc=True,
        d_model=sizes.width,
        num_layers=sizes.geometry_layers,
        layer=_fusion_layer(sizes, batch_first=False, position_at_attention=False),
        add_cls=True,
        add_post_encode_proj=True,
    ).eval()
    stock.load_state_dict(ours.state_dict())
    return ours, stock


def test_box_prompts_are_encoded_as_sam3_encodes_them(monkeypatch, geometry_encoders):
    ours, stock = geometry_encoders
    generator = torch.Generator().manual_seed(1)
    boxes = torch.rand(3, 2, 4, generator=generator) * 0.3 + 0.3
    arguments = (boxes, torch.zeros(2, 3, dtype=torch.bool), torch.ones(3, 2), torch.randn(2, 64, 16, 16))
    with torch.no_grad():
        embedded, mask = ours._encode_boxes(*arguments)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        expected, expected_mask = stock._encode_boxes(*arguments)
    assert embedded.shape == (3, 2, 64)
    assert embedded.std() > 0
    assert torch.equal(embedded, expected)
    assert torch.equal(mask, expected_mask)


def test_pinning_is_only_left_out_inside_the_encoder():
    with host._WithoutPinnedMemory():
        x = torch.ones(2)
        assert x.pin_memory() is x
        assert torch.equal(x + 1, torch.full((2,), 2.0))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError):
            torch.ones(2).pin_memory()


def test_a_box_prompt_runs_through_the_processor(base, picture):
    processor = host.Sam3Processor(base, resolution=128, device="cpu", confidence_threshold=0.0)
    state = processor.add_geometric_prompt([0.5, 0.5, 0.4, 0.4], True, processor.set_image(picture))
    first = state["scores"].clone()
    assert state["masks"].shape[-2:] == (picture.height, picture.width)
    second = processor.add_geometric_prompt([0.2, 0.2, 0.1, 0.1], False, state)["scores"]
    assert first.isfinite().all()
    assert not torch.equal(first, second)

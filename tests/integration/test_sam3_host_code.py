"""SAM 3's own trainer, processor and video detector run our models unchanged."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from forked_tools import run_forked
from moved_adapters import moved
from omegaconf import OmegaConf
from PIL import Image
from sam3_recipe import LOSS, published_optimizer
from torchvision.transforms.v2.functional import to_image

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.data.loading import ConceptPrompts, build_loader
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import training_images
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.build import ARCHITECTURES, assemble
from sam3_hyperet.modeling.parameters import adapter_parameters, base_state_dict
from sam3_hyperet.scenes.dataset import write_scenes

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs" / "sam3_trainer"
SIDE = 128
TINY = [
    f"resolution={SIDE}",
    "trainer.model.name=tiny",
    "trainer.model.checkpoint=random",
    "trainer.loss.all.loss_fns_find.1.pad_n_queries=12",
]
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def pictures():
    noise = np.random.default_rng(0).integers(0, 255, (2, 9, 14, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((140, 90)) for one in noise]


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 3, 0, SIDE, "train")
    return root


def files(scenes_folder, log_dir):
    return [
        f"paths.images={scenes_folder / 'train' / 'images'}",
        f"paths.annotations={scenes_folder / 'annotations' / 'instances_train.json'}",
        f"paths.log_dir={log_dir}",
    ]


def example_with(overrides):
    """The example configuration for the tiny model."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.2"):
        return hydra.compose("example", [*TINY, *overrides])


def test_the_example_as_it_stands_is_for_the_official_model():
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.2"):
        example = hydra.compose("example")
    model = OmegaConf.to_container(example.trainer.model, resolve=True)
    assert model.pop("_target_") == "sam3_hyperet.adapted_model"
    assert inspect.signature(hy.adapted_model).bind(**model)
    assert hy.HyperETConfig.from_mapping(model["hyperet"]) == hy.HyperETConfig()
    large = ARCHITECTURES[model["name"]]
    assert model["resolution"] == large.resolution
    loss = OmegaConf.to_container(example.trainer.loss["all"], resolve=True)
    assert loss == {**LOSS, "normalization": "local"}
    assert loss["loss_fns_find"][1]["pad_n_queries"] == large.queries


def test_the_trainers_parts_take_our_model(scenes_folder, tmp_path):
    """Model, loss and optimizer as SAM 3's `Trainer` makes them, for one step on a batch of ours."""
    from sam3.train.optim.optimizer import construct_optimizer
    from sam3.train.utils.checkpoint_utils import assert_skipped_parameters_are_frozen

    example = example_with(files(scenes_folder, tmp_path))
    model = hydra.utils.instantiate(example.trainer.model, _convert_="all")
    loss = hydra.utils.instantiate(example.trainer.loss, _convert_="all")["all"]
    optim = example.trainer.optim
    decayed = {**optim.optimizer, "weight_decay": 0.1}
    optimizer = construct_optimizer(model, decayed, optim.options, optim.param_group_modifiers)
    clip = hydra.utils.instantiate(optim.gradient_clip)
    data = DataOptions("scenes", "scenes", str(scenes_folder), {"train": 3})
    batch = next(iter(build_loader(ConceptPrompts(training_images(data, "train"), SIDE), 1)))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    model.train()
    with torch.jit.optimized_execution(False):  # TorchScript keeps to the mode of a process's first call
        terms = loss(model(batch), [model.back_convert(target) for target in batch.find_targets])
        terms["core_loss"].backward()
    ours = GroundingLoss(model, LossOptions())
    with torch.no_grad():
        torch.testing.assert_close(terms["core_loss"], ours(model, batch, model(batch))[TOTAL], rtol=1e-5, atol=0)
    clip(model)
    optimizer.step_schedulers(20 / 1000, step=20)  # the end of the warm-up
    optimizer.optimizer.step()

    added = {name for name, _ in adapter_parameters(model)}
    rate = {id(p): group["lr"] for group in optimizer.optimizer.param_groups for p in group["params"]}
    published = published_optimizer(model)[0] | dict.fromkeys(added, 3e-3)
    assert {name: rate[id(p)] for name, p in model.named_parameters()} == pytest.approx(published)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == added
    assert len(rate) == len(before)  # SAM 3 takes the frozen ones too …
    assert len(optimizer.optimizer.state) == len(added)  # … which then cost nothing

    frozen = example.trainer.checkpoint.skip_saving_parameters
    assert_skipped_parameters_are_frozen(model, frozen)
    hy.set_stage(model, 2)
    with pytest.raises(ValueError, match="should be frozen"):
        assert_skipped_parameters_are_frozen(model, frozen)


PROGRAM = """
import argparse, multiprocessing, sys
import hydra, torch
multiprocessing.set_start_method(None, force=True)  # SAM 3's launcher sets it, which goes once in a process
from sam3.train.train import main
torch.cuda.reset_peak_memory_stats = lambda: None  # all that SAM 3's trainer asks of CUDA on a CPU
options = dict.fromkeys(["partition", "account", "qos", "num_nodes"])
with hydra.initialize_config_dir(sys.argv[1], version_base="1.2"):
    main(argparse.Namespace(config="run", use_cluster=0, num_gpus=1, **options))
"""


def test_sam3s_trainer_trains_an_adapter(scenes_folder, tmp_path):
    """The whole of it: its launcher, `Trainer`, data set and checkpoints, in a process of its own."""
    options = [
        "prompts_per_image=25",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=1",
        "trainer.optim.amp.enabled=false",
        "trainer.data.train.num_workers=0",
        "trainer.data.train.pin_memory=false",
        "trainer.logging.log_freq=1",
    ]
    OmegaConf.save(example_with([*files(scenes_folder, tmp_path), *options]), tmp_path / "run.yaml")
    (tmp_path / "program.py").write_text(PROGRAM)
    run = run_forked(tmp_path / "program.py", [tmp_path], tmp_path / "logs", strict=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "Train Epoch: [0][2/3]" in run.stdout
    assert "Trainable parameters 8.2 K" in run.stdout

    file = tmp_path / "checkpoints" / "checkpoint.pt"
    base = hy.adapted_model("tiny", "random")
    saved = torch.load(file, weights_only=False)["model"]
    assert all(name.startswith("backbone.fpn_adjustment.") for name in saved)  # nothing that is frozen
    trained = hy.adapted_model("tiny", "random", adapter=file)
    hy.save_adapter(trained, tmp_path / "adapter.safetensors")
    again = hy.load_adapter(hy.build_model("tiny", checkpoint="random"), tmp_path / "adapter.safetensors")
    for (name, parameter), (_, start) in zip(adapter_parameters(again), adapter_parameters(base), strict=True):
        assert torch.equal(parameter, saved[name])
        assert not torch.equal(parameter, start)


def test_the_processor_takes_an_adapted_model(pictures):
    base = hy.build_model("tiny", checkpoint="random")
    (before,) = Predictor(base, ["car"], SIDE).predict(pictures[0])
    model = moved(hy.inject(base, hy.HyperETConfig()))
    processor = host.Sam3Processor(model, resolution=hy.resolution(model), device="cpu", confidence_threshold=0.0)
    found = processor.set_text_prompt("car", processor.set_image(pictures[0]))
    (answer,) = Predictor(model, ["car"], SIDE).predict(pictures[0])
    torch.testing.assert_close(found["scores"].reshape(-1), answer.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["masks_logits"][:, 0], answer.mask_probabilities(90, 140), atol=1e-4, rtol=0)
    torch.testing.assert_close(found["boxes"] / torch.tensor([140, 90] * 2), answer.boxes, atol=1e-4, rtol=0)
    assert (answer.mask_logits - before.mask_logits).abs().max() > 0.01
    assert (answer.scores - before.scores).abs().max() > 1e-4


def video_detector(image_model):
    """SAM 3's video detector of the same weights, with a SAM 2 neck of its own, as SAM 3's video builder makes it."""
    from sam3.model.sam3_image import Sam3ImageOnVideoMultiGPU

    tokenizer = image_model.backbone.language_backbone.tokenizer
    parts = copy.deepcopy(image_model, {id(tokenizer): tokenizer})
    neck = parts.backbone.vision_backbone
    neck.sam2_convs = copy.deepcopy(neck.convs)
    return Sam3ImageOnVideoMultiGPU(
        num_feature_levels=1,
        backbone=parts.backbone,
        transformer=parts.transformer,
        segmentation_head=parts.segmentation_head,
        semantic_segmentation_head=None,
        input_geometry_encoder=parts.geometry_encoder,
        use_early_fusion=True,
        use_dot_prod_scoring=True,
        dot_prod_scoring=parts.dot_prod_scoring,
        supervise_joint_box_scores=True,
    ).eval()


@torch.inference_mode()
def detect(detector, pixels, prompt):
    """The detections on each frame, through what SAM 3's video predictor calls."""
    frames = len(pixels)
    stages = [
        host.FindStage(torch.tensor([frame]), torch.tensor([0]), None, None, None, None, None)
        for frame in range(frames)
    ]
    backbone_out = {"img_batch_all_stages": pixels, **detector.backbone.forward_text([prompt], device="cpu")}
    buffer = {}
    found = []
    for frame in range(frames):
        out, _ = detector.forward_video_grounding_multigpu(
            backbone_out=dict(backbone_out),
            find_inputs=stages,
            geometric_prompt=detector._get_dummy_prompt(),
            frame_idx=frame,
            num_frames=frames,
            multigpu_buffer=buffer,
        )
        found.append(out)
    return found


def test_the_video_detector_takes_an_adapter_of_the_image_model(pictures, tmp_path):
    levels = {"scale_factors": (4.0, 2.0, 1.0, 0.5), "upsampling_stages": 2}  # SAM 3's video code wants three levels
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        image_model = assemble(replace(ARCHITECTURES["tiny"], **levels)).eval()
    detector = video_detector(image_model)
    moved(hy.inject(image_model, hy.HyperETConfig()))
    hy.save_adapter(image_model, tmp_path / "adapter.safetensors")

    predictor = Predictor(image_model, ["car"], SIDE)
    processor = host.Sam3Processor(image_model, resolution=SIDE, device="cpu")
    pixels = torch.stack([processor.transform(to_image(picture)) for picture in pictures])
    plain = detect(detector, pixels, "car")
    hy.load_adapter(detector, tmp_path / "adapter.safetensors")  # it checks that the base is the same
    assert base_state_dict(detector).keys() == base_state_dict(image_model).keys()
    adapted = detect(detector, pixels, "car")
    for picture, without, out in zip(pictures, plain, adapted, strict=True):
        (answer,) = predictor.predict(picture)
        torch.testing.assert_close(out["pred_masks"][0], answer.mask_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(out["pred_boxes_xyxy"][0], answer.boxes, atol=1e-4, rtol=0)
        torch.testing.assert_close(out["pred_logits"][0, :, 0].sigmoid(), answer.scores, atol=1e-4, rtol=0)
        assert (out["pred_masks"] - without["pred_masks"]).abs().max() > 0.01
        for level in range(3):  # what the tracker reads
            assert torch.equal(out[f"tracker_backbone_fpn_{level}"], without[f"tracker_backbone_fpn_{level}"])
    assert not torch.equal(adapted[0]["pred_masks"], adapted[1]["pred_masks"])

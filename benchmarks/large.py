"""Stage 1 on the official architecture (random weights, CPU), through the real training loop."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric

from benchmarks import timing
from sam3_hyperet import sam3_host as host
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.fingerprint import fingerprints_kept
from sam3_hyperet.modeling.inject import inject
from sam3_hyperet.modeling.parameters import parameter_report
from sam3_hyperet.training.loop import fit
from sam3_hyperet.training.options import FitOptions, OptimizerOptions, TrainOptions
from sam3_hyperet.training.run_files import HISTORY_FILE
from sam3_hyperet.training.run_folder import RunFolder
from sam3_hyperet.training.stages import set_stage
from sam3_hyperet.training.validation import Validation


def run(steps: int = 2, prompts: int = 2, resolution: int = 1008) -> dict[str, object]:
    """Train the adapters of `large` for a few steps on one image.

    Returns:
        `build_seconds`, `seconds` of each step, `losses` of each step, `peak_gib` (resident memory of the process),
        `identity_difference` (largest relative change of the image features by the adapters at initialisation),
        `adapter_change` (largest adapter parameter afterwards; all start at 0), `trainable` and `total` parameters.
    """
    started = time.perf_counter()
    model = inject(build_model("large", checkpoint="random", resolution=resolution), HyperETConfig())
    set_stage(model, 1)
    built = time.perf_counter() - started
    differences: list[float] = []

    def compare(module: torch.nn.Module, inputs: tuple[list[torch.Tensor]], output: list[torch.Tensor]) -> None:
        for x, y in zip(inputs[0], output, strict=True):
            differences.append(float((y.detach() - x).abs().max() / x.abs().max()))

    handle = model.backbone.fpn_adjustment.register_forward_hook(compare)
    batch = one_image(prompts, resolution)
    loss = GroundingLoss(model, LossOptions())
    with tempfile.TemporaryDirectory() as folder, fingerprints_kept(model):
        fit(
            Fabric(accelerator="cpu", devices=1),
            model,
            loss,
            lambda step: itertools.repeat(batch),
            Validation(lambda: iter(())),
            FitOptions(
                train=TrainOptions(max_steps=steps, batch_size=1, log_every=1), optim=OptimizerOptions(warmup=0)
            ),
            RunFolder(Path(folder)),
        )
        lines = [json.loads(line) for line in (Path(folder) / HISTORY_FILE).read_text().splitlines()]
    handle.remove()
    ends = [0.0, *(line["train/seconds"] for line in lines)]
    counts = parameter_report(model)
    levels = len(differences) // steps
    return {
        "build_seconds": round(built, 1),
        "seconds": [round(end - start, 1) for start, end in itertools.pairwise(ends)],
        "losses": [line["train/loss"] for line in lines],
        "peak_gib": round(timing.peak_gib(), 2),
        "identity_difference": max(differences[:levels]),
        "adapter_change": max(float(p.abs().max()) for p in model.parameters() if p.requires_grad),
        "trainable": counts["trainable"],
        "total": counts["total"],
    }


def one_image(prompts: int, side: int) -> host.BatchedDatapoint:
    """One image of bright rectangles, each the one instance of its own prompt."""
    pixels = 0.1 * torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    objects, queries = [], []
    for number in range(prompts):
        x, y, size = side * (number + 1) // (prompts + 2), side // 4, side // (prompts + 2)
        mask = torch.zeros(side, side, dtype=torch.bool)
        mask[y : y + 2 * size, x : x + size] = True
        pixels[:, mask] += 1.0
        box = torch.tensor([x + size / 2, y + size, size, 2 * size]) / side
        objects.append(host.Object(box, float(mask.sum()), object_id=number, frame_index=0, segment=mask))
        queries.append(
            host.FindQueryLoaded(
                query_text=f"object {number}",
                image_id=0,
                object_ids_output=[number],
                is_exhaustive=True,
                is_pixel_exhaustive=True,
                semantic_target=mask,
                inference_metadata=host.InferenceMetadata(0, 0, number, (side, side), -1, 0),
            )
        )
    image = host.Image(data=pixels, objects=objects, size=(side, side))
    return host.collate([host.Datapoint(find_queries=queries, images=[image])])

"""What cheap first looks spare at a stated recall, and a cascade beside the exact evaluation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn

from benchmarks import timing
from sam3_hyperet import sam3_host as host
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.data.vocabularies import VOCABULARIES
from sam3_hyperet.evaluation.cascade import calibration, calibration_images
from sam3_hyperet.evaluation.compare import compare
from sam3_hyperet.evaluation.models import EvalModel
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import open_task
from sam3_hyperet.inference.first_look import FirstLook
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.copies import adapted_copy, shared_copy
from sam3_hyperet.scenes.concepts import CONCEPTS
from sam3_hyperet.scenes.dataset import scene, scenes_folder, write_scenes

RECALLS = (0.99, 0.995, 0.999)
MIN_SCORE = 0.05
KINDS = {  # pooling, layers of the fusion encoder, layers of the decoder
    "features pooled by 2": (2, 2, 2),
    "features pooled by 4": (4, 2, 2),
    "early exit: 1 + 2 layers of 2 + 2": (1, 1, 2),
    "early exit: 1 + 1 layers of 2 + 2": (1, 1, 1),
    "pooled by 2, early exit: 1 + 1": (2, 1, 1),
}
PROBE = "trained probe, text × image features"
_SEEDS = {"train": 0, "tune": 1, "val": 2}
_ADJECTIVES = ("", "toy ", "broken ", "painted ", "wooden ")


def run(images: int = 40, foreign: int = 200, adapter: str = "", threads: int = 1) -> dict[str, float]:
    """Measure the tiny base and, with an adapter file of it, the adapted model; print tables.

    The whole: `evaluate protocol=cascade` against exact on held-out scenes.

    The front: thresholds are calibrated on `images` tuning scenes for prompts with a detection from .05, and what they
    spare is counted on as many others. Cost is the time of the first look over that of the full model's scores, without
    masks. The probe is trained on as many training scenes with the full model's scores as targets.
    Args:
        images: scenes of each split.
        foreign: names in the vocabulary that no scene shows, beside the scenes' own 25.

    Returns:
        `cascade/<model>/<kind>/cost`, `…/spared@<recall>`, `…/recall@<recall>`; `cascade/<model>/<metric>` of the
        whole: `spared_ratio`, `cascade_recall`, `cascade_speedup`, `cascade_minus_exact/AP` and `…/mIoU`.
    """
    with timing.threads(threads):
        base = build_model("tiny")
        models = {"base": base, **({"adapted": adapted_copy(base, adapter)} if adapter else {})}
        names = foreign_names(foreign)
        results = whole(models, names, images)
        for name, model in models.items():
            results |= {f"cascade/{name}/{key}": value for key, value in front(name, model, names, images).items()}
        return results


def foreign_names(count: int) -> list[str]:
    """Names of COCO's objects, and of such objects with an adjective, that no scene shows."""
    known = [name for name in VOCABULARIES["ov_all"] if name not in CONCEPTS]
    return [adjective + name for adjective in _ADJECTIVES for name in known][:count]


def front(name: str, model: host.Sam3Image, foreign: Sequence[str], images: int) -> dict[str, float]:
    """What each kind of first look spares, and what it costs."""
    predictor = Predictor(model, [*CONCEPTS, *foreign], resolution(model))
    looks = {kind: FirstLook(_early_exit(model, *layers), pooling) for kind, (pooling, *layers) in KINDS.items()}
    looks["exact"] = FirstLook(model, 1)
    seconds, every = dict.fromkeys((*KINDS, PROBE, "exact"), 0.0), range(len(predictor.vocabulary))
    found: dict[str, list[Tensor]] = {kind: [] for kind in seconds}
    features = []
    with torch.inference_mode():
        for split in _SEEDS:
            for i in range(1, images + 1):
                encoded = predictor.encode(Image.fromarray(scene(_SEEDS[split], split, i)[0]))
                features.append(encoded["backbone_fpn"][-1][0].flatten(1))
                full = {**encoded, **predictor.text}
                for kind, look in looks.items():
                    if split != "train" or kind == "exact":
                        before = timing.now()
                        found[kind].append(look.scores(full, every)[0])
                        seconds[kind] += (timing.now() - before) * (split != "train")
    scores = {kind: torch.stack(one).numpy() for kind, one in found.items() if one}
    exact, scores["exact"] = scores["exact"], scores["exact"][images:]
    text = _mean_text(predictor.text)
    scores[PROBE] = _probe(text, torch.stack(features), torch.from_numpy(exact[:images]))[images:]
    results, rows = {}, []
    for kind in (*KINDS, PROBE):
        cost, shown = seconds[kind] / seconds["exact"], []
        for recall in RECALLS:
            limits = Protocol(recall=recall, min_score=MIN_SCORE)
            threshold = calibration(scores[kind][:images].ravel(), scores["exact"][:images].ravel(), images, limits)
            spared, matters = scores[kind][images:] < threshold.spare_below, scores["exact"][images:] >= MIN_SCORE
            kept = 1 - float((spared & matters).sum() / matters.sum())
            results |= {f"{kind}/spared@{recall:g}": float(spared.mean()), f"{kind}/recall@{recall:g}": kept}
            shown.append(f"{spared.mean():.1%} ({kept:.4f})")
        results[f"{kind}/cost"] = cost
        rows.append([kind, f"{cost:.3f}", *shown])
    possible = float((scores["exact"][images:] < MIN_SCORE).mean())
    title = f"{name}: {len(every)} prompts, {images} held-out scenes, {possible:.1%} of the prompts do not matter"
    timing.print_table(title, ("first look", "cost", *(f"spared at {recall:g} (found)" for recall in RECALLS)), rows)
    return {**results, "possible": possible}


def whole(models: Mapping[str, host.Sam3Image], foreign: Sequence[str], images: int) -> dict[str, float]:
    """The evaluation by `protocol=cascade`, compared with the exact one on every scored image."""
    with tempfile.TemporaryDirectory() as folder:
        data = open_vocabulary_scenes(Path(folder) / "scenes", foreign, images)
        protocol = Protocol(recall=0.995, min_score=MIN_SCORE, compare_exact=images, examples=0, bootstrap=0, workers=0)
        split = open_split(data, "val")
        compared = compare(
            [EvalModel(name, model) for name, model in models.items()],
            data,
            open_task(split, protocol),
            Path(folder),
            Fabric(accelerator="cpu", devices=1),
            tuning=calibration_images(data, split, protocol),
            say=print,
            progress=lambda total: nullcontext(lambda: None),
        )
    assert compared is not None  # there is one process
    keys = ("spared_ratio", "cascade_recall", "cascade_speedup", "cascade_minus_exact/AP", "cascade_minus_exact/mIoU")
    rows, results = [], {}
    for name in models:
        part = "base/" if name == "base" and len(models) > 1 else ""
        values = [compared.metrics[f"{part}scenes/speed/{key}"] for key in keys]
        results |= {f"cascade/{name}/{key}": value for key, value in zip(keys, values, strict=True)}
        rows.append([name, *(f"{value:.4f}" for value in values)])
    timing.print_table(f"protocol=cascade, recall .995, {images} held-out scenes", ("", *keys), rows)
    return results


def open_vocabulary_scenes(root: Path, foreign: Sequence[str], images: int) -> DataOptions:
    """Scenes with more categories than they show, of which there is no annotation and no pixel."""
    more = [{"id": 1000 + i, "name": name, "granularity": "object"} for i, name in enumerate(foreign)]
    for split in ("tune", "val"):
        written = write_scenes(scenes_folder(root, images, 0), images, _SEEDS[split], 128, split)
        content: dict[str, Any] = json.loads(written.annotations.read_text())
        content["categories"] += more
        written.annotations.write_text(json.dumps(content))
    tree = json.loads(written.concepts.read_text())
    written.concepts.write_text(json.dumps(tree + [{**one, "parents": [], "synonyms": []} for one in more]))
    written.names.write_text(written.names.read_text() + "".join(f"{name}\n" for name in foreign))
    return DataOptions(name="scenes", format="scenes", root=str(root), splits={"tune": images, "val": images})


def _early_exit(model: host.Sam3Image, encoder_layers: int, decoder_layers: int) -> host.Sam3Image:
    early = shared_copy(model)
    encoder, decoder = early.transformer.encoder, early.transformer.decoder
    encoder.layers = nn.ModuleList(list(encoder.layers)[:encoder_layers])
    decoder.layers, decoder.num_layers = nn.ModuleList(list(decoder.layers)[:decoder_layers]), decoder_layers
    return early


def _mean_text(text: Mapping[str, Tensor]) -> Tensor:
    used = (~text["language_mask"]).float().T[..., None]
    return (text["language_features"] * used).sum(0) / used.sum(0)


def _probe(text: Tensor, features: Tensor, targets: Tensor, rank: int = 32, steps: int = 400) -> np.ndarray:
    """Scores (images, prompts) of a low-rank bilinear form of (N, D) texts and (images, D, positions) features, its
    soft maximum over the positions, trained on the first images with (n, N) targets."""
    text, features = text.clone(), features.clone()
    features = (features - features.mean((0, 2), keepdim=True)) / features.std((0, 2), keepdim=True)
    text = (text - text.mean(0)) / text.std(0)
    width = text.shape[1]
    of_text, of_image, bias = nn.Linear(width, rank), nn.Linear(width, rank, bias=False), nn.Linear(width, 1)
    parameters = [*of_text.parameters(), *of_image.parameters(), *bias.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def logits(images: Tensor) -> Tensor:
        products = torch.einsum("nr,ipr->inp", of_text(text), of_image(images.transpose(1, 2))) / rank**0.5
        return products.logsumexp(dim=-1) + bias(text)[:, 0]

    weights = 1 + 20 * (targets >= MIN_SCORE)
    for _ in range(steps):
        batch = torch.randint(len(targets), (8,))
        loss = F.binary_cross_entropy_with_logits(logits(features[batch]), targets[batch], weights[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return torch.cat([logits(one[None]) for one in features]).sigmoid().numpy()

"""`tools/predict.py`: what a model finds on pictures, as overlays and as one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image
from rich.console import Console

from sam3_hyperet.cli.command import parse_command, write_json
from sam3_hyperet.cli.evaluate import choose_device
from sam3_hyperet.data.annotations import read_picture
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.masks import encode_masks
from sam3_hyperet.modeling.adapter_file import load_adapter
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.opening import open_model, set_threads
from sam3_hyperet.report.figures.images import overlay

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def main(argv: list[str] | None = None) -> Path:
    """Run the tool; returns the folder with the overlays and predictions.json."""
    _, config = parse_command("predict", argv)
    console = Console(highlight=False)
    for name in ("score_threshold", "mask_threshold"):
        if type(config[name]) not in (int, float) or not 0 <= config[name] <= 1:
            raise ConfigError(f"{name}={config[name]}; expected a probability")
    pictures = find_pictures(config.images)
    for path in pictures:
        read_picture(path)  # a broken one is said now, before anything is written
    prompts = config.prompts if isinstance(config.prompts, ListConfig) else [config.prompts]
    if None in prompts:
        raise ConfigError("prompts has a null; expected noun phrases")
    prompts = [str(prompt) for prompt in prompts]
    set_threads(config.threads)
    model = open_model(OmegaConf.to_container(config.model)).to(choose_device(config.device))
    if config.adapter:
        load_adapter(model, config.adapter)
    predictor = Predictor(model, prompts, resolution(model), config.prompts_at_once)
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    records = []
    for path, name in pictures.items():
        record, drawn = _predict(predictor, path, config)
        Image.fromarray(drawn).save(run_dir / name)
        records.append({**record, "overlay": name})
        found = ", ".join(f"{p['prompt']} {len(p['detections'])}" for p in record["prompts"])
        console.print(f"{path.name}: {found}")
    content = {"adapter": config.adapter, "score_threshold": config.score_threshold, "pictures": records}
    write_json(run_dir / "predictions.json", content)
    console.print(f"wrote {len(records)} overlays and predictions.json to {run_dir}")
    return run_dir


def find_pictures(images: str | ListConfig) -> dict[Path, str]:
    """The pictures that `images=` names, each with a file name of its own for the overlay.

    Raises:
        DataError: a path that does not exist, or a folder without pictures.
    """
    found: list[Path] = []
    for entry in images if isinstance(images, ListConfig) else [images]:
        path = Path(str(entry))
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS)
            if not inside:
                raise DataError(f"{path}: no pictures in this folder; expected files ending in {', '.join(ENDINGS)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such picture or folder")
    names: dict[Path, str] = {}
    for path in dict.fromkeys(found):
        name, n = f"{path.stem}.png", 1
        while name in names.values():
            n += 1
            name = f"{path.stem}-{n}.png"
        names[path] = name
    return names


def _predict(predictor: Predictor, path: Path, config: DictConfig) -> tuple[dict[str, Any], np.ndarray]:
    picture = read_picture(path)
    answers, masks_shown, labels = [], [], []
    for prompt, answer in zip(predictor.vocabulary, predictor.predict(picture), strict=True):
        best = answer.top(len(answer.query_scores))
        best = best.above(config.score_threshold / max(best.presence, 1e-12))
        masks = best.masks(picture.height, picture.width, config.mask_threshold)
        boxes = best.boxes.clamp(0, 1) * best.boxes.new_tensor([picture.width, picture.height] * 2)
        detections = [
            {"score": score, "box_xyxy": box, "segmentation": rle}
            for score, box, rle in zip(best.scores.tolist(), boxes.tolist(), encode_masks(masks), strict=True)
        ]
        answers.append({"prompt": prompt, "presence": answer.presence, "detections": detections})
        masks_shown += list(masks)
        labels += [f"{prompt} {score:.2f}" for score in best.scores.tolist()]
    record = {"file": str(path), "width": picture.width, "height": picture.height, "prompts": answers}
    return record, overlay(np.asarray(picture), masks_shown, labels)

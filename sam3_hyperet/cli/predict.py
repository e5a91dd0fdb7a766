"""`sam3-hyperet predict`: what a model finds on images, as overlays and as one JSON file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.command import parse_command, write_json
from sam3_hyperet.cli.evaluate import choose_device, unique
from sam3_hyperet.cli.of_run import listed
from sam3_hyperet.data.finding import IMAGE_ENDINGS, is_hidden
from sam3_hyperet.data.image_files import read_image
from sam3_hyperet.errors import CheckpointError, ConfigError, DataError
from sam3_hyperet.files import Manifest
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.masks import encode_masks
from sam3_hyperet.modeling.adapter_file import load_adapter
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.opening import open_model, set_threads
from sam3_hyperet.report.figures.images import overlay
from sam3_hyperet.training.run_folder import ADAPTER, WEIGHTS

_PREDICTIONS = "predictions.json"


def main(argv: list[str] | None = None) -> Path:
    """Run the tool; returns the folder with the overlays and predictions.json."""
    _, config = parse_command("predict", argv)
    console = Console(highlight=False)
    images = find_images(config.images)
    run_dir = Path(config.run_dir)
    if overwritten := {(run_dir / name).resolve() for name in images.values()} & {path.resolve() for path in images}:
        raise ConfigError(f"run_dir={run_dir}: the overlay would replace the image {overwritten.pop()}; use another")
    Manifest(run_dir).check(*images.values(), _PREDICTIONS)
    for path in images:
        read_upright(path)  # a broken one is reported now, before anything is written
    prompts = listed_prompts(config.prompts)
    set_threads(config.threads)
    model, adapter = open_adapted(config)
    predictor = Predictor(model, prompts, resolution(model), config.prompts_at_once)
    run_dir.mkdir(parents=True, exist_ok=True)
    Manifest(run_dir).claim(*images.values(), _PREDICTIONS)
    entries = []
    for path, name in images.items():
        entry, drawn = _predict(predictor, path, config)
        Image.fromarray(drawn).save(run_dir / name)
        entries.append({**entry, "overlay": name})
        found = ", ".join(f"{p['prompt']} {len(p['detections'])}" for p in entry["prompts"])
        console.print(f"{path.name}: {found}", markup=False)
    content = {"adapter": adapter, "score_threshold": config.score_threshold, "pictures": entries}
    write_json(run_dir / _PREDICTIONS, content)
    console.print(f"wrote {len(entries)} overlays and {_PREDICTIONS} to {run_dir}", markup=False, soft_wrap=True)
    return run_dir


def open_adapted(config: DictConfig) -> tuple[host.Sam3Image, str | None]:
    """The model that `model=`, `adapter=` and `run=` describe, on its device, and the adapter file.

    A run's model has the base weights that the run trained, if it did, unless `model=` describes another base. Raises
    ConfigError for several runs, CheckpointError for a run without results and for files that do not fit.
    """
    values, adapter = OmegaConf.to_container(config.model), config.adapter
    if len(runs := listed(config.run)) > 1:
        raise ConfigError(f"run={config.run}; expected one run")
    for run in runs:
        weights, best = run / WEIGHTS["best"], run / ADAPTER["best"]
        if not weights.is_file() and not best.is_file():
            missing = f"neither {best.name} nor {weights.name} is there"
            raise CheckpointError(f"run={run}: {missing}; expected a finished run")
        if weights.is_file() and "model" in config.of_run:
            values["checkpoint"] = str(weights)
        if adapter is None and best.is_file():
            adapter = str(best)
    model = open_model(values).to(choose_device(config.device))
    if adapter:
        load_adapter(model, adapter)
    return model, adapter


def listed_prompts(prompts: str | ListConfig) -> list[str]:
    """The noun phrases of `prompts=car,house` or `prompts=[car,house]`. Raises ConfigError for a null."""
    if not isinstance(prompts, ListConfig):
        return [prompt.strip() for prompt in str(prompts).split(",")]
    if None in prompts:
        raise ConfigError("prompts has a null; expected noun phrases")
    return list(map(str, prompts))


def read_upright(path: Path) -> Image.Image:
    """The image at `path` in RGB, turned as its EXIF orientation says. Raises DataError naming the file."""
    return read_image(path, upright=True)


def find_images(images: str | Sequence[str]) -> dict[Path, str]:
    """The images that `images=` names, each with a file name of its own for the overlay; hidden files are skipped.

    Raises DataError for a path that does not exist, and for a folder without images.
    """
    found: list[Path] = []
    for path in listed(images):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS and not is_hidden(p.name))
            if not inside:
                expected = f"expected files ending in {', '.join(IMAGE_ENDINGS)}"
                raise DataError(f"{path}: no images in this folder; {expected}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such image or folder")
    stems: dict[Path, str] = {}
    for path in dict.fromkeys(found):
        stems[path] = unique(path.stem, stems.values())
    return {path: f"{stem}.png" for path, stem in stems.items()}


def _predict(predictor: Predictor, path: Path, config: DictConfig) -> tuple[dict[str, Any], np.ndarray]:
    image = read_upright(path)
    predictions, masks_shown, labels = [], [], []
    for prompt, prediction in zip(predictor.vocabulary, predictor.predict(image), strict=True):
        best = prediction.top(len(prediction.query_scores))
        best = best.above(config.score_threshold / max(best.presence, 1e-12))
        masks = best.masks(image.height, image.width, config.mask_threshold)
        boxes = best.boxes * best.boxes.new_tensor([image.width, image.height] * 2)
        scores = best.scores.tolist()
        found = zip(scores, boxes.tolist(), encode_masks(masks), strict=True)
        detections = [{"score": score, "box_xyxy": box, "segmentation": rle} for score, box, rle in found]
        predictions.append({"prompt": prompt, "presence": prediction.presence, "detections": detections})
        masks_shown += list(masks)
        labels += [f"{prompt} {score:.2f}" for score in scores]
    entry = {"file": str(path), "width": image.width, "height": image.height, "prompts": predictions}
    return entry, overlay(np.asarray(image), masks_shown, labels)

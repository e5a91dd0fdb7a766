"""SAM 3 of Hugging Face transformers at the official size: its weights in our model, ours in it, the same answers."""

from __future__ import annotations

import filecmp
import gc
from pathlib import Path

import pytest
import torch
from official import SMALLEST, CudaElsewhere, draw_weights
from PIL import Image
from transformers_models import largest_difference, our_answers, transformers_answers

import sam3_hyperet as hy
from sam3_hyperet.modeling.layouts.base_files import TRANSFORMERS_FILE
from sam3_hyperet.modeling.layouts.transformers_folder import save_transformers

pytestmark = pytest.mark.slow
PROMPT = "a red car"


@pytest.fixture
def picture() -> Image.Image:
    gradient = Image.linear_gradient("L")
    return Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180))).resize((400, 300))


def official_size() -> torch.nn.Module:
    """A `Sam3Model` (3.4 GB) at the smallest resolution, whose weights are random, also those of norms and biases."""
    from transformers import Sam3Config, Sam3Model

    config = Sam3Config()
    config.image_size = SMALLEST
    config.vision_config.backbone_config.layer_norm_eps = 1e-5  # SAM 3's own; transformers' default is 1e-6
    with CudaElsewhere("cpu", draw=False):
        model = Sam3Model(config)
    draw_weights(model)
    return model.eval()


def test_weights_go_from_transformers_to_ours_and_back(picture, tmp_path: Path):
    from transformers import Sam3Model

    theirs = official_size()
    answers = transformers_answers(theirs, picture, SMALLEST, PROMPT)
    theirs.save_pretrained(tmp_path / "theirs")
    del theirs
    gc.collect()  # 3.4 GB, in cycles
    with CudaElsewhere("cpu", draw=False):  # whatever the file does not fill stays what the memory held
        ours = hy.build_model("large", checkpoint=tmp_path / "theirs", resolution=SMALLEST)
    assert largest_difference(answers, our_answers(ours, picture, SMALLEST, PROMPT)) <= 1e-4
    save_transformers(ours, tmp_path / "ours")
    del ours
    before, after = (tmp_path / name / TRANSFORMERS_FILE for name in ("theirs", "ours"))
    assert filecmp.cmp(before, after, shallow=False)  # every byte
    before.unlink()
    again, found = Sam3Model.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(found.values())
    assert again.config.vision_config.backbone_config.layer_norm_eps == 1e-5
    after.unlink()

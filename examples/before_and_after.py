"""Draw base and adapted model side by side: python examples/before_and_after.py ADAPTER [OUT.png [MODEL]]

After `make demo`, `before_and_after.py runs/demo/adapter.safetensors` draws one of its scenes.
"""

import sys

import numpy as np
from PIL import Image
from sam3.model.sam3_image_processor import Sam3Processor

import sam3_hyperet as hy
from sam3_hyperet.overlays.overlay import overlay
from sam3_hyperet.scenes.dataset import scene

PROMPTS = {"tiny": ("vehicle", "building", "plant"), "tiny_levels": ("building", "creature", "roof")}  # which it lacks
adapter, out, name = sys.argv[1:] + ["before_and_after.png", "tiny_levels"][len(sys.argv) - 2 :]


def draw(processor: Sam3Processor, image: Image.Image) -> np.ndarray:
    """The best mask of each prompt, if its score is above the threshold, on the image."""
    masks, labels, colors, state = [], [], [], processor.set_image(image)
    for color, prompt in enumerate(PROMPTS[name]):
        state = processor.set_text_prompt(prompt, state)
        if len(scores := state["scores"]):
            masks.append(state["masks"][scores.argmax(), 0].numpy())
            labels.append(f"{prompt} {scores.max():.2f}")
            colors.append(color)
    return overlay(np.asarray(image), masks, labels, colors=colors)


model = hy.load_adapter(hy.build_model(name), adapter)
processor = Sam3Processor(model, resolution=hy.resolution(model), device="cpu", confidence_threshold=0.3)
image = Image.fromarray(scene(seed=2, split="val", index=17)[0]).resize((384, 384), Image.Resampling.LANCZOS)
with hy.adapters_disabled(model):
    base = draw(processor, image)
gap = np.full((384, 8, 3), 255, dtype=np.uint8)
panels = np.concatenate([np.asarray(image), gap, base, gap, draw(processor, image)], axis=1)
Image.fromarray(panels).quantize(128).save(out, optimize=True)

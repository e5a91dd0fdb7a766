"""Segment a drawn scene with the tiny model: python examples/quickstart.py [PROMPT [ADAPTER]] writes quickstart.png."""

import sys

import numpy as np
from PIL import Image
from sam3.model.sam3_image_processor import Sam3Processor

import sam3_hyperet as hy
from sam3_hyperet.scenes.dataset import scene

prompt = sys.argv[1] if sys.argv[1:] else "car"
model = hy.build_model("tiny_levels")  # SAM 3's classes at small width; the weights come with the package
if sys.argv[2:]:
    hy.load_adapter(model, sys.argv[2])

image = Image.fromarray(scene(seed=2, split="val", index=2)[0])
processor = Sam3Processor(model, resolution=hy.resolution(model), device="cpu")
found = processor.set_text_prompt(prompt, processor.set_image(image))
print(f"{prompt}: scores {[round(score, 2) for score in found['scores'].tolist()]}")

pixels = np.array(image)
mask = found["masks"].any(dim=0)[0].numpy()
pixels[mask] = pixels[mask] // 2 + np.array([0, 57, 89], dtype=np.uint8)  # half image, half blue
Image.fromarray(pixels).resize((512, 512)).save("quickstart.png")

"""Inference: a vocabulary of prompts on one image after the other, each image encoded once.

- `predictor`: `Predictor`, which encodes an image and predicts for each prompt
- `prediction`: the prediction for a prompt, and its detections at the size of the image
- `exemplars`: boxes that a prompt is given on an image, beside its text or alone
- `grounding`: the prompts of an image in one pass; whatever they share is computed once
- `first_look`: a cheap look at every prompt, which may spare it the rest
- `mask_head`: SAM 3's segmentation head, likewise
- `tiles`: overlapping tiles of large images; `tiled_prediction`, predictions tile by tile, whose detections
  `tile_joining` joins
- `coco_results`: detections as COCO's results files have them
- `rounding`: how far apart outputs are that should be equal
- `shared_encoding`: encoders that several models share run once an image
"""

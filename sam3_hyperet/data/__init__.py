"""Readers of annotated pictures, the prompts made of them, and their way into SAM 3's batches.

`records` what every reader returns · `coco` · `label_maps` · `ade20k` the readers · `segments` their
outlines · `concepts` which prompts to ask of a picture · `transforms` pixels and masks to the model's size ·
`loading` the data set and its loader · `scenes` the embedded data. Only `loading` imports sam3.
"""

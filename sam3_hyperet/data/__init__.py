"""Readers of annotated pictures, the prompts made of them, and their way into SAM 3's batches.

`records` what every reader returns · `coco` · `label_maps` · `ade20k` the readers · `segments` their
outlines · `sources` a data set by its options · `subsets` parts of one · `open_vocabulary` lists of names ·
`concepts` which prompts to ask of a picture · `transforms` pixels and masks to the model's size · `loading` the data
set and its loader · `scenes` the embedded data · `inspection`, `conversion` what the prepare tools do. Only `loading`
imports sam3.
"""

"""The places of adapters in a SAM 3 model.

table       every site by name: its installer, and the layers that feed it
site        adapters of features; choice and replacement of SAM 3's modules
pyramid     `fpn` (scheme A) and `pixel_decoder`
tokens      `encoder_layer` (scheme B), `encoder_out` and `prompt`
attention   `attention` (scheme C)
trunk_qv    `trunk_qv` (scheme P)
"""

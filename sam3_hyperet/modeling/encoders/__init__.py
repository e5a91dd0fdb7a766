"""Adapters of any vision encoder, of timm, transformers or other libraries; sam3's model has its own sites.

attention   query, key and value projections, found by structure
places      the adjusted modules of an encoder, as its adapter file lists them
outputs     adjustments behind any module
opening     encoders by name, at a resolution
inject      `inject_qv` (scheme P) and `wrap`
"""

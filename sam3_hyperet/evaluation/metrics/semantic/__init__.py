"""Semantic metrics.

- `fusion`: one label map from the predictions for all classes, in three ways
- `label_map_evaluator`: its mIoU for a model; `semantic_miou`: mIoU of any label maps
"""

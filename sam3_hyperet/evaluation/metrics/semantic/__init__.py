"""Semantic metrics.

- `label_map_evaluator`: one label map from the predictions for all classes, in three ways, and its mIoU
- `semantic_miou`: mIoU of any label maps
"""

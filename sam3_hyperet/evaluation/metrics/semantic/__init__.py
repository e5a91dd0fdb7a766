"""Semantic metrics.

- `label_map_evaluator`: one label map from the predictions for all classes, in three ways, and its mIoU
- `oracle_objects`: the same of parts, where the object of each pixel is known
- `semantic_miou`: mIoU of any label maps
"""

"""Average precision and cgF1 of instances, from a small record of each image.

- `instance_evaluator`: the evaluator of a model's detections
- `instance_records`, `instance_matches`: the record of an image, COCO's greedy matching
- `average_precision`, `cg_f1`: the metrics of all records
- `instance_metrics`: all of them flat, of groups of categories too, and those with confidence intervals
"""

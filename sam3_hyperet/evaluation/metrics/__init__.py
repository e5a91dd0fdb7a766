"""Metrics: a record of arrays for each image, and metrics from the records of all images.

- `evaluator`: the interface, and a prompt; `key`: the name of a metric
- `instances/`: AP and cgF1; `semantic/`: mIoU
- `presence`: absent and present concepts
- `hierarchy`: consistency and confusion in a concept tree
- `radius`: radii at the adapters' sites; `uncertainty`, `ranking`: the radius as uncertainty
- `examples`: detections for a report
"""

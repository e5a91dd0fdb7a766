"""Metrics of files made by anyone, without a model; what would silently change a number is an error.

- `coco`, `coco_ap`: checked COCO files, their AP and cgF1
- `cg_f1`: cgF1 on SA-Co's files
- `label_maps`: mIoU of folders of label maps
"""

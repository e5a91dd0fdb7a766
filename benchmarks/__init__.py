"""Benchmarks of speed and memory, one module each, run by `tools/benchmark.py`; README.md says what each measures.

timing: paired timings, medians of ratios, processes, tables
ops, attention: adjustments and attention on one tensor
schemes, large, training: the official architecture at random weights
evaluation, metrics: the predictor and AP beside SAM 3's processor and pycocotools
data: a large COCO file opened
startup: the command line
gpu: all of it on one card
"""

"""Evaluation: any number of models on one split, from images to metrics.

- `protocol`: the options that stand beside every number
- `task`: the prompts of a split, and the evaluators of a model on it
- `models`: the base and the adapted models, and their fingerprints
- `runner`: models run on images in turn; `background`: the evaluators' work on other threads
- `recording`: the records of several models, shared by processes; `dial`: metrics along the dial, and its choice
- `record_store`: the records of images on disk, from which a killed evaluation goes on
- `cascade`: the threshold of first looks, calibrated; `against_exact`: what is left out, beside the exact protocol
- `compare`: all of it for several models; `metric_table`: their metrics in one flat table, with what is lost
- `bootstrap`: intervals of metrics and of differences
- `metrics/`: the evaluators, each a metric family from records
- `encoder_radius`: radii of the patch features of other vision encoders
- `scoring/`: the same metrics for files of predictions, without a model
"""

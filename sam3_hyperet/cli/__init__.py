"""Command line: one file a tool, and what they share.

console: `sam3-hyperet <tool>`, `python -m sam3_hyperet`; `tools/*.py` are doors to it.
command: a tool's command line, printed commands, one line for a user's error; without torch.
composition: the configuration that a command line describes.
sections: the dataclass of each section of a configuration, and the checks of other keys.
of_run: sections taken from the runs that `run=` names.
help_text: `--help`.
train, pretrain: training, on this machine or through submit.
submit: runs and sweeps as Slurm jobs.
recognition: `data=auto` made explicit.
training_data: what a run trains on, and what a person should read of it; validation: what its validation scores.
run_options: all options of a training run, and whether two runs are the same.
tables: tables as they are printed.
progress: how far a tool is, at a terminal or in a log.
processes: the processes of a run, by Lightning Fabric.
evaluate: base and adapted models side by side.
dial: the dial of the adapters that are evaluated: given, along it, or chosen.
compare: evaluation, metrics.json and report of opened models.
predict: overlays and detections of images.
predict_inputs, predict_models: what it is asked; what finds it.
predict_images, predict_records: image by image; what an unfinished prediction keeps of them.
predict_files, predict_overlays: what it writes; what it draws.
demo: the page of `demo/`, served.
merge: an adapter folded into base weights.
score: metrics of prediction files.
prepare: checks of a data set.
init: a data file and an experiment for a folder.
doctor: what would fail in a run.
forecast: what memory a step takes, and what fits on which card.
step_memory: what `train.memory=auto` makes of a run's options.
radius: radii of the patch features of vision encoders.
benchmark: the door to `benchmarks/` of the repository.
"""

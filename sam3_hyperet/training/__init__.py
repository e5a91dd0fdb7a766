"""Training of adapters and, in stages, of the base.

loop: `fit`, the steps with their checks, validation and saves.
progress: the counters of a run.
validation: losses and metrics while a run trains.
choice: the rule by which the best step, or the dial, is chosen, without torch.
ema: the moving average of what trains.
gathering: results of all processes in each of them.
step: one optimizer step over all batches and processes.
stages: which parameters train, and from when on more of them do.
optimizer: AdamW in groups, with the learning rates' course.
curvature_schedule: the curvature of all adjustments while they train.
loaders: how many loader processes a machine has room for.
batches: the endless stream of training batches, validation batches, parts of a batch.
feature_cache: a frozen trunk's features on disk.
distributed: fully sharded training (FSDP2).
state: the saved state of a run, with a checksum.
warm_start: the adapter file that a run begins with.
run_files: names of the files in a run's folder, without torch.
run_folder: which of them are the run's own, its best and last weights.
run_log: metrics.jsonl, TensorBoard, Weights & Biases, the progress bar.
requeue: what Slurm tells a job that is to be requeued, without torch.
signals: Ctrl-C, SIGTERM and Slurm's warning between two steps.
sam3_trainer: a model with adapters for SAM 3's own trainer.
options: all options, without torch.
"""

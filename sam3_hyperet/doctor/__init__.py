"""What will fail in a run, found before it does.

findings: the row of a check, and checks in order, skipped where a prerequisite failed.
installation: Python, package versions, whether torch and sam3 can be imported.
machine: GPUs, precision, memory, disk, shared memory, cores.
cluster: Slurm's commands and partitions.
weights: access to the hub, the checkpoint's layout and content.
sizes: parameters, memory, what is written.
splits: every split of the data, and its prompts.
trial: the model, an adapter file, one forward pass, two training steps.
examination: all checks of a setup, in order.
job: checks of an evaluation, a prediction or a benchmark before it is submitted.

Nothing here imports torch or sam3 when it is loaded: the checks must be able to say that these are broken.
"""

"""Jobs on a cluster.

slurm: the job, its script and its submission, through submitit.
memory: what a run will need, before it runs.
options: options of a job, without torch and submitit.
"""

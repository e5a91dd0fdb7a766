"""Ablation studies, without torch: what a plan compares, its runs, and their rows in one CSV.

- `rows`: the CSV, a row a finished run, and the row files that runs leave for it
- `statistics`: differences of pairs, tested for being different and for being equal; `power`: how many pairs that takes
"""

"""Ablation studies, without torch: what a plan compares, its runs, and their rows in one CSV.

- `rows`: the CSV, a row a finished run, and the row files that runs leave for it; `failures`: why others have none
- `results`: the rows of a plan as numbers, checked; `analysis`: its arms, and its comparisons with a verdict each
- `statistics`: differences of pairs, tested for being different and for being equal; `power`: how many pairs that takes
- `table`, `figure`: an analysis in Markdown and as SVG; `evidence`: both on the page of a study, between markers
"""

"""The report of a comparison: one HTML file, and its main table as Markdown and LaTeX.

- `report`: the content and its file, by `report.html.j2`
- `summary`: the opening sentence; `tables`: rows of metrics, Markdown and LaTeX
- `evidence`: curves, confusion and radii from the records; `examples`: detections and label maps for people
- `encoder_radii`: tables of the radii of vision encoders
- `figures/`: all that is drawn
"""

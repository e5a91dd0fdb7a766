"""The report of a comparison: one HTML file, and its main table as Markdown and LaTeX.

- `comparison_report`: from a comparison to its report, in `content`; `report`: from there to the files
- `view`: what the page shows, by the template in `page/`; `head`: what stands at its top
- `description`: the models, the data and the time; `summary`: the headline
- `short_names`: names of several models without what all share
- `tables`: rows of metrics; `percentages`: small rates; `text_tables`: as Markdown and LaTeX; `pairs`: adapted models
  beside each other
- `evidence`: curves, confusion and radii from the records; `examples`: detections and label maps for people
- `encoder_radii`: tables of the radii of vision encoders
- `figures/`: all that is drawn
"""

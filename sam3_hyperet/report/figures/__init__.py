"""Figures of a report.

- `images`: masks and label maps on images; `radius_maps`: radii on images
- `plots`: SVG plots for all others: `training_plots`, `score_plots`, `category_plots`, `radius_plots`,
  `front_plots`, `gate_plots`
- `encoder_radii`: radii of vision encoders, for print
"""

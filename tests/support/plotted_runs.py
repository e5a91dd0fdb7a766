"""What a report plots of a run: the lines of its log, and the radii of a site."""

from sam3_hyperet.report.figures.radius_plots import RadiusShift


def history():
    lines = [
        {"step": s, "train/loss": 9 / s, "train/loss_mask": 5 / s, "train/lr": 1e-3, "radius/fpn.0/mean": s}
        for s in range(1, 41)
    ]
    validated = (0, 10, 20, 30, 40)
    metrics = [
        {"step": s, "tune/part/segm/AP": 0.3, "tune/segm/AP": 0.01 * s, "tune/forgetting/part/segm/AP": 0.0}
        for s in validated
    ]
    return [*lines, *({"step": s, "tune/loss": abs(s - 20) + 2.5} for s in validated), *metrics]


def shift(site="fpn.0", **changes):
    values = {"edges": (0.0, 0.5, 1.0), "before": (3, 1), "after": (1, 3), "before_mean": 0.3, "after_mean": 0.6}
    values |= {"before_radius": 6.0, "after_radius": 14.0, "saturation": 0.001}
    return RadiusShift(site, **values | changes)

"""Names and bounds that options and tensor code share; nothing here needs torch."""

GEOMETRIES = ("euclidean", "mobius", "lorentz", "gyro")
FORMER_GEOMETRIES = {"moebius": "mobius"}
"""Former names, which files and commands may still have."""
STRUCTURES = ("diagonal", "block_diagonal", "banded", "dense")
CURVATURE_BOUNDS = (1e-8, 1e2)
AUTO, FP32, TF32, BF16 = PRECISIONS = ("auto", "32-true", "tf32", "bf16-mixed")
MAX_DIAL = 2.0
"""Of an adapter: 0 is the base, 1 the adapter as trained."""
DEMO_DIAL = 1.5
"""The end of the dial on the page of the demo."""
MIN_RADIUS = 0.1
"""K of the entailment cones: within twice this radius a cone is half a space."""
KEPT = "kept"
"""The group of the metrics whose truth is the base's own answers, and the section of their options."""
NUM_QUERIES = 200
"""How many objects of a prompt SAM 3 finds in an image at most."""
VISUAL = "visual"
"""SAM 3's text for a prompt of boxes alone."""
RADIUS_SCALES = ("width", "median", "none")
"""What features are divided by before their radii are compared across encoders: √D, their median norm, or 1."""
SMALLEST_OVERLAY = 640
"""Pixels of the longer side to which a smaller image is enlarged: below, labels and outlines hide what they mark."""

"""The content of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sam3_hyperet.evaluation.dial import DialFront
from sam3_hyperet.report.description import ModelDescription
from sam3_hyperet.report.figures import score_plots
from sam3_hyperet.report.figures.category_plots import TreeConfusion
from sam3_hyperet.report.figures.gate_plots import PromptGates
from sam3_hyperet.report.figures.images import Example, SemanticExample
from sam3_hyperet.report.figures.radius_maps import RadiusMap
from sam3_hyperet.report.figures.radius_plots import RadiusShift


@dataclass(frozen=True)
class Report:
    """All that a report shows; `metrics` as in metrics.json, `history` the lines of metrics.jsonl.

    models: names of the adapted models where there are several, or `tables.ALONE`; a curve's `model` is one of them,
        "adapted" or "base".
    kind: what the base is, such as "a tiny model of SAM 3's architecture".
    groups: what the data's groups are.
    facts: what the head says of the run by name; `described` has a row for each of several adapted models.
    """

    title: str
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    protocol: Mapping[str, str]
    config: str
    versions: Mapping[str, str]
    models: Sequence[str] = ()
    kind: str = ""
    groups: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    described: Sequence[ModelDescription] = ()
    examples: Sequence[Example] = ()
    gained: Sequence[Example] = ()  # where adaptation helped and, in `lost`, harmed most
    lost: Sequence[Example] = ()
    semantic_examples: Sequence[SemanticExample] = ()
    radius: Sequence[RadiusShift] = ()
    radius_maps: Sequence[RadiusMap] = ()
    precision_recall: Sequence[score_plots.PrecisionRecall] = ()
    risk_coverage: Sequence[score_plots.RiskCoverage] = ()
    confusion: TreeConfusion | None = None
    instances: Mapping[str, int] = field(default_factory=dict)  # in the ground truth, by category
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    front: DialFront | None = None
    gates: PromptGates | None = None
    detailed: Sequence[str] = ()  # the models that curves and images are of; none for all

"""The metadata of a model card, which the hub checks: base, licence, tags, results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sam3_hyperet.hub.adapter_info import AdapterInfo
from sam3_hyperet.hub.card_tables import card_rows, evaluation_results
from sam3_hyperet.hub.run_info import RunInfo

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

SAM_LICENSE = {
    "license": "other",
    "license_name": "sam-license",
    "license_link": "https://github.com/facebookresearch/sam3/blob/main/LICENSE",
}
PACKAGED_LICENSE = {"license": "apache-2.0"}
OFFICIAL = ("facebook/sam3", "facebook/sam3.1")
_TAGS = ("hyperet", "adapter")
_OF_SAM3 = ("sam3", "open-vocabulary", "segment-anything")


@dataclass(frozen=True)
class CardOptions:
    """What a card says that no file knows.

    base_model: repository of the base weights; None is what the run names. license: the hub's name of the adapter's
    licence; None is the base's. note: a paragraph, in Markdown. evaluations: metrics of further evaluations.
    """

    base_model: str | None = None
    license: str | None = None
    note: str = ""
    evaluations: Sequence[Mapping[str, Any]] = field(default=())


def card_metadata(repository: str, adapter: AdapterInfo, run: RunInfo, options: CardOptions) -> "ModelCardData":
    """The metadata of a card; of an adapter for another encoder without what is SAM 3's."""
    from huggingface_hub import ModelCardData

    base = options.base_model or (run.base if run.base in OFFICIAL else None)
    licence = {"license": options.license} if options.license else _license_of_base(adapter)
    return ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        library_name="sam3_hyperet",
        pipeline_tag="image-feature-extraction" if adapter.encoder else "image-segmentation",
        tags=_tags(adapter),
        model_name=repository.rpartition("/")[2],
        eval_results=_results([run.metrics, *options.evaluations]) or None,
        license=licence.get("license"),
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
    )


def measured_split(metrics: Mapping[str, Any]) -> str | None:
    """The split that metrics were measured on; None where they do not say."""
    data = metrics.get("data")
    split = data.get("split") if isinstance(data, Mapping) else None
    return split if isinstance(split, str) else None


def _license_of_base(adapter: AdapterInfo) -> Mapping[str, str]:
    """The licence that follows from the base; none for another encoder, whose own nobody knows here."""
    if adapter.encoder:
        return {}
    return PACKAGED_LICENSE if adapter.base_name else SAM_LICENSE


def _tags(adapter: AdapterInfo) -> list[str]:
    """What the hub is searched by: the family, for SAM 3 also the scheme, and the geometry or the control."""
    config = adapter.config
    kind = config.geometry if config.adapter == "hyperet" else config.adapter
    if adapter.encoder:
        return [*_TAGS, kind]
    has_scheme = config.sites is None and config.scheme != "none"
    return [*_OF_SAM3, *_TAGS, *([f"scheme-{config.scheme.lower()}"] if has_scheme else []), kind]


def _results(evaluations: Sequence[Mapping[str, Any]]) -> "list[EvalResult]":
    """AP and mIoU of all evaluations, each with the split that it was measured on."""
    found = []
    for metrics in evaluations:
        rows = [row for row in card_rows(metrics) if row.metric.key.endswith(("AP", "mIoU"))]
        found += evaluation_results(rows, measured_split(metrics))
    return found

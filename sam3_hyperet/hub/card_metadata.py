"""The metadata of a model card, which the hub checks: base, licence, tags, results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sam3_hyperet.hub.adapter_info import AdapterInfo
from sam3_hyperet.hub.card_tables import evaluation_results
from sam3_hyperet.hub.run_info import RunInfo
from sam3_hyperet.report.tables import Row

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

SAM_LICENSE = {
    "license": "other",
    "license_name": "sam-license",
    "license_link": "https://github.com/facebookresearch/sam3/blob/main/LICENSE",
}
PACKAGED_LICENSE = {"license": "apache-2.0"}
OFFICIAL = ("facebook/sam3", "facebook/sam3.1")
_TAGS = ("sam3", "hyperet", "adapter", "open-vocabulary", "segment-anything")


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


def card_metadata(
    repository: str, adapter: AdapterInfo, run: RunInfo, options: CardOptions, found: Sequence[Row]
) -> "ModelCardData":
    """The metadata of a card; `found` are the rows of its table."""
    from huggingface_hub import ModelCardData

    base = options.base_model or (run.base if run.base in OFFICIAL else None)
    of_base = PACKAGED_LICENSE if adapter.base_name else SAM_LICENSE
    licence = {"license": options.license} if options.license else of_base
    results = evaluation_results([row for row in found if row.metric.key.endswith(("AP", "mIoU"))], "val")
    own = f"scheme-{adapter.config.scheme.lower()}" if adapter.config.sites is None else None
    kind = adapter.config.geometry if adapter.config.adapter == "hyperet" else adapter.config.adapter
    tags = [*_TAGS, *filter(None, (own, kind))]
    return ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        library_name="sam3_hyperet",
        pipeline_tag="image-segmentation",
        tags=[tag for tag in tags if tag != "scheme-none"],
        model_name=repository.rpartition("/")[2],
        eval_results=results or None,
        license=licence["license"],
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
    )

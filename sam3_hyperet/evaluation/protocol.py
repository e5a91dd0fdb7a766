"""The evaluation protocol: the options that stand beside every number."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, ClassVar

from sam3_hyperet.arrays.positions import spread
from sam3_hyperet.choices import AUTO, PRECISIONS
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.tiles import OVERLAP, WHOLE, Tiling
from sam3_hyperet.options import NonNegativeInt, PositiveInt, Probability, check_fields

MAX_DETECTIONS = 100  # of an image and category: COCO's AP ranks no more
FUSIONS = ("instance", "semantic", "fused")
_NO_INFLUENCE = ("workers", "bootstrap", "fusion", "compare_exact")
_EXEMPLARS = ("exemplars", "exemplar_text", "exemplar_seed")


@dataclass(frozen=True)
class Protocol:
    """Options by which predictions become metrics.

    Attributes:
        max_dets: detections that AP ranks per image and category, at most 100 as in COCO. cgF1 takes all claims.
        mask_threshold: probability from which a pixel belongs to a mask.
        presence_threshold: probability from which a concept counts as present.
        score_threshold: an instance's own score from which it enters the fusions to label maps.
        min_score: a prompt whose best detection scores less gets no mask and no detection; 0 keeps all (exact). A
            prompt that scores as much or more matters.
        recall: share of the prompts that matter that a cascade gives to the full model; by a first look, calibrated on
            tuning images, it spares the others. 1 spares none.
        calibration_images: tuning images that a cascade is calibrated on, at most; 0 for all.
        present_only: ask each image for the concepts that it shows alone, as SAM 3's paper does for its AP⁺.
        exemplars: boxes of its instances in the image that each prompt is given, as far as there are so many; only
            present concepts are then asked for.
        exemplar_text: give them beside the name (T+I of the paper), not alone (I).
        exemplar_seed: of which instances' boxes are given.
        synonyms: prompt for a label map's class by each of its names, the best of which counts.
        fusion: the one whose mIoU is also `<data>/mIoU`; None for none. All three are reported in any case.
        granularity: measure the concept tree, where the data set has one, the radius by level, and as uncertainty.
        prompts_at_once: prompts per forward pass; 0 for as many as the device's size suggests.
        tiles: into how many an image is split, COLUMNSxROWS such as 3x2, each of which the model sees by itself; auto
            for as many as its resolution suggests.
        tile_overlap: fraction of a tile's side that it shares with its neighbour.
        precision: "32-true", "tf32" or "bf16-mixed"; "auto" is bf16-mixed on a CUDA device that has it, else 32-true.
        limit: images of the split that are scored, evenly spread; 0 for all.
        examples: images kept for the report.
        bootstrap: draws of the images for the confidence intervals of differences between models; 0 for none.
        compare_exact: with a `min_score` or a `recall`, on how many of the images it is compared with the exact one.
        workers: threads that enlarge, encode and match masks while the model is at the next prompts; 0 for none.
    """

    max_dets: PositiveInt = 100
    mask_threshold: Probability = 0.5
    presence_threshold: Probability = 0.5
    score_threshold: Probability = 0.5
    min_score: Probability = 0.0
    recall: Probability = 1.0
    calibration_images: NonNegativeInt = 200
    present_only: bool = False
    exemplars: NonNegativeInt = 0
    exemplar_text: bool = True
    exemplar_seed: NonNegativeInt = 0
    synonyms: bool = False
    fusion: Annotated[str, FUSIONS] | None = None
    granularity: bool = True
    prompts_at_once: NonNegativeInt = 0
    tiles: str = WHOLE
    tile_overlap: float = OVERLAP
    precision: Annotated[str, PRECISIONS] = AUTO
    limit: NonNegativeInt = 0
    examples: NonNegativeInt = 8
    bootstrap: NonNegativeInt = 1000
    compare_exact: NonNegativeInt = 0
    workers: NonNegativeInt = 1

    ALIASES: ClassVar[Mapping[str, str]] = {"top": "max_dets"}

    def __post_init__(self) -> None:
        check_fields(self, "protocol")
        if self.max_dets > MAX_DETECTIONS:
            expected = f"expected at most {MAX_DETECTIONS}, which is all that COCO's AP ranks"
            raise ConfigError(f"protocol.max_dets={self.max_dets}; {expected}")
        if not self.tiling.is_whole and self.recall < 1:
            spares = f"with protocol.recall={self.recall}, which spares prompts of whole images"
            raise ConfigError(
                f"protocol.tiles={self.tiles} {spares}; expected protocol=exact or fast, or tiles={WHOLE}"
            )
        if self.recall < 1 and not self.min_score:
            missing = "is of the prompts with a detection from protocol.min_score, which is 0"
            remedy = "protocol.min_score above 0, such as protocol=cascade has"
            raise ConfigError(f"protocol.recall={self.recall} {missing}; expected {remedy}")
        if self.compare_exact and self.is_exact:
            exact = "but protocol.min_score=0 is exact already"
            remedy = "protocol.compare_exact=0, or protocol.min_score above 0, such as protocol=fast has"
            raise ConfigError(f"protocol.compare_exact={self.compare_exact}, {exact}; expected {remedy}")
        for name, idle in (("exemplar_text", True), ("exemplar_seed", 0)):
            if not self.exemplars and (value := getattr(self, name)) != idle:
                found = f"protocol.{name}={str(value).lower()}"
                raise ConfigError(f"{found} needs boxes; expected protocol.exemplars from 1")
        if self.asks_present and self.recall < 1:
            spared = f"protocol.recall={self.recall} spares absent concepts"
            raise ConfigError(f"{spared}, for which {self.prompted_by} does not ask; expected protocol=exact or fast")

    @property
    def asks_present(self) -> bool:
        """Whether images are asked for the concepts that they show alone."""
        return self.present_only or self.exemplars > 0

    @property
    def prompted_by(self) -> str:
        """How present concepts are asked for where absent ones are not, in the paper's letters, for people; else ""."""
        boxes = f"{self.exemplars} exemplar{'' if self.exemplars == 1 else 's'}, seed {self.exemplar_seed}"
        kind = "T" if not self.exemplars else f"{'T+I' if self.exemplar_text else 'I'}, {boxes}"
        return f"{kind}, present concepts alone (AP⁺)" if self.asks_present else ""

    def on(self, device: str) -> "Protocol":
        """The protocol on a type of device, with the precision that it computes in there."""
        from sam3_hyperet.precision import resolved_precision  # needs torch, and options are read without

        return replace(self, precision=resolved_precision(self.precision, device, "protocol.precision"))

    @property
    def tiling(self) -> Tiling:
        """How images are split. Raises ConfigError."""
        return Tiling.of(self.tiles, self.tile_overlap, "protocol.")

    @property
    def is_exact(self) -> bool:
        """Whether every prompt gets the full model and all of its masks."""
        return not self.min_score

    def exact(self) -> "Protocol":
        """The protocol that is the same but for that."""
        return replace(self, recall=1.0, min_score=0.0, compare_exact=0)

    def deciding(self) -> dict[str, object]:
        """The options that an image's record depends on."""
        idle = (*_NO_INFLUENCE, *(["tiles", "tile_overlap"] if self.tiling.is_whole else []))
        idle += (() if self.exemplars else _EXEMPLARS) + (() if self.present_only else ("present_only",))
        return {name: value for name, value in asdict(self).items() if name not in idle}

    def for_validation(self, images: int) -> "Protocol":
        """The protocol on so many images, without what the report alone needs."""
        return replace(self, limit=images, examples=0, granularity=False, bootstrap=0, recall=1.0, compare_exact=0)


def evenly_spread(positions: Sequence[int], count: int) -> list[int]:
    """All positions, or `count` of them, evenly spread; 0 for all."""
    return [positions[k] for k in spread(len(positions), count or len(positions))]

"""What is injected: scheme or sites, structure, geometry and their options; impossible values are errors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, ClassVar

from sam3_hyperet import options
from sam3_hyperet.choices import FORMER_GEOMETRIES, GEOMETRIES, STRUCTURES
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.wording import without_folders

SCHEMES: dict[str, tuple[str, ...]]
SCHEMES = {"none": (), "A": ("fpn",), "B": ("encoder_layer",), "C": ("attention",), "P": ("trunk_qv",)}
SITES = ("fpn", "encoder_layer", "attention", "trunk_qv", "encoder_out", "pixel_decoder", "prompt")
_PARTS = {**SCHEMES, **{site: (site,) for site in SITES}}
"""Sites of each part of a scheme."""
GATED_SITES = ("encoder_layer", "encoder_out", "prompt")
GATES = ("none", "prompt", "auto")
ADAPTERS = ("hyperet", "lora", "dora", "ia3", "oft", "boft", "ln", "bitfit")
CONTROLS_BY_PEFT, CONTROLS_OF_BASE = ("lora", "dora", "ia3"), ("ln", "bitfit")
OF_CONTROLS = {"rank": ("lora", "dora"), "oft_block_size": ("oft", "boft"), "norms": ("ln",), "biases": ("bitfit",)}
"""Options of controls, by the adapters that have them."""
_OF_SITES = {
    "levels": ("fpn", "pixel_decoder"),
    "layers": ("encoder_layer", "attention"),
    "blocks": ("trunk_qv",),
    "attention": ("attention",),
}
"""Options of sites, by the sites that have them."""
ATTENTIONS = ("self", "cross", "both")
_IMAGE_PATH = (r"^backbone\.vision_backbone\.", r"^transformer\.")
PACKAGED = {"tiny": "tiny_scenes_object.safetensors", "tiny_levels": "tiny_scenes_levels.safetensors"}
"""Base weights in the package's weights/, by the model's name."""
_PACKAGED_ADAPTERS = {"tiny_levels": "tiny_levels_adapter.safetensors"}


@dataclass(frozen=True)
class HyperETConfig:
    """An adjustment and the places it goes to.

    Attributes:
        scheme: "none", "A", "B", "C", "P", a site, or several joined by "+"; ignored where `sites` is given.
        sites: places by name, instead of a scheme: "fpn" (A), "encoder_layer" (B), "attention" (C), "trunk_qv" (P),
            "encoder_out", "pixel_decoder", "prompt".
        structure: of the matrix M: "diagonal", "block_diagonal", "banded" or "dense".
        geometry: "euclidean", "mobius", "lorentz" or "gyro".
        curvature: c > 0 of the space of curvature -c.
        learn_curvature: train c, one value per adjustment.
        residual: None, or the initial α of y = x + α(f(x) - x), not 0 where anything is to learn.
        learn_residual: train α.
        gate: "prompt" multiplies f(x) - x by 2σ(w·t + b) of each prompt, t its pooled text features: 1 at first, and
            trained. For the sites that see the prompt: "encoder_layer", "encoder_out" and "prompt". "auto" becomes
            "prompt" where every site is one of these and can have a gate, else "none".
        block_size: side of the blocks of "block_diagonal".
        bandwidth: half-width of the band of "banded".
        levels: indices of the pyramid levels of "fpn" and "pixel_decoder", highest resolution first; None is every one.
        layers: indices of the fusion encoder's layers of "encoder_layer" and "attention"; None is every one.
        blocks: indices of the ViT's blocks of "trunk_qv"; None is every one.
        attention: of a fusion encoder's layer that "attention" replaces: "self", "cross" or "both". It is Lorentzian
            whatever the geometry, but for "euclidean", its control; it has gates instead of a matrix.
        share: one adjustment for all levels, layers or blocks of a site. None: only where one each would be too many,
            which is "trunk_qv" with a dense matrix.
        adapter: "hyperet"; or a control: of the layers that feed the same sites, "lora" and "dora", low-rank updates,
            "oft" and "boft", orthogonal rotations, and "ia3", a factor for each output; of the base itself, "ln", its
            LayerNorms, and "bitfit", its biases.
        rank: of "lora" and "dora"; None is the largest with no more parameters than the adjustment would have.
        oft_block_size: side of the rotated blocks of "oft" and "boft"; None is the largest, as for `rank`.
        biases: of "bitfit": regular expressions, searched in the names of the base's biases.
        norms: of "ln": regular expressions, searched in the names of the base's LayerNorms.
    """

    ALTERNATIVES: ClassVar[Mapping[str, str]] = {"scheme": "sites"}

    scheme: str = "A"
    sites: tuple[str, ...] | None = None
    structure: Annotated[str, STRUCTURES] = "dense"
    geometry: Annotated[str, GEOMETRIES] = "lorentz"
    curvature: options.PositiveFloat = 0.01
    learn_curvature: bool = False
    residual: options.FiniteFloat | None = None
    learn_residual: bool = False
    gate: Annotated[str, GATES] = "none"
    block_size: options.PositiveInt = 4
    bandwidth: options.PositiveInt = 1
    levels: tuple[int, ...] | None = None
    layers: tuple[int, ...] | None = None
    blocks: tuple[int, ...] | None = None
    attention: Annotated[str, ATTENTIONS] = "both"
    share: bool | None = None
    adapter: Annotated[str, ADAPTERS] = "hyperet"
    rank: options.PositiveInt | None = None
    oft_block_size: options.PositiveInt | None = None
    biases: tuple[str, ...] = _IMAGE_PATH
    norms: tuple[str, ...] = _IMAGE_PATH

    def __post_init__(self) -> None:
        options.convert_fields(self)
        if present := FORMER_GEOMETRIES.get(self.geometry):
            options.warn_once(f"geometry {self.geometry} is now called {present}; the old name will go")
            object.__setattr__(self, "geometry", present)
        options.check_fields(self)
        for part in self.scheme.split("+"):
            options.one_of("scheme", part, _PARTS)
        for site in self.sites or ():
            options.one_of("sites", site, SITES)
        for name in ("levels", "layers", "blocks"):
            indices = getattr(self, name)
            if indices is not None and (not indices or len(set(indices)) < len(indices)):
                raise ConfigError(f"{name}={list(indices)}; expected distinct integers, or null for every one")
        of_class = {field.name: field.default for field in fields(self)}
        for name, of in OF_CONTROLS.items():
            if (value := getattr(self, name)) != of_class[name] and self.adapter not in of:
                found = f"{name}={list(value) if isinstance(value, tuple) else value}: adapter={self.adapter} has none"
                raise ConfigError(f"{found}; it is of adapter={' and '.join(of)}, expected that, or no hyperet.{name}")
        if self.gate == "auto":
            seen = self.adapter == "hyperet" and not self.is_empty and {*self.resolved_sites}.issubset(GATED_SITES)
            object.__setattr__(self, "gate", "prompt" if seen else "none")
        elif self.gate == "prompt":
            self._check_gate()
        if self.learn_residual and self.residual is None:
            raise ConfigError("learn_residual=true needs residual=α, its initial value")
        if self.learn_curvature and self.geometry == "euclidean":
            raise ConfigError("learn_curvature=true: geometry euclidean has no curvature; choose another geometry")

    def check_sites(self) -> None:
        """Raise a ConfigError for an option of sites of which none is adjusted; other encoders have no sites."""
        for name in self._idle():
            value, sites = getattr(self, name), " or ".join(_OF_SITES[name])
            found = f"{name}={list(value) if isinstance(value, tuple) else value} is of no site that is adjusted"
            raise ConfigError(f"{found}; expected {sites} among scheme and sites, or no hyperet.{name}")

    def _idle(self) -> dict[str, object]:
        """The default of each option that is given for sites of which none is adjusted."""
        of_others = [name for name, sites in _OF_SITES.items() if {*sites}.isdisjoint(self.resolved_sites)]
        defaults = {field.name: field.default for field in fields(self) if field.name in of_others}
        return {name: default for name, default in defaults.items() if getattr(self, name) != default}

    def _check_gate(self) -> None:
        """Raise a ConfigError where a gate would read no prompt."""
        can = ", ".join(GATED_SITES)
        if self.adapter != "hyperet":
            raise ConfigError(f"gate=prompt: adapter={self.adapter} has no gates; expected adapter=hyperet")
        if odd := [site for site in self.resolved_sites if site not in GATED_SITES]:
            raise ConfigError(f"gate=prompt: site {odd[0]} does not see the prompt; the sites that do are {can}")

    @property
    def resolved_sites(self) -> tuple[str, ...]:
        """The sites, or those of the scheme, each once."""
        of_scheme = [site for part in self.scheme.split("+") for site in _PARTS[part]]
        return tuple(dict.fromkeys(of_scheme if self.sites is None else self.sites))

    @property
    def place(self) -> str:
        """Sites joined by "+", behind a control's name; the name alone of one that tunes the base."""
        sites = () if self.adapter in CONTROLS_OF_BASE else self.resolved_sites
        control = "" if self.adapter == "hyperet" else self.adapter
        return " ".join(part for part in (control, "+".join(sites)) if part)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be injected: no site, and no control that needs none."""
        return not self.resolved_sites and self.adapter not in CONTROLS_OF_BASE

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "HyperETConfig":
        """Build from plain values, as read from a file; a key that is not an option is an error."""
        return options.read_options(cls, values, "hyperet")

    def check_learns(self) -> None:
        """Raise a ConfigError for a residual of 0, with which next to nothing has a gradient, learnt or not."""
        if self.residual == 0.0:  # it has one only where M is not I, and M only where it is not 0
            found = f"residual={self.residual}, with which the adjustments do not learn"
            raise ConfigError(f"{found}; expected another number, such as residual=0.1")

    @classmethod
    def from_file(cls, values: Mapping[str, object]) -> "HyperETConfig":
        """Build from what an adapter file says: options of none of its sites, which were once taken, decide nothing."""
        config = cls.from_mapping(values)
        return replace(config, **config._idle())  # type: ignore[arg-type]

    def differences(self, other: "HyperETConfig") -> list[str]:
        """Options in which another differs; not `scheme` and `sites` where both name the same sites."""
        same = ("scheme", "sites") if self.resolved_sites == other.resolved_sites else ()
        ours, theirs = asdict(self), asdict(other)
        return [key for key, value in ours.items() if value != theirs[key] and key not in same]

    def to_dict(self) -> dict[str, object]:
        """Every option as plain values."""
        return asdict(self)


def packaged_file(name: str) -> Path:
    """The file of a packaged model's base weights."""
    return Path(__file__).resolve().parents[1] / "weights" / PACKAGED[name]


def packaged_adapter(name: str) -> Path | None:
    """The file of the adapter that comes with a packaged model; None where none does."""
    file = _PACKAGED_ADAPTERS.get(name)
    return None if file is None else Path(__file__).resolve().parents[1] / "weights" / file


def is_packaged(adapter: Path) -> bool:
    """Whether a file is an adapter of the package."""
    return adapter in map(packaged_adapter, _PACKAGED_ADAPTERS)


@dataclass(frozen=True)
class ModelOptions:
    """Options of `build_model`.

    Attributes:
        name: "tiny" and "tiny_levels", which come with the package: the first knows the drawn scenes' objects, the
            second half of their parts and groups as well; or "large", the official architecture.
        checkpoint: base weights: a file or a folder in any published layout, "facebook/sam3" or "facebook/sam3.1" of
            the Hugging Face hub, or "random"; None for those in the package, which the tiny ones have.
        resolution: side of the model's square input in pixels; None for 128 of the tiny ones and 1008 of "large".
        seed: of random weights.
        compile: run the decoder's layers, the adjustments and, on CUDA, the pixel decoder by PyTorch's compiler.
    """

    name: str = "tiny"
    checkpoint: str | None = None
    resolution: int | None = None
    seed: int = 0
    compile: bool = False

    @property
    def packaged(self) -> Path | None:
        """The file of the package with the base weights; None where they are from elsewhere."""
        return packaged_file(self.name) if self.checkpoint is None and self.name in PACKAGED else None

    @property
    def is_random(self) -> bool:
        """Whether the base weights are random."""
        return self.checkpoint == "random"

    @property
    def weights(self) -> str:
        """The model and its base weights, for people."""
        if self.packaged:
            return f"{self.name}, {self.packaged.name} of the package"
        weights = (
            f"random weights of seed {self.seed}"
            if self.checkpoint == "random"
            else without_folders(self.checkpoint or "")
        )
        return ", ".join(filter(None, (self.name, weights)))


def adapter_config(model: object) -> HyperETConfig | None:
    """The configuration of a model's adapters; None where it has none."""
    from sam3_hyperet.modeling.wrappings import unwrapped  # with torch, without which configurations are read

    config = getattr(unwrapped(model), "hyperet_config", None)
    assert config is None or isinstance(config, HyperETConfig)
    return config

"""HyperET for SAM 3: tiny hyperbolic adjustments that change the granularity of a frozen segmenter's features.

Names are loaded when first used, so that `sam3_hyperet.hyperbolic` and `.adapters` do not import sam3.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sam3_hyperet.version import __version__

if TYPE_CHECKING:
    from sam3_hyperet.adapters.adjustment import HyperET
    from sam3_hyperet.data.coco import read_coco
    from sam3_hyperet.data.loading import ConceptPrompts
    from sam3_hyperet.data.prompts import PromptSampler
    from sam3_hyperet.hub.repository import push_to_hub
    from sam3_hyperet.inference.predictor import Predictor
    from sam3_hyperet.losses.grounding import GroundingLoss
    from sam3_hyperet.modeling.adapter_file import load_adapter, save_adapter
    from sam3_hyperet.modeling.build import build_model, resolution
    from sam3_hyperet.modeling.checkpoint import save_official
    from sam3_hyperet.modeling.config import HyperETConfig
    from sam3_hyperet.modeling.copies import adapted_copy
    from sam3_hyperet.modeling.dial import set_dial
    from sam3_hyperet.modeling.encoders.inject import inject_qv, wrap
    from sam3_hyperet.modeling.inject import adapters_disabled, inject, remove_adapter
    from sam3_hyperet.modeling.merge import merge
    from sam3_hyperet.modeling.modes import set_training_mode
    from sam3_hyperet.modeling.parameters import parameter_report
    from sam3_hyperet.sam3_host import to_device
    from sam3_hyperet.training.batches import training_batches, val_batches
    from sam3_hyperet.training.sam3_trainer import adapted_model
    from sam3_hyperet.training.stages import set_stage

_NAMES = {
    "adapters.adjustment": ("HyperET",),
    "data.coco": ("read_coco",),
    "data.loading": ("ConceptPrompts",),
    "data.prompts": ("PromptSampler",),
    "hub.repository": ("push_to_hub",),
    "inference.predictor": ("Predictor",),
    "losses.grounding": ("GroundingLoss",),
    "modeling.adapter_file": ("load_adapter", "save_adapter"),
    "modeling.build": ("build_model", "resolution"),
    "modeling.checkpoint": ("save_official",),
    "modeling.config": ("HyperETConfig",),
    "modeling.copies": ("adapted_copy",),
    "modeling.dial": ("set_dial",),
    "modeling.encoders.inject": ("inject_qv", "wrap"),
    "modeling.inject": ("adapters_disabled", "inject", "remove_adapter"),
    "modeling.merge": ("merge",),
    "modeling.modes": ("set_training_mode",),
    "modeling.parameters": ("parameter_report",),
    "sam3_host": ("to_device",),
    "training.batches": ("training_batches", "val_batches"),
    "training.sam3_trainer": ("adapted_model",),
    "training.stages": ("set_stage",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["ConceptPrompts", "GroundingLoss", "HyperET", "HyperETConfig", "Predictor", "PromptSampler"]
__all__ += ["adapted_copy", "adapted_model", "adapters_disabled", "build_model", "inject", "inject_qv", "load_adapter"]
__all__ += ["merge", "parameter_report", "push_to_hub", "read_coco", "remove_adapter", "resolution", "save_adapter"]
__all__ += [
    "save_official",
    "set_dial",
    "set_stage",
    "set_training_mode",
    "to_device",
    "training_batches",
    "val_batches",
]
__all__ += ["__version__", "wrap"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

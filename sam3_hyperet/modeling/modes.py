"""Training mode for what trains, evaluation mode for what is frozen."""

from typing import Any

from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.wrappings import unwrapped


def set_training_mode(model: nn.Module, *, checkpoint_activations: bool = False) -> None:
    """Put what trains into training mode and what is frozen into evaluation mode (no dropout, no drop path).

    A module trains when all of its parameters do. The root is always in training mode: SAM 3 then returns what its
    losses need. `checkpoint_activations` recomputes the fusion encoder, decoder and mask head in the backward pass:
    less memory, more time; so does `train()` of models of `build_model`, which else does the same. Call this instead of
    it for models of SAM 3's own builder.
    """
    sam3: Any = unwrapped(model)
    _set_mode(sam3)
    sam3.training = True
    # these three flags steer nothing but activation checkpointing
    sam3.transformer.encoder.training = sam3.transformer.decoder.training = checkpoint_activations
    sam3.use_act_checkpoint_seg_head = checkpoint_activations


def _set_mode(module: nn.Module) -> None:
    trains = [p.requires_grad for p in module.parameters()]
    module.train(bool(trains) and all(trains))
    if any(trains) and not all(trains):
        for child in module.children():
            _set_mode(child)


class AdaptableSam3Image(host.MovableSam3Image):
    """SAM 3's image model whose frozen parts stay in evaluation mode: no dropout, no drop path where nothing trains."""

    def train(self, mode: bool = True) -> "AdaptableSam3Image":
        """Training mode for what trains and for the root, with SAM 3's activation checkpointing; or evaluation mode."""
        super().train(mode)
        if mode and not all(p.requires_grad for p in self.parameters()):
            set_training_mode(self, checkpoint_activations=True)
        return self

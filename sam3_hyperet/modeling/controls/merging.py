"""The controls beside HyperET, LoRA and bias tuning, and how they are folded into the base for good."""

from __future__ import annotations

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.checkpoint import adapter_parameters


def merge_control(model: host.Sam3Image) -> host.Sam3Image:
    """Fold the model's LoRA or tuned biases into its base, in place: it is then SAM 3's own model, without adapters.

    The outputs stay: exactly for biases, up to rounding for LoRA, whose B A is added to the weights.

    Raises:
        ConfigError: no control, or a value in it that is not a finite number; the model is then unchanged.
    """
    control = getattr(model, "hyperet_control", None)
    if control is None:
        found = getattr(model, "hyperet_config", "no adapters")
        raise ConfigError(f"the model has no control to merge; found {found}, expected adapter=lora or adapter=bitfit")
    for name, parameter in adapter_parameters(model):
        if not parameter.isfinite().all():
            raise ConfigError(f"{name} has values that are not finite numbers; nothing was merged")
    control.fold(model)
    del model.hyperet_control, model.hyperet_config
    return model

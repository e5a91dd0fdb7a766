"""The dial α of a model's adapters: from the base, 0, to the adapters as trained, 1, and beyond.

Every adapter f is then x + α(f(x) − x): of the features behind a site, of the attention's output (scheme C), of the
weights (scheme P), or of the layers or weights that a control adapts. One trained adapter is so a whole front of gain
against forgetting.
"""

import math

from torch import nn

from sam3_hyperet.choices import MAX_DIAL
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.parameters import adapter_sites


def set_dial(model: nn.Module, alpha: float) -> None:
    """Set the dial of all adapters of a model, which is part of what `save_adapter` writes.

    At 0 the model is the base, bit for bit; at 1, the default, the adapters as trained. Raises ConfigError for a number
    outside 0 ≤ α ≤ 2, and for a model without adapters.
    """
    if adapter_config(model) is None:
        raise ConfigError("the model has no adapters, so no dial; call inject or load_adapter first")
    alpha = checked_dial(alpha)
    for site in adapter_sites(model).values():
        site.dial = alpha


def dial_of(model: nn.Module) -> float:
    """The dial of a model's adapters, 1 without any. Raises ConfigError where sites have dials of their own."""
    dials = sorted({site.dial for site in adapter_sites(model).values()})
    if len(dials) > 1:
        raise ConfigError(f"the sites have different dials, {dials}; set_dial(model, alpha) sets one for all")
    return dials[0] if dials else 1.0


def checked_dial(alpha: object) -> float:
    """`alpha` as a dial; raises ConfigError for what is none."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise ConfigError(f"dial={alpha!r}; expected a number from 0, the base, over 1, the adapter, to {MAX_DIAL:g}")
    if not (math.isfinite(alpha) and 0.0 <= alpha <= MAX_DIAL):
        raise ConfigError(f"dial={alpha:g}; expected a number from 0, the base, over 1, the adapter, to {MAX_DIAL:g}")
    return float(alpha) + 0.0  # not -0.0

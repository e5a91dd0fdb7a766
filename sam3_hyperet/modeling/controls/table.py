"""The table of controls: how each is put into a model."""

from collections.abc import Callable, Collection

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.config import CONTROLS_OF_BASE, HyperETConfig
from sam3_hyperet.modeling.controls.peft_layers import install_peft_layers
from sam3_hyperet.modeling.controls.rotations import install_rotations
from sam3_hyperet.modeling.controls.tuned import install_tuned
from sam3_hyperet.modeling.sites.table import SITES
from sam3_hyperet.modeling.wrappings import check_uncompiled

_INSTALLERS: dict[str, Callable[[host.Sam3Image, HyperETConfig, list[str], Callable[[], int]], None]]
_INSTALLERS = {
    "lora": install_peft_layers,
    "dora": install_peft_layers,
    "ia3": install_peft_layers,
    "oft": install_rotations,
    "boft": install_rotations,
}


def install_control(
    model: host.Sam3Image, config: HyperETConfig, budget: Callable[[], int], tuned: Collection[str] | None
) -> None:
    """Add the control `config.adapter`, of a size that it names or of at most `budget()` parameters.

    `tuned` are the names of the base's parameters that `bitfit` and `ln` tune; None: those of the configuration.
    """
    if config.adapter in CONTROLS_OF_BASE:
        install_tuned(model, config, tuned)
        return
    check_uncompiled(model)
    feeding = {name for site in config.resolved_sites for name in SITES[site].feeding(model, config)}
    names = [name for name, _ in model.named_modules() if name in feeding]
    _INSTALLERS[config.adapter](model, config, names, budget)

"""An adjustment's configuration in words, for reports, model cards and command lines; without torch."""

from sam3_hyperet.modeling.config import CONTROLS_OF_BASE, SCHEMES, HyperETConfig

_LETTERS = {sites[0]: scheme for scheme, sites in SCHEMES.items() if sites}


def sites_in_words(config: HyperETConfig) -> str:
    """The sites with the letters of their schemes, as "B (encoder_layer) + prompt"; of a control behind its name."""
    if config.adapter in CONTROLS_OF_BASE:
        return config.adapter
    sites = " + ".join(f"{_LETTERS[site]} ({site})" if site in _LETTERS else site for site in config.resolved_sites)
    return sites if config.adapter == "hyperet" else f"{config.adapter} at {sites}"


def geometry_in_words(config: HyperETConfig) -> str:
    """The geometry with its c, as "lorentz with c = 0.01, learnt"; "" for a control."""
    if config.adapter != "hyperet" or config.geometry == "euclidean":
        return config.geometry if config.adapter == "hyperet" else ""
    return f"{config.geometry} with c = {config.curvature:g}{', learnt' if config.learn_curvature else ''}"


def structure_in_words(config: HyperETConfig) -> str:
    """The structure with its size, as "block diagonal of 4", and the gate; "" for a control."""
    if config.adapter != "hyperet":
        return ""
    gate = ", a gate per prompt" if config.gate == "prompt" else ""
    size = {"block_diagonal": f" of {config.block_size}", "banded": f" of ±{config.bandwidth}"}
    return f"{config.structure.replace('_', ' ')}{size.get(config.structure, '')}{gate}"

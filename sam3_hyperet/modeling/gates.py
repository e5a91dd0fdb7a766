"""The gates of prompts, for a look at what a model of `gate=prompt` reads off their words."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.inject import adapters_disabled
from sam3_hyperet.modeling.parameters import adapter_sites
from sam3_hyperet.modeling.sites.site import SiteAdjustment

_AT_ONCE = 1024


@torch.no_grad()
def prompt_gates(model: host.Sam3Image, prompts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Gate 2σ(w·t + b) of each prompt at each site, without the dial; nothing for a model without gates."""
    sites = [site for site in adapter_sites(model).values() if isinstance(site, SiteAdjustment)]
    gates = {site.name: site.gate for site in sites if site.gate is not None}
    if not gates:
        return {}
    adjustment: SiteAdjustment | None = getattr(model.backbone, "prompt_adjustment", None)
    found: list[Tensor] = []
    for start in range(0, len(prompts), _AT_ONCE):
        with adapters_disabled(model):  # `prompt` reads the base's text, the others what `prompt` makes of it
            out = model.backbone.forward_text(list(prompts[start : start + _AT_ONCE]), device=model.device)
        text, padding = out["language_features"], out["language_mask"]
        adjusted = text if adjustment is None else adjustment(text, text, padding)
        of = {name: text if name == "prompt" else adjusted for name in gates}
        found.append(torch.stack([gate(of[name], padding).flatten() for name, gate in gates.items()]))
    values = torch.cat(found, dim=1).t().tolist()
    return {prompt: dict(zip(gates, row, strict=True)) for prompt, row in zip(prompts, values, strict=True)}

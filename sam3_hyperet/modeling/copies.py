"""Several adapters of one base in memory: models that share every frozen tensor."""

from __future__ import annotations

import copy

from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.checkpoint import adapter_parameters
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.inject import inject


def adapted_copy(base: host.Sam3Image, config: HyperETConfig) -> host.Sam3Image:
    """A second model on the very same weights and buffers, with adapters of its own, at the identity.

    What changes a base weight in place changes it for every copy: these are for evaluation, or for stage 1.

    Raises:
        ConfigError: as `inject`, also where `base` has adapters itself.
    """
    kept = [base.backbone.language_backbone.tokenizer, *base.parameters(), *base.buffers()]
    model: host.Sam3Image = inject(copy.deepcopy(base, {id(one): one for one in kept}), config)
    shared = {id(parameter) for parameter in base.parameters()}
    for name, parameter in adapter_parameters(model):
        if id(parameter) in shared:  # bias tuning trains the base's own
            owner, _, attribute = name.rpartition(".")
            own = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            setattr(model.get_submodule(owner), attribute, own)
    return model

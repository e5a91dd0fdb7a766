"""Sites of token features: `encoder_layer` (scheme B), `encoder_out` on the detection path, and `prompt`.

Only layers in `transformer.encoder.layers` are touched: the geometry encoder's have the same class. All of them see the
prompt, so they are the sites that can have a gate per prompt.
"""

from typing import Any

from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.gate import PromptGate
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites.pyramid import extended_backbone
from sam3_hyperet.modeling.sites.site import SiteAdjustment, adjustments, chosen, extended, folded

BEHIND_SUM = "it follows the residual sum of a layer, which no single linear layer makes"
BY_PROMPT = "its gate differs from prompt to prompt"
OF_MEMORY = "the segmentation head reads the same memory without it, and the decoder adds positions after it"


class PromptAdjustment(SiteAdjustment):
    """An adjustment behind the text encoder's last linear layer."""

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        assert isinstance(model, host.Sam3Image)
        return (
            super().fold(model)
            if self.gate is not None
            else folded(model.backbone.language_backbone.resizer, self.hyperet, self.name, self.dial)
        )


class HyperETEncoderLayer(host.TransformerEncoderLayer):  # type: ignore[misc]  # sam3 is untyped
    """A layer of the fusion encoder with an adjustment of its output."""

    adjustment: SiteAdjustment

    # not `forward`, whose signature the activation-checkpointing wrapper reads
    def forward_pre(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._adjusted(super().forward_pre(*args, **kwargs), *args, **kwargs)

    def forward_post(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._adjusted(super().forward_post(*args, **kwargs), *args, **kwargs)

    def _adjusted(
        self,
        y: Tensor,
        tgt: Tensor,
        memory: Tensor,
        *args: object,
        memory_key_padding_mask: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        adjusted: Tensor = self.adjustment(y, *text_of(memory.transpose(0, 1), memory_key_padding_mask))
        return adjusted


class HyperETDecoder(host.TransformerDecoder):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's decoder on adjusted memory; the segmentation head keeps the encoder's own."""

    adjustment: SiteAdjustment

    def forward(self, tgt: Tensor, memory: Tensor, *args: object, **kwargs: Any) -> object:
        has_gate = self.adjustment.gate is not None
        prompt = text_of(kwargs["memory_text"], kwargs["text_attention_mask"]) if has_gate else ()
        return super().forward(tgt, self.adjustment(memory, *prompt), *args, **kwargs)


def text_of(prompt: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The text of prompts: (tokens, B, D) features and (B, tokens) padding, without what SAM 3 puts behind it.

    Behind it are the geometric prompt, which is at least one token, one more for each box, and depends on the image,
    and visual ones. The text takes SAM 3's whole context; or fewer tokens in `inference.grounding`, with exactly one of
    geometry.
    """
    count = min(host.CONTEXT_LENGTH, len(prompt) - 1)
    return prompt[:count], None if padding is None else padding[:, :count]


def install_layers(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the (B, positions, D) output of each chosen layer."""
    layers, indices = model.transformer.encoder.layers, encoder_layers(model, config)
    names = ["encoder_layer"] if config.share else [f"encoder_layer.{i}" for i in indices]
    own = adjustments(config, len(names), model.hidden_dim, -1, layers)
    gates = [_gate(model, config, batch_dim=0) for _ in names]
    sites = [SiteAdjustment(name, one, BEHIND_SUM, gate) for name, one, gate in zip(names, own, gates, strict=True)]
    for place, i in enumerate(indices):
        layers[i] = extended(layers[i], HyperETEncoderLayer, host.TransformerEncoderLayer)
        layers[i].adjustment = sites[0 if config.share else place].train(model.training)


def install_encoder_out(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the (positions, B, D) memory that the decoder attends to."""
    decoder = extended(model.transformer.decoder, HyperETDecoder, host.TransformerDecoder)
    (adjustment,) = adjustments(config, 1, model.hidden_dim, -1, decoder)
    gate = _gate(model, config, batch_dim=1)
    decoder.adjustment = SiteAdjustment("encoder_out", adjustment, OF_MEMORY, gate).train(model.training)
    model.transformer.decoder = decoder


def install_prompt(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the text features, (words, prompts, D), before anything attends to them."""
    (adjustment,) = adjustments(config, 1, model.hidden_dim, -1, model.backbone.language_backbone)
    site = PromptAdjustment("prompt", adjustment, BY_PROMPT, _gate(model, config, batch_dim=1))
    extended_backbone(model).prompt_adjustment = site.train(model.training)


def _gate(model: host.Sam3Image, config: HyperETConfig, batch_dim: int) -> PromptGate | None:
    if config.gate == "none":
        return None
    if model.geometry_encoder.cls_embed is None:
        raise ConfigError(
            "gate=prompt: the model's geometry encoder has no token of its own; expected SAM 3's, add_cls"
        )
    return PromptGate(model.hidden_dim, batch_dim).to(next(model.parameters()).device)


def encoder_layers(model: host.Sam3Image, config: HyperETConfig) -> tuple[int, ...]:
    """Indices of the chosen layers of the fusion encoder."""
    return chosen("layers", config.layers, len(model.transformer.encoder.layers), "layer of the fusion encoder")


def feed_forward_outputs(model: host.Sam3Image, config: HyperETConfig) -> list[str]:
    """The last linear layers of the chosen encoder layers."""
    return [f"transformer.encoder.layers.{i}.linear2" for i in encoder_layers(model, config)]


def last_feed_forward_output(model: host.Sam3Image, config: HyperETConfig) -> list[str]:
    """The last linear layer of the fusion encoder."""
    return [f"transformer.encoder.layers.{len(model.transformer.encoder.layers) - 1}.linear2"]

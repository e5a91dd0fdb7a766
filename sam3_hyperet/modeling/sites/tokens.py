"""Sites of token features: `encoder_layer` (scheme B), `encoder_out` on the detection path, and `prompt`.

Only layers in `transformer.encoder.layers` are touched: the geometry encoder's have the same class.
"""

from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites.pyramid import extended_backbone
from sam3_hyperet.modeling.sites.site import SiteAdjustment, adjustments, chosen, extended, folded

BEHIND_SUM = "it follows the residual sum of a layer, which no single linear layer makes"
OF_MEMORY = "the segmentation head reads the same memory without it, and the decoder adds positions after it"


class PromptAdjustment(SiteAdjustment):
    """An adjustment behind the text encoder's last linear layer."""

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        assert isinstance(model, host.Sam3Image)
        return folded(model.backbone.language_backbone.resizer, self.hyperet, self.name, self.dial)


class HyperETEncoderLayer(host.TransformerEncoderLayer):  # type: ignore[misc]  # sam3 is untyped
    """A layer of the fusion encoder with an adjustment of its output."""

    adjustment: SiteAdjustment

    # not `forward`, whose signature the activation-checkpointing wrapper reads
    def forward_pre(self, *args: object, **kwargs: object) -> Tensor:
        y: Tensor = self.adjustment(super().forward_pre(*args, **kwargs))
        return y

    def forward_post(self, *args: object, **kwargs: object) -> Tensor:
        y: Tensor = self.adjustment(super().forward_post(*args, **kwargs))
        return y


class HyperETDecoder(host.TransformerDecoder):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's decoder on adjusted memory; the segmentation head keeps the encoder's own."""

    adjustment: SiteAdjustment

    def forward(self, tgt: Tensor, memory: Tensor, *args: object, **kwargs: object) -> object:
        return super().forward(tgt, self.adjustment(memory), *args, **kwargs)


def install_layers(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the (B, positions, D) output of each chosen layer."""
    layers, indices = model.transformer.encoder.layers, encoder_layers(model, config)
    names = ["encoder_layer"] if config.share else [f"encoder_layer.{i}" for i in indices]
    own = adjustments(config, len(names), model.hidden_dim, -1, layers)
    sites = [SiteAdjustment(name, adjustment, BEHIND_SUM) for name, adjustment in zip(names, own, strict=True)]
    for place, i in enumerate(indices):
        layers[i] = extended(layers[i], HyperETEncoderLayer, host.TransformerEncoderLayer)
        layers[i].adjustment = sites[0 if config.share else place].train(model.training)


def install_encoder_out(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the (positions, B, D) memory that the decoder attends to."""
    decoder = extended(model.transformer.decoder, HyperETDecoder, host.TransformerDecoder)
    (adjustment,) = adjustments(config, 1, model.hidden_dim, -1, decoder)
    decoder.adjustment = SiteAdjustment("encoder_out", adjustment, OF_MEMORY).train(model.training)
    model.transformer.decoder = decoder


def install_prompt(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the text features, (words, prompts, D), before anything attends to them."""
    (adjustment,) = adjustments(config, 1, model.hidden_dim, -1, model.backbone.language_backbone)
    extended_backbone(model).prompt_adjustment = PromptAdjustment("prompt", adjustment).train(model.training)


def encoder_layers(model: host.Sam3Image, config: HyperETConfig) -> tuple[int, ...]:
    """Indices of the chosen layers of the fusion encoder."""
    return chosen("layers", config.layers, len(model.transformer.encoder.layers), "layer of the fusion encoder")


def feed_forward_outputs(model: host.Sam3Image, config: HyperETConfig) -> list[str]:
    """The last linear layers of the chosen encoder layers."""
    return [f"transformer.encoder.layers.{i}.linear2" for i in encoder_layers(model, config)]


def last_feed_forward_output(model: host.Sam3Image, config: HyperETConfig) -> list[str]:
    """The last linear layer of the fusion encoder."""
    return [f"transformer.encoder.layers.{len(model.transformer.encoder.layers) - 1}.linear2"]

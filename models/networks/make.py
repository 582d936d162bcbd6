"""The module of a conditioner's config."""

from __future__ import annotations

from models.networks.conditioning import (
    ClassConfig,
    ClassEmbedder,
    Conditioner,
    ConditionerModule,
    LdmTextEncoder,
    RescalerConfig,
    SpatialRescaler,
    TextConfig,
    TextEncoder,
)


def make_conditioner(config: Conditioner) -> ConditionerModule:
    """Make the module, with torch's or transformers' initialisation."""
    if isinstance(config, ClassConfig):
        return ClassEmbedder(config)
    return SpatialRescaler(config) if isinstance(config, RescalerConfig) else _text_encoder(config)


def _text_encoder(config: TextConfig) -> TextEncoder:
    if config.kind == "ldm":
        return LdmTextEncoder(config)
    # Here, since transformers takes seconds to import: models without BERT or CLIP start without it.
    from models.networks.text_encoders import BertTextEncoder, ClipTextEncoder

    return BertTextEncoder(config) if config.kind == "bert" else ClipTextEncoder(config)

"""The module of a conditioner's config."""

from __future__ import annotations

from models.networks.conditioning import (
    ClassConfig,
    ClassEmbedder,
    Conditioner,
    ConditionerModule,
    LdmTower,
    RescalerConfig,
    SpatialRescaler,
    TextEncoder,
    TextTower,
    TowerConfig,
)


def make_conditioner(config: Conditioner) -> ConditionerModule:
    """Make the module, with torch's or transformers' initialisation."""
    if isinstance(config, ClassConfig):
        return ClassEmbedder(config)
    if isinstance(config, RescalerConfig):
        return SpatialRescaler(config)
    return TextEncoder(config, [_tower(tower) for tower in config.towers])


def _tower(config: TowerConfig) -> TextTower:
    if config.kind == "ldm":
        return LdmTower(config)
    # Here, since transformers takes seconds to import: models without BERT or CLIP start without it.
    from models.networks.text_encoders import BertTower, ClipTower

    return BertTower(config) if config.kind == "bert" else ClipTower(config)

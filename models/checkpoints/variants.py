"""Stable Diffusion distilled to few steps: told by names or schedulers, since neither keys nor shapes differ."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from models.networks.conditioning import TextConfig
from models.pipeline.config import ModelConfig
from models.schedule import Prediction, Spacing

STEPS = re.compile(r"(?<!\d)(\d{1,2})[ _-]?steps?(?![a-z])")


@dataclass(frozen=True, slots=True)
class Variant:
    """Defaults of a model that was distilled; it takes no guidance beyond 1.

    `samplers` are those it was made for, the best first: of those that there are the first becomes the card's.
    """

    name: str
    steps: int
    samplers: tuple[str, ...]
    spacing: Spacing | None = "trailing"
    latent_size: int | None = None
    prediction: Prediction | None = None
    told_by: str = "name"

    def note(self, sampler: str) -> str:
        """Tell people what was taken from the name or the scheduler."""
        lacking = "" if sampler == self.samplers[0] else f" ({self.samplers[0]}, which it was made for, is not there)"
        return (
            f"{self.name}, by its {self.told_by}: {self.steps} steps of {sampler}{lacking}, no guidance; "
            "what you set in card.json goes before it"
        )


HYPER, LCM = Variant("Hyper", 8, ("tcd", "ddim")), Variant("LCM", 4, ("lcm", "ddim"), spacing=None)
SAMPLERS = {"lcm": LCM, "tcd": HYPER}  # whose schedulers nobody gives a model that wasn't distilled for them
# Their words in names, as their authors and those who merge them write them.
VARIANTS: tuple[tuple[re.Pattern[str], Variant], ...] = (
    (re.compile(r"^sd[ _-]?xl[ _-]turbo"), Variant("Turbo", 4, ("euler_a", "euler"), latent_size=64)),
    (re.compile(r"lightning.*[ _-]x0(?![a-z0-9])"), Variant("Lightning", 1, ("euler",), prediction="x0")),
    (re.compile(r"lightning"), Variant("Lightning", 4, ("euler",))),
    (re.compile(r"hyper(?![ _-]?real)(?=[^a-z]|sd|xl|vae|$)"), HYPER),
    (re.compile(r"(?<![a-z])lcm(?![a-z])|lcm[ _-]?sd[ _-]?xl"), LCM),
    (re.compile(r"dmd2"), Variant("DMD2", 4, ("lcm", "ddim"), spacing=None)),
    (re.compile(r"turbo"), Variant("Turbo", 4, ("euler_a", "euler"))),
)


def folder_name(folder: Path) -> str:
    """Return what a model's folder is called: that of a snapshot in Hugging Face's cache as its repository is."""
    return folder.parents[1].name.rpartition("--")[2] if folder.parent.name == "snapshots" else folder.name


def variant_of(config: ModelConfig, names: Iterable[str], sampler: str | None = None) -> Variant | None:
    """Tell which distilled Stable Diffusion one of these names is of, or its scheduler's `sampler` for; None: none."""
    if not _may_be_distilled(config):
        return None
    for name in (name.lower() for name in names):
        found = next((variant for pattern, variant in VARIANTS if pattern.search(name)), None)
        if found is not None:
            steps = STEPS.search(name)
            return replace(found, steps=int(steps[1])) if steps is not None and int(steps[1]) else found
    by_sampler = SAMPLERS.get(sampler or "")
    return None if by_sampler is None else replace(by_sampler, told_by="scheduler")


def _may_be_distilled(config: ModelConfig) -> bool:
    """Tell whether it draws by CLIP's text; a UNet that reads its guidance has defaults of its own."""
    clip = isinstance(config.conditioner, TextConfig) and config.conditioner.kind == "clip"
    return clip and config.concat in (None, "mask-latent") and not config.refines and config.unet.guidance_dim is None


def as_variant(config: ModelConfig, variant: Variant | None, *, scheduled: bool) -> ModelConfig:
    """Apply what a variant fixes; `scheduled`: a scheduler's own file has said steps and prediction."""
    if variant is None:
        return config
    schedule = config.schedule
    if variant.spacing is not None and not scheduled:
        schedule = replace(schedule, spacing=variant.spacing, steps_offset=0)
    if variant.prediction is not None and not scheduled:
        schedule = replace(schedule, prediction=variant.prediction)
    return replace(config, schedule=schedule, latent_size=variant.latent_size or config.latent_size)

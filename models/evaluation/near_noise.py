"""What a text tells a network where a latent is nearly nothing but noise, which is where sampling decides on shapes.

Losses over all timesteps hide it: most of what they weigh is told by z_t itself, whatever the text says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import repeat
from torch import Tensor

from models.evaluation.figures import Figure, figures_of
from models.inputs import Inputs
from models.pipeline.pipeline import LatentDiffusion
from models.samplers.noise import noise
from models.samplers.table import x0_form
from models.schedule import NoiseLevel
from models.training.data.loader import as_bytes, floats
from models.training.diffusion.show import AT_ONCE

WHERE = 0.95  # of the timesteps; there ᾱ is 0.007 in Stable Diffusion's schedule, 0.002 with zero terminal SNR


@torch.no_grad()
def near_noise(
    model: LatentDiffusion, part: str, pictures: Tensor, prompts: Sequence[str], seed: int
) -> tuple[list[Figure], Tensor]:
    """Measure the error in x0 with pictures' own texts and with none; return what is predicted with them, too.

    pictures: b 3 H W, uint8 or in [−1, 1], and uint8 where predicted; `prompts`: b texts; an inpainting model has
    everything masked. Errors are squares of scaled latents, so that they compare among checkpoints of one first stage.
    What the text explains, 1 − with / without, has no unit. Each latent has noise of its own, the same with its text
    and without.
    """
    timestep = int(len(model.schedule.alphas_cumprod) * WHERE)
    level = NoiseLevel.of(float(model.schedule.alphas_cumprod[timestep]))
    shown, errors = list[Tensor](), torch.zeros(2)
    for first in range(0, len(pictures), AT_ONCE):
        chosen = slice(first, first + AT_ONCE)
        x0 = model.encode_images(floats(pictures[chosen])).float()
        drawn = [noise(seed + first + k, "near noise", 0, x0.shape[1:]) for k in range(len(x0))]
        z_t = level.alpha * x0 + level.sigma * torch.stack(drawn).to(x0.device)
        told, untold = (_x0(model, z_t, timestep, level, texts) for texts in (prompts[chosen], [""] * len(x0)))
        errors += torch.stack([(x - x0).square().mean((1, 2, 3)).sum().cpu() for x in (told, untold)])
        shown.append(as_bytes(model.decode(told)).cpu())
    with_text, without = (errors / len(pictures)).tolist()
    values = {
        f"error at timestep {timestep}, with the text": with_text,
        f"error at timestep {timestep}, without": without,
        "explained by the text": 1 - with_text / without,
    }
    return figures_of(part, values, len(pictures)), torch.cat(shown)


def _x0(model: LatentDiffusion, z_t: Tensor, timestep: int, level: NoiseLevel, prompts: Sequence[str]) -> Tensor:
    concat = None
    if model.config.concat is not None:
        concat = repeat(model.blank_concat(*z_t.shape[2:]), "1 k h w -> b k h w", b=len(z_t))
    inputs = Inputs(context=model.encode_prompts(prompts).context, concat=concat)
    predicted = model.predict(z_t, torch.full((len(z_t),), timestep, device=z_t.device), inputs)
    out, z = x0_form(model.config.schedule.prediction, level)
    return out * predicted + z * z_t

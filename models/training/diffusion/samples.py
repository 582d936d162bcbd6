"""Samples of stage 2 as functions of their numbers: latent, timestep, noise, and what they are conditioned on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from models.networks.conditioning import ClassConfig
from models.pipeline.pipeline import LatentDiffusion
from models.training.configs.diffusion import Conditioned, LatentRun, UpscalerRun
from models.training.data.folder import Folder
from models.training.data.order import Order
from models.training.diffusion.cache import Cache
from models.training.loop.draws import generator, normals, uniform, uniforms


class Samples:
    """Sample numbers → the tensors of a micro-batch, on the CPU."""

    def __init__(
        self,
        run: LatentRun,
        folder: Folder,
        cache: Cache,
        order: Order,
        model: LatentDiffusion,
        texts: NDArray[Any] | None,
        blank: Tensor | None,
    ) -> None:
        self.run, self.folder, self.cache, self.order = run, folder, cache, order
        self.model, self.texts, self.blank = model, texts, blank
        self.seed = run.seed

    def batch(self, numbers: Sequence[int], step: int) -> dict[str, Tensor]:
        """Return `x0`, `noise`, `timesteps` and what the network is given beside z_t."""
        items = [self.order.index(n) for n in numbers]
        entries = [self._entry(item, n) for item, n in zip(items, numbers, strict=True)]
        x0 = self.cache.rows("latent", entries)  # b c h w
        given = {**self._concat(numbers, entries), **self._condition(numbers, entries, items)}
        x0, given = self._cropped(x0, given, step)
        steps = self.model.config.schedule.timesteps
        timesteps = (uniforms(self.seed, "timestep", numbers) * steps).long()
        return {"x0": x0, "noise": normals(self.seed, "noise", numbers, x0.shape[1:]), "timesteps": timesteps, **given}

    def _entry(self, item: int, number: int) -> int:
        return item * self.cache.variants + int(uniform(self.seed, "variant", number) * self.cache.variants)

    def _concat(self, numbers: Sequence[int], entries: Sequence[int]) -> dict[str, Tensor]:
        if "map" in self.cache.arrays:
            return {"map": self.cache.rows("map", entries)}
        if "concat" not in self.cache.arrays:
            return {}
        concat = self.cache.rows("concat", entries)  # b k h w
        if isinstance(self.run, UpscalerRun):
            return {"concat": self._noisy(concat, numbers, self.run)}
        if self.blank is not None and isinstance(self.run, Conditioned):
            whole = uniforms(self.seed, "whole", numbers) < self.run.full_mask
            concat = torch.where(whole[:, None, None, None], self.blank, concat)
        return {"concat": concat}

    def _noisy(self, concat: Tensor, numbers: Sequence[int], run: UpscalerRun) -> Tensor:
        """Add noise to some of the small pictures: those of users aren't reduced as cleanly."""
        spread = uniforms(self.seed, "spread", numbers) * run.low_res_noise
        spread = torch.where(uniforms(self.seed, "noisy", numbers) < run.noisy, spread, 0.0).float()
        drawn = normals(self.seed, "low-res", numbers, concat.shape[1:])
        return (concat + spread[:, None, None, None] * drawn).clamp(-1, 1)

    def _condition(self, numbers: Sequence[int], entries: Sequence[int], items: Sequence[int]) -> dict[str, Tensor]:
        config, drop = self.model.config.conditioner, self.run.drop if isinstance(self.run, Conditioned) else 0.0
        dropped = [uniform(self.seed, "drop", n) < drop for n in numbers]
        if isinstance(config, ClassConfig):
            return {"labels": torch.tensor([
                config.classes - 1 if gone else self.folder.label(item)
                for item, gone in zip(items, dropped, strict=True)
            ])}  # fmt: skip
        if not self.model.tokenizers:
            return {}
        texts = [None if gone else self._text(e, n) for e, n, gone in zip(entries, numbers, dropped, strict=True)]
        if self.texts is not None:
            rows = self.texts[[len(self.texts) - 1 if text is None else text for text in texts]]
            return {"context": torch.from_numpy(rows).float()}
        ids, mask = self.model.tokenizers[0](["" if text is None else self.cache.texts[text] for text in texts])
        return {"ids": ids, "mask": mask}

    def _text(self, entry: int, number: int) -> int | None:
        """Choose one of the texts that are true of an entry; none where it has none (two things without names)."""
        captions = self.cache.captions[entry]
        return captions[int(uniform(self.seed, "caption", number) * len(captions))] if captions else None

    def _cropped(self, x0: Tensor, given: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Cut the same square out of latents and small pictures of a step."""
        if not isinstance(self.run, UpscalerRun) or not self.run.crops:
            return x0, given
        rng = generator(self.seed, "crop", step)
        size = int(rng.choice(self.run.crops))
        top, left = (int(v) for v in rng.integers(x0.shape[-1] - size + 1, size=2))
        cut = (..., slice(top, top + size), slice(left, left + size))
        return x0[cut], given | {"concat": given["concat"][cut]}

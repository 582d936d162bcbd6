"""Finished latents on their way to pixels, in chunks of one size; one at a time where strict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.claim_policy import CHUNK
from workers.engine.engine_job import EngineJob
from workers.engine.pictures import PREVIEW_SIDE


@dataclass(frozen=True, slots=True)
class Undecoded:
    """Image `index` of a job, denoised."""

    job: EngineJob
    index: int

    @property
    def group(self) -> tuple[str, tuple[int, int, int]]:
        """What pictures of a chunk have in common: model and latent shape."""
        return self.job.blue.model.id, self.job.blue.latent_shape


@dataclass(slots=True)
class Decoder:
    """Images that wait for decoding, oldest first, and the chunk sizes learned."""

    queue: list[Undecoded] = field(default_factory=list)
    ceilings: dict[tuple[str, tuple[int, int, int]], int] = field(default_factory=dict)

    def waits(self, alone: EngineJob | None) -> bool:
        """Whether there is anything to decode, of that job where one is given."""
        return any(alone in (None, item.job) for item in self.queue)

    def count(self, model: str) -> int:
        return sum(item.job.blue.model.id == model for item in self.queue)

    def add(self, job: EngineJob, index: int) -> None:
        self.queue.append(Undecoded(job, index))

    def drop(self, job: EngineJob) -> None:
        self.queue = [item for item in self.queue if item.job is not job]

    def next_chunk(self, alone: EngineJob | None) -> list[Undecoded]:
        """Take the oldest image out, and those that can be decoded with it; of one job where it runs alone."""
        queue = [item for item in self.queue if alone in (None, item.job)]
        first = queue[0]
        limit = 1 if first.job.strict else self.ceilings.get(first.group, CHUNK)
        peers = [item for item in queue[1:] if item.group == first.group and not item.job.strict]
        chunk = [first, *peers[: limit - 1]]
        self.queue = [item for item in self.queue if item not in chunk]
        return chunk

    def put_back(self, chunk: Sequence[Undecoded]) -> None:
        """After a chunk that ran out of memory: half of it is the most from now on."""
        self.ceilings[chunk[0].group] = max(1, len(chunk) // 2)
        self.queue = [*chunk, *self.queue]

    @torch.inference_mode()
    def decode(self, chunk: Sequence[Undecoded]) -> Tensor:
        """b 3 H W of the chunk's latents."""
        z = torch.stack([item.job.pictures[item.index].z_t for item in chunk])  # b c h w
        return chunk[0].job.blue.model.decode(z).float()

    @torch.inference_mode()
    def glance(self, job: EngineJob, x0: Tensor) -> Tensor:
        """A picture 3 h w of at most preview size, of the predicted x0 c h w; large latents are averaged first."""
        longest = max(x0.shape[1:]) * job.blue.model.latent_factor
        z = F.avg_pool2d(x0[None], max(1, longest // PREVIEW_SIDE), ceil_mode=True)  # 1 c h w
        return job.blue.model.decode(z).float()[0]

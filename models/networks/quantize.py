"""The codebook of a VQ first stage."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from models.networks.blocks import Embedding

CHUNK = 4096  # vectors compared with the codebook at a time; bounds the distance matrix to CHUNK × entries


class Quantizer(nn.Module):
    """Nearest codebook entry by Euclidean distance (VQGAN; paper App. G)."""

    def __init__(self, entries: int, dim: int) -> None:
        super().__init__()
        self.embedding = Embedding(entries, dim)

    def indices(self, z: Tensor) -> Tensor:
        """Return entry numbers b h w of z (b d h w)."""
        b, _, h, _ = z.shape
        numbers = nearest(rearrange(z, "b d h w -> (b h w) d"), self.embedding.weight)
        return rearrange(numbers, "(b h w) -> b h w", b=b, h=h)

    def forward(self, z: Tensor) -> Tensor:
        codes: Tensor = self.embedding(self.indices(z))
        return rearrange(codes, "b h w d -> b d h w")


def nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return which of codes k d each vector n d is nearest to, n."""
    # In float32, for half precision takes neighbours for each other.
    vectors, codes = vectors.float(), codes.float()
    norms = codes.square().sum(dim=1)  # k
    with torch.autocast(vectors.device.type, enabled=False):  # which would multiply in half precision all the same
        parts = [torch.addmm(norms, part, codes.T, alpha=-2).argmin(dim=1) for part in torch.split(vectors, CHUNK)]
    return torch.cat(parts)

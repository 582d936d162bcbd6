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
        # In float32, for half precision takes neighbours for each other.
        vectors = rearrange(z.float(), "b d h w -> (b h w) d")
        codes = self.embedding.weight.float()  # n d
        norms = codes.square().sum(dim=1)  # n
        with torch.autocast(z.device.type, enabled=False):  # which would multiply in half precision all the same
            nearest = [
                torch.addmm(norms, vectors[i : i + CHUNK], codes.T, alpha=-2).argmin(dim=1)
                for i in range(0, len(vectors), CHUNK)
            ]
        return rearrange(torch.cat(nearest), "(b h w) -> b h w", b=b, h=h)

    def forward(self, z: Tensor) -> Tensor:
        codes: Tensor = self.embedding(self.indices(z))
        return rearrange(codes, "b h w d -> b d h w")

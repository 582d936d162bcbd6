"""Codebooks that don't collapse: filled by k-means, dead codes moved to where latents are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor, nn

from models.networks.autoencoder import Autoencoder
from models.networks.quantize import nearest
from models.training.loop.draws import generator

PICTURES = 1000  # whose latents k-means sees; more where so many have too few


def vectors_of(latents: Iterable[tuple[int, Tensor]], pictures: int, wanted: int, seed: int) -> Tensor:
    """Choose `wanted` vectors n d, or all there are, of latents 1 d h w, which come with their sample numbers.

    Each of `pictures` gives as many, so that no code is of the first few alone.
    """
    each = -(-wanted // min(pictures, PICTURES))
    chosen, count = list[Tensor](), 0
    for number, z in latents:
        vectors = flat(z)
        drawn = generator(seed, "codes", number).permutation(len(vectors))[:each]
        chosen.append(vectors[torch.from_numpy(drawn).to(vectors.device)])
        count += len(chosen[-1])
        if count >= wanted:
            break
    return torch.cat(chosen)[:wanted]


@torch.no_grad()
def standardise(network: Autoencoder, vectors: Tensor) -> Tensor:
    """Make latents of mean 0 and deviation 1, decoded to the same. Returns the vectors n d as they are then.

    Euclidean distance sees all channels alike only if they spread alike.
    """
    mean, std = vectors.mean(0), vectors.std(0).clamp(min=1e-6)
    into, out = network.quant_conv, network.post_quant_conv
    assert isinstance(into, nn.Conv2d)
    assert isinstance(out, nn.Conv2d)
    assert into.bias is not None
    assert out.bias is not None
    into.weight.div_(std[:, None, None, None])
    into.bias.copy_((into.bias - mean) / std)
    out.bias.add_(torch.einsum("o i y x, i -> o", out.weight, mean))
    out.weight.mul_(std[None, :, None, None])
    return (vectors - mean) / std


@torch.no_grad()
def k_means(vectors: Tensor, entries: int, rounds: int, seed: int) -> Tensor:
    """Return `entries` centres of vectors n d; a centre that nothing is nearest to moves to a vector."""
    chance = torch.Generator().manual_seed(seed)
    centres = vectors[_choice(len(vectors), entries, chance).to(vectors.device)]
    for _ in range(rounds):
        numbers = nearest(vectors, centres)  # n
        counts = torch.bincount(numbers, minlength=entries).float()
        sums = torch.zeros_like(centres).index_add_(0, numbers, vectors)
        spare = vectors[_choice(len(vectors), entries, chance).to(vectors.device)]
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), spare)
    return centres


def flat(z: Tensor) -> Tensor:
    """Return latents b d h w as vectors n d."""
    return rearrange(z.detach().float(), "b d h w -> (b h w) d")


class CodeUse(nn.Module):
    """Whether the codebook is filled, for how many steps each code was idle, and the moving of idle ones."""

    filled: Tensor
    idle: Tensor

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.register_buffer("filled", torch.zeros((), dtype=torch.bool))
        self.register_buffer("idle", torch.zeros(entries, dtype=torch.int64))

    @torch.no_grad()
    def restart(self, codes: list[Tensor], vectors: Tensor, after: int, seed: int) -> int:
        """Move codes that were idle for `after` steps to some of `vectors` n d. Returns how many.

        codes: the codebook k d, and its average.
        """
        dead = (self.idle >= after).nonzero()[:, 0]
        if len(dead):
            chosen = vectors[_choice(len(vectors), len(dead), torch.Generator().manual_seed(seed)).to(vectors.device)]
            for table in codes:
                table[dead] = chosen.to(table.dtype)
            self.idle[dead] = 0
        return len(dead)

    @torch.no_grad()
    def note(self, counts: Tensor) -> None:
        """Note how often each code was used in a step, k."""
        self.idle.copy_(torch.where(counts > 0, 0, self.idle + 1))


def _choice(count: int, wanted: int, chance: torch.Generator) -> Tensor:
    """Choose numbers below `count`, each once if there are enough."""
    if wanted <= count:
        return torch.randperm(count, generator=chance)[:wanted]
    return torch.randint(count, (wanted,), generator=chance)

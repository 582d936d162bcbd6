"""First stages over large pictures, tile by tile and yet exact: what a convolution sees is cut, statistics are not.

Every layer is computed for all tiles before the next one starts. Convolutions read one pixel beyond their tile,
GroupNorm's mean and variance and the attention of the lowest resolution span the whole picture, so that no seam can
arise. What tiling saves is memory: at any time there are two or three feature maps and one tile's intermediates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.autoencoder import Autoencoder, AutoencoderLevel, AutoencoderMiddle, Decoder, Encoder
from models.networks.blocks import Downsample, ResBlock, Upsample, group_affine

Prepare = Callable[[Tensor], Tensor]
Span = tuple[int, int]


def encode_tiled(first_stage: Autoencoder, x: Tensor, tile: int, noise: Tensor | None = None) -> Tensor:
    """Compute `first_stage.encode(x, noise)` up to rounding: b d h w of x (b 3 H W), `tile` pixels a side at most."""
    return first_stage.latent(_encoder(first_stage.encoder, x, tile), noise)


def decode_tiled(first_stage: Autoencoder, z: Tensor, tile: int) -> Tensor:
    """Compute `first_stage.decode(z)` up to rounding: b 3 H W of z (b d h w), tiles of at most `tile` pixels a side."""
    return _decoder(first_stage.decoder, first_stage.prepared(z), tile)


def _encoder(encoder: Encoder, x: Tensor, tile: int) -> Tensor:
    h = _convolved(encoder.conv_in, x, tile)
    for level in encoder.down_blocks:
        assert isinstance(level, AutoencoderLevel)
        h = _level(level, h, tile)
    h = _middle(encoder.mid_block, h, tile)
    return _convolved(encoder.conv_out, h, tile, _normed(encoder.conv_norm_out, h))


def _decoder(decoder: Decoder, z: Tensor, tile: int) -> Tensor:
    h = _middle(decoder.mid_block, _convolved(decoder.conv_in, z, tile), tile)
    for level in decoder.up_blocks:
        assert isinstance(level, AutoencoderLevel)
        h = _level(level, h, tile)
    return _convolved(decoder.conv_out, h, tile, _normed(decoder.conv_norm_out, h))


def _level(level: AutoencoderLevel, h: Tensor, tile: int) -> Tensor:
    for i, block in enumerate(level.resnets):
        assert isinstance(block, ResBlock)
        h = _res_block(block, h, tile)
        h = level.attentions[i](h) if len(level.attentions) else h
    for down in level.downsamplers:
        assert isinstance(down, Downsample)
        h = _downsampled(down, h, tile)
    for up in level.upsamplers:
        assert isinstance(up, Upsample)
        h = _upsampled(up, h, tile)
    return h


def _middle(middle: AutoencoderMiddle, h: Tensor, tile: int) -> Tensor:
    first, second = middle.resnets
    assert isinstance(first, ResBlock)
    assert isinstance(second, ResBlock)
    h = _res_block(first, h, tile)
    for attention in middle.attentions:
        h = attention(h)
    return _res_block(second, h, tile)


def _res_block(block: ResBlock, x: Tensor, tile: int) -> Tensor:
    """Add the residual into x where it has the width of the result; nothing else reads x then."""
    h = _convolved(block.conv1, x, tile, _normed(block.norm1, x))
    prepare = _normed(block.norm2, h)
    out = x if isinstance(block.conv_shortcut, nn.Identity) else _empty(h, block.conv2.out_channels, h.shape[2:])
    for rows, columns in _tiles(h.shape[2], h.shape[3], tile):
        part = (..., slice(*rows), slice(*columns))
        residual = _valid(block.conv2, _slab(h, rows, columns, prepare))
        out[part] = block.conv_shortcut(x[part]) + residual
    return out


def _convolved(conv: nn.Conv2d, x: Tensor, tile: int, prepare: Prepare | None = None) -> Tensor:
    """Apply a 3×3 convolution of stride 1 to `prepare(x)`."""
    out = _empty(x, conv.out_channels, x.shape[2:])
    for rows, columns in _tiles(x.shape[2], x.shape[3], tile):
        out[..., slice(*rows), slice(*columns)] = _valid(conv, _slab(x, rows, columns, prepare))
    return out


def _downsampled(down: Downsample, x: Tensor, tile: int) -> Tensor:
    """Halve: output row r reads input rows 2r … 2r + 2, the last of which may be the padding."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    out = _empty(x, down.conv.out_channels, (height, width))
    for (top, bottom), (left, right) in _tiles(height, width, tile):
        slab = x[..., 2 * top : 2 * bottom + 1, 2 * left : 2 * right + 1]
        missing = (0, 2 * (right - left) + 1 - slab.shape[3], 0, 2 * (bottom - top) + 1 - slab.shape[2])
        out[..., top:bottom, left:right] = _valid(down.conv, F.pad(slab, missing))
    return out


def _upsampled(up: Upsample, x: Tensor, tile: int) -> Tensor:
    """Double and convolve, tiles cut in the input: the doubled map as a whole is never made."""
    out = _empty(x, up.conv.out_channels, (2 * x.shape[2], 2 * x.shape[3]))
    for (top, bottom), (left, right) in _tiles(x.shape[2], x.shape[3], max(tile // 2, 1)):
        slab = F.interpolate(_slab(x, (top, bottom), (left, right)), scale_factor=2.0, mode="nearest")
        # One doubled pixel of halo is one too many on every side.
        out[..., 2 * top : 2 * bottom, 2 * left : 2 * right] = _valid(up.conv, slab[..., 1:-1, 1:-1])
    return out


def _valid(conv: nn.Conv2d, slab: Tensor) -> Tensor:
    """Convolve without padding: the slab brings its surroundings."""
    return F.conv2d(slab, conv.weight, conv.bias, conv.stride)


def _slab(x: Tensor, rows: Span, columns: Span, prepare: Prepare | None = None) -> Tensor:
    """Cut a tile with one pixel of surroundings, zeros beyond the picture as a padded convolution sees them."""
    (top, bottom), (left, right) = rows, columns
    height, width = x.shape[2], x.shape[3]
    inner = x[..., max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]
    inner = inner if prepare is None else prepare(inner)
    return F.pad(inner, (int(left == 0), int(right == width), int(top == 0), int(bottom == height)))


def _normed(norm: nn.GroupNorm, x: Tensor) -> Prepare:
    """Return SiLU(GroupNorm(·)) with the statistics of all of x, as a map of tiles."""
    slope, offset = group_affine(norm, x)
    return lambda part: F.silu(torch.addcmul(offset, part, slope), inplace=True)


def _empty(like: Tensor, channels: int, size: tuple[int, ...]) -> Tensor:
    shape = (like.shape[0], channels, *size)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _tiles(height: int, width: int, tile: int) -> Iterator[tuple[Span, Span]]:
    """Yield spans of rows and columns, as equal as they can be, none longer than `tile`."""
    for rows in _spans(height, tile):
        for columns in _spans(width, tile):
            yield rows, columns


def _spans(length: int, tile: int) -> list[Span]:
    count = -(-length // tile)
    edges = [length * i // count for i in range(count + 1)]
    return list(pairwise(edges))

"""Inception-v3 as FID has it (Heusel et al. 2017): the TensorFlow network of 2015 with its 2048 pooled features.

It differs from the later one in its average pools, which don't count padding, in a max pool in the last block, and in
1008 classes. Weights are those that pytorch-fid and torch-fidelity publish; theirs are the keys.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import ConfigurationError
from models.checkpoints.layouts.compvis.single_file import read_single

SIDE = 299
CLASSES = 1008
NORM_EPS = 1e-3


class Inception(nn.Module):
    """Pictures b 3 H W in [−1, 1] → features b 2048."""

    name = "Inception-v3 (FID's)"

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = ReductionB(288)
        self.Mixed_6b = BlockC(128)
        self.Mixed_6c = BlockC(160)
        self.Mixed_6d = BlockC(160)
        self.Mixed_6e = BlockC(192)
        self.Mixed_7a = ReductionD(768)
        self.Mixed_7b = BlockE(1280, "average")
        self.Mixed_7c = BlockE(2048, "max")
        self.fc = nn.Linear(2048, CLASSES)  # unused: the weights have it

    def forward(self, x: Tensor) -> Tensor:
        x = as_tensorflow_resizes((x + 1) * 127.5)  # b 3 299 299
        x = (x - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # b 64 147 147
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))  # b 192 71 71
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))  # b 288 35 35
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # b 768 17 17
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # b 2048 8 8
        return x.mean(dim=(2, 3))


class Conv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self, a: int, b: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(a, b, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(b, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _along(a: int, b: int) -> Conv:
    return Conv(a, b, (1, 7), padding=(0, 3))


def _down(a: int, b: int) -> Conv:
    return Conv(a, b, (7, 1), padding=(3, 0))


class BlockA(nn.Module):
    def __init__(self, a: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(a, 64, 1)
        self.branch5x5_1 = Conv(a, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Conv(a, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(a, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_averaged(x))], dim=1)


class ReductionB(nn.Module):
    def __init__(self, a: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(a, 384, 3, stride=2)
        self.branch3x3dbl_1 = Conv(a, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], dim=1)


class BlockC(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(768, 192, 1)
        self.branch7x7_1 = Conv(768, c, 1)
        self.branch7x7_2 = _along(c, c)
        self.branch7x7_3 = _down(c, 192)
        self.branch7x7dbl_1 = Conv(768, c, 1)
        self.branch7x7dbl_2 = _down(c, c)
        self.branch7x7dbl_3 = _along(c, c)
        self.branch7x7dbl_4 = _down(c, c)
        self.branch7x7dbl_5 = _along(c, 192)
        self.branch_pool = Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(_averaged(x))], dim=1)


class ReductionD(nn.Module):
    def __init__(self, a: int) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(a, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Conv(a, 192, 1)
        self.branch7x7x3_2 = _along(192, 192)
        self.branch7x7x3_3 = _down(192, 192)
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], dim=1)


class BlockE(nn.Module):
    def __init__(self, a: int, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Conv(a, 320, 1)
        self.branch3x3_1 = Conv(a, 384, 1)
        self.branch3x3_2a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Conv(a, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Conv(a, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _averaged(x) if self.pool == "average" else F.max_pool2d(x, 3, 1, 1)
        split = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        split += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return torch.cat([self.branch1x1(x), *split, self.branch_pool(pooled)], dim=1)


def _averaged(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def as_tensorflow_resizes(x: Tensor) -> Tensor:
    """Resize pictures b c H W bilinearly to 299 as TensorFlow 1 did: corners at 0, no half pixels, no antialiasing."""
    for dim in (2, 3):
        size = x.shape[dim]
        at = torch.arange(SIDE, device=x.device, dtype=torch.float32) * (size / SIDE)
        low = at.floor().long()
        share = (at - low).view(-1, *(1,) * (3 - dim))
        high = (low + 1).clamp(max=size - 1)
        x = torch.lerp(x.index_select(dim, low), x.index_select(dim, high), share.expand_as(x.index_select(dim, low)))
    return x


def load_inception(file: Path) -> Inception:
    """Read FID's Inception weights, as pytorch-fid and torch-fidelity publish them.

    Raises:
        ConfigurationError: the file holds another network.
    """
    state = {key: value for key, value in read_single(file).state.items() if not key.endswith("num_batches_tracked")}
    with torch.device("meta"):
        network = Inception()
    wanted = {k: v.shape for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    wrong = next((key for key in sorted(wanted.keys() | state.keys()) if key not in state or key not in wanted), None)
    wrong = wrong or next((key for key in wanted if state[key].shape != wanted[key]), None)
    if wrong is not None:
        raise ConfigurationError(f"{file}: {wrong} doesn't fit FID's Inception-v3", field="inception", value=str(file))
    network = Inception()
    network.load_state_dict(state, strict=False)
    return network.float().eval().requires_grad_(False)

"""Measures against closed forms, scikit-image and cases that can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from core.errors import ConfigurationError
from models.evaluation.distributions import distances, precision_recall
from models.evaluation.masks import KINDS, LARGEST, draw_masks
from models.evaluation.networks import Embedder
from models.evaluation.paired import paired, psnr, ssim
from models.features.classifier import Classifier, ClassifierConfig
from models.training.data.loader import as_bytes, centred
from tests.tensors import Largest


def test_psnr_is_that_of_the_squared_error() -> None:
    """An error of 0.2 everywhere, of a range of 2: 20 dB."""
    x = torch.zeros(2, 3, 16, 16)
    assert psnr(x + 0.2, x, torch.ones(2, 1, 16, 16)).tolist() == pytest.approx([20.0, 20.0])


def test_ssim_is_scikit_images_with_a_gaussian_window() -> None:
    """Of values in [0, 1]. The library leaves a border of five pixels out of its mean; so does the weight here."""
    rng = np.random.default_rng(0)
    real = rng.uniform(0, 1, (40, 48, 3))
    made = (real + rng.normal(0, 0.15, real.shape)).clip(0, 1)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = structural_similarity(made, real, data_range=1, channel_axis=2, **options)  # type: ignore[no-untyped-call]
    weights = torch.zeros(1, 1, 40, 48)
    weights[..., 5:-5, 5:-5] = 1
    a, b = (torch.from_numpy(2 * x - 1).movedim(-1, 0)[None].float() for x in (made, real))
    assert float(ssim(a, b, weights)) == pytest.approx(theirs, abs=2e-4)


def test_greys_on_both_sides_of_the_middle_are_alike_to_ssim() -> None:
    """0.55 against 0.45 of [0, 1], everywhere or inside a mask: (2·0.55·0.45 + c) / (0.55² + 0.45² + c), c = 0.01²."""
    made, real, mask = torch.full((1, 3, 32, 32), 0.1), torch.full((1, 3, 32, 32), -0.1), torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    expected = (2 * 0.55 * 0.45 + 1e-4) / (0.55**2 + 0.45**2 + 1e-4)
    for where in (None, mask):
        assert paired(made, real, mask=where)["SSIM"] == pytest.approx(expected, abs=1e-3)


def test_what_differs_outside_masks_counts_for_nothing_inside() -> None:
    real, mask = torch.zeros(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    mask[0, :, 8:24, 8:24] = 1  # the second has none and isn't counted
    made = real.clone()
    made[:, :, :2, :2] = 1.0
    assert paired(made, real, mask=mask)["PSNR (dB)"] > 100
    made[:, :, 10:12, 10:12] = 1.0  # 4 of 256 pixels, error 1
    assert paired(made, real, mask=mask)["PSNR (dB)"] == pytest.approx(10 * math.log10(4 / (4 / 256)), abs=1e-4)


def test_no_more_pictures_are_floats_at_once_than_a_part_has() -> None:
    """The largest tensor is the same whether a set has one part of pictures or four."""
    network = Classifier(ClassifierConfig(3, width=8)).requires_grad_(False)
    embedder = Embedder("", "", "", lambda x: x.mean((2, 3)))
    pictures, asked = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8), dict[int, list[int]]()
    for count in (16, 64):
        for measure in (lambda x: paired(x, x.flip(3), network), embedder):
            with Largest() as largest:
                measure(pictures[:count])
            asked.setdefault(count, []).append(largest.bytes)
    assert asked[16] == asked[64]


def test_bytes_are_measured_as_the_floats_that_they_stand_for() -> None:
    made, real = (torch.randint(256, (9, 3, 32, 32), dtype=torch.uint8) for _ in range(2))
    assert paired(made, real) == paired(centred(made), centred(real))
    assert torch.equal(as_bytes(centred(made)), made)


def test_pairs_carry_the_networks_distance() -> None:
    network = Classifier(ClassifierConfig(3, width=8)).requires_grad_(False)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    same, other = paired(x, x, network), paired(-x, x, network)
    assert same["perceptual distance"] == 0 < other["perceptual distance"]
    assert same["SSIM"] == pytest.approx(1)
    assert other["SSIM"] < 0.9


def gaussian(mean: list[float], deviation: list[float], count: int = 64) -> torch.Tensor:
    """Points whose sample mean and covariance are exactly these."""
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(count, len(mean))))
    x = x - x.mean(0)
    whitened = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)
    scaled: torch.Tensor = whitened * torch.tensor(deviation) + torch.tensor(mean)
    return scaled


def test_the_frechet_distance_of_gaussians_is_their_closed_form() -> None:
    """|μ₁ − μ₂|² + Σ (σ₁ − σ₂)², where covariances are diagonal."""
    a, b = gaussian([0.0, 0.0, 1.0], [1.0, 2.0, 0.5]), gaussian([1.0, 0.0, 3.0], [2.0, 2.0, 1.5])
    assert distances(a, b, 0)[0] == pytest.approx((1 + 4) + (1 + 0 + 1), rel=1e-5)
    assert distances(a, a, 0)[0] == pytest.approx(0, abs=1e-5)


def test_the_kernel_distance_is_the_unbiased_estimate() -> None:
    """Written out: the mean of k(x, y) = (x·y / d + 1)³ over pairs of different pictures, thrice."""
    a, b = gaussian([0.0, 0.0], [1.0, 1.0], 8), gaussian([1.0, 0.0], [1.0, 2.0], 8)

    def k(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / 2 + 1) ** 3

    off = 1 - torch.eye(8, dtype=torch.float64)
    expected = (k(a, a) * off).sum() / 56 + (k(b, b) * off).sum() / 56 - 2 * k(a, b).mean()
    assert distances(a, b, 0)[1] == pytest.approx(float(expected))


def test_subsets_of_the_kernel_distance_are_the_seeds() -> None:
    a, b = gaussian([0.0, 0.0], [1.0, 1.0], 12), gaussian([1.0, 0.0], [1.0, 2.0], 8)
    assert distances(a, b, 3) == distances(a, b, 3) != distances(a, b, 4)


def test_precision_and_recall_of_points_on_a_line() -> None:
    """Radii of third neighbours are 3 at the ends and 2 within; the made points cover one end of the real ones."""
    real = torch.arange(10.0)[:, None]
    made = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 100.0])[:, None]  # radii 3, 2, 2, 2, 3, 98
    precision, recall = precision_recall(made[:5], real)
    assert (precision, recall) == (1.0, 0.8)  # 8 and 9 are further than 3 from 4
    assert precision_recall(made, real)[0] == pytest.approx(5 / 6)
    assert precision_recall(real + 1000, real) == (0.0, 0.0)


def test_too_few_pictures_are_refused_by_number() -> None:
    with pytest.raises(ConfigurationError, match=r"4 pictures are compared with 9; distances need 5"):
        distances(torch.rand(4, 2), torch.rand(9, 2), 0)


def test_masks_grow_from_thin_strokes_to_thick_ones() -> None:
    """By the share of masked pixels that a step in any direction leaves masked."""
    inner = []
    for kind in KINDS:
        masks = draw_masks(kind, 128, 24, seed=5)
        assert masks.shape == (24, 1, 128, 128)
        assert set(masks.flatten().tolist()) == {0.0, 1.0}
        shares = masks.mean((1, 2, 3))
        assert float(shares.min()) > 0
        assert float(shares.max()) <= LARGEST
        eroded = -torch.nn.functional.max_pool2d(-masks, 9, stride=1, padding=4)
        inner.append(float(eroded.sum() / masks.sum()))
    assert inner == sorted(inner)
    assert inner[0] < 0.5 * inner[2]


def test_a_mask_is_a_function_of_seed_and_number() -> None:
    first = draw_masks("medium", 64, 6, seed=1)
    assert torch.equal(first[:3], draw_masks("medium", 64, 3, seed=1))
    assert not torch.equal(first, draw_masks("medium", 64, 6, seed=2))

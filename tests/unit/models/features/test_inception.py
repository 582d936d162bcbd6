"""FID's Inception-v3: the features that torch-fidelity's network gives with the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.errors import ConfigurationError
from models.features.inception import Inception, as_tensorflow_resizes, load_inception

# Of torch-fidelity 0.4.0's FeatureExtractorInceptionV3 with the weights and picture below.
FIRST, MEAN, DEVIATION = (0.043761, 0.5314, 0.0, 0.095993), 0.231513, 0.305892


def drawn_weights() -> dict[str, torch.Tensor]:
    """Weights that keep the variance, the same in every version of numpy and torch."""
    rng = np.random.RandomState(0)
    state = {}
    for key, value in Inception().state_dict().items():
        if value.ndim == 4:
            drawn = rng.standard_normal(value.shape) * (2 / value[0].numel()) ** 0.5
            state[key] = torch.from_numpy(drawn.astype(np.float32))
        elif key.endswith("running_mean"):
            state[key] = torch.full_like(value, 0.05)
        else:
            state[key] = value.clone() if value.ndim == 1 else torch.zeros_like(value)
    return state


def picture() -> torch.Tensor:
    """A picture 1 3 40 56 in whole numbers, uint8."""
    y, x = torch.meshgrid(torch.arange(40), torch.arange(56), indexing="ij")
    return torch.stack([(3 * y + 5 * x) % 256, (7 * x) % 256, (y * x) % 256])[None].byte()


def test_features_are_those_of_torch_fidelity(tmp_path: Path) -> None:
    save_file(drawn_weights(), tmp_path / "inception.safetensors")
    network = load_inception(tmp_path / "inception.safetensors")
    features = network(picture().float() / 127.5 - 1)
    assert features.shape == (1, 2048)
    assert features[0, :4].tolist() == pytest.approx(FIRST, rel=1e-3)
    assert float(features.mean()) == pytest.approx(MEAN, rel=1e-4)
    assert float(features.std()) == pytest.approx(DEVIATION, rel=1e-4)


def test_resizing_keeps_the_first_corner_and_repeats_the_last() -> None:
    """TensorFlow 1 put sample i at i·size/299: the first at the corner, the last ones beyond the last pixel."""
    x = torch.tensor([[[[0.0, 10.0], [20.0, 30.0]]]])
    resized = as_tensorflow_resizes(x)[0, 0]
    assert float(resized[0, 0]) == 0
    assert float(resized[0, 1]) == pytest.approx(10 * 2 / 299)
    assert torch.equal(resized[150:, 150:], torch.full((149, 149), 30.0))


def test_other_networks_are_refused_by_the_first_key_that_differs(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigurationError, match="doesn't fit FID's Inception-v3"):
        load_inception(tmp_path / "a.safetensors")

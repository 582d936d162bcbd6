"""Feature networks: distances, the classifier on disk, LPIPS from weights in the published layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from core.errors import ConfigurationError
from models.features.classifier import Classifier, ClassifierConfig, load_classifier, save_classifier
from models.features.network import perceptual_distance
from models.features.vgg import LAYERS, load_lpips
from models.training.data.folder import read_folder
from models.training.first_stage.features import train_classifier
from models.training.loop.trainer import Progress
from tests.training import autoencoder_run, write_balls


def test_equal_pictures_are_at_no_distance_and_others_further_the_more_they_differ() -> None:
    torch.manual_seed(0)
    network, x, noise = Classifier(ClassifierConfig(3, width=8)), torch.rand(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    network.requires_grad_(False)
    none, near, far = (perceptual_distance(network, x, x + share * noise) for share in (0.0, 0.01, 0.5))
    assert float(none.abs().max()) == 0
    assert (near > 0).all()
    assert (far > near).all()


def test_a_classifier_learns_the_data_set_and_is_named_after_it(tmp_path: Path) -> None:
    folder = read_folder(write_balls(tmp_path / "data"))
    run = autoencoder_run(tmp_path, features={"steps": 60, "batch": 12, "width": 8})
    seen: list[Progress] = []
    network = train_classifier(
        run.features, run.data, run.seed, folder, torch.device("cpu"), report=seen.append, stop=lambda: False
    )
    assert network is not None
    assert (seen[-1].step, seen[-1].steps, seen[-1].what) == (60, 60, "features")
    assert network.name.startswith("small classifier of data (3 classes, 60 steps, ")
    assert int(network.name.split(", ")[2].split("%")[0]) > 60
    save_classifier(network, tmp_path / "features.safetensors")
    kept = load_classifier(tmp_path / "features.safetensors")
    x = torch.rand(1, 3, 32, 32)
    assert kept.name == network.name
    assert torch.equal(kept.embedding(x), network.embedding(x))


def test_pictures_in_one_folder_are_classes_of_their_own(tmp_path: Path) -> None:
    """One label for all would be learnt by learning nothing."""
    for name in "abcd":
        (tmp_path / "data" / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (60 * ord(name) % 256, 0, 0)).save(tmp_path / "data" / "images" / f"{name}.png")
    run = autoencoder_run(tmp_path, features={"steps": 1, "batch": 2, "width": 8})
    folder, cpu = read_folder(tmp_path / "data"), torch.device("cpu")
    network = train_classifier(run.features, run.data, run.seed, folder, cpu, report=lambda _: None, stop=lambda: False)
    assert network is not None
    assert "(4 classes, " in network.name


def test_other_files_are_no_classifier(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigurationError, match="is no latentd classifier"):
        load_classifier(tmp_path / "a.safetensors")


def lpips_files(folder: Path) -> tuple[Path, Path]:
    """Random weights under torchvision's and LPIPS's names."""
    state: dict[str, Tensor] = {}
    number, width = 0, 3
    for layer in LAYERS:
        if not isinstance(layer, str):
            state[f"features.{number}.weight"] = torch.randn(layer, width, 3, 3) * (2 / (9 * width)) ** 0.5
            state[f"features.{number}.bias"] = torch.zeros(layer)
            number, width = number + 1, layer
        number += 1
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}
    save_file(state, folder / "vgg.safetensors")
    save_file(heads, folder / "lpips.safetensors")
    return folder / "vgg.safetensors", folder / "lpips.safetensors"


def test_lpips_is_read_under_its_published_names(tmp_path: Path) -> None:
    """Its first map is one convolution of torchvision's layout after ImageNet's statistics."""
    torch.manual_seed(0)
    vgg, heads = lpips_files(tmp_path)
    network = load_lpips(vgg, heads)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    assert [m.shape[1:] for m in network(x)] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    distance = perceptual_distance(network, x, -x)
    assert distance.shape == (1,)
    assert float(distance) > 0
    with pytest.raises(ConfigurationError, match="VGG16 has 13"):
        load_lpips(heads, heads)

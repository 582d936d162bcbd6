"""Prompt retrieval: a contrastive model of the data tells pictures of one caption from those of another."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from models.evaluation.networks import Small
from models.evaluation.retrieval import ContrastiveModel, contrast, kept_contrastive, retrieval
from models.training.configs.base import DataConfig
from models.training.data.folder import read_folder
from models.training.data.loader import fixed_pictures
from tests.training import write_balls


def test_a_trained_model_finds_the_prompt_and_noise_is_chance(tmp_path: Path) -> None:
    folder = read_folder(write_balls(tmp_path / "data"), captions=True)
    small = Small(tmp_path, 0, 10, torch.device("cpu"), lambda _: None)
    model = kept_contrastive(folder, small)
    pictures = fixed_pictures(folder, DataConfig(folder=folder.path, size=32), 0, 12)
    texts = [item.captions[0] for item in folder.items]
    found = retrieval(model, pictures, texts)
    assert found["prompt retrieval, first"] > 0.8
    assert found["prompt retrieval, first 5"] == 1  # of three
    assert found["prompt retrieval, first, by chance"] == pytest.approx(1 / 3)
    wrong = [texts[(i + 1) % 12] for i in range(12)]
    assert retrieval(model, pictures, wrong)["prompt retrieval, first"] < 0.2
    again = kept_contrastive(folder, small)
    assert torch.equal(again(pictures, texts), model(pictures, texts))


def test_texts_that_the_model_cant_tell_apart_are_no_finds() -> None:
    """Neither emoji alone, which have no words, nor the same words in another order."""
    torch.manual_seed(0)
    model, texts = ContrastiveModel().eval(), ["🍎", "🍏", "🍐", "red ball", "Ball, red", "blue ball"]
    found = retrieval(model, torch.rand(6, 3, 64, 64) * 2 - 1, texts)
    assert found["prompt retrieval, first, by chance"] == pytest.approx(1 / 3)
    assert retrieval(model, torch.zeros(3, 3, 64, 64), texts[:3]) == {
        "prompt retrieval, first": 1.0,
        "prompt retrieval, first 5": 1.0,
        "prompt retrieval, first, by chance": 1.0,
    }


def test_pictures_of_equal_texts_match_each_others() -> None:
    """Two pairs of equal texts: the best is log 2, which matching both alike reaches."""
    texts = ["a", "a", "b", "b"]
    logits = torch.tensor([[a == b for b in texts] for a in texts]) * 100.0
    assert float(contrast(logits, texts)) == pytest.approx(math.log(2), abs=1e-5)
    assert float(contrast(torch.eye(4) * 100, texts)) > 10


def test_words_in_another_order_or_case_are_one_text() -> None:
    model = ContrastiveModel()
    encoded = model.encode_texts(["a red ball", "Ball, a red!", "a blue ball", ""])
    assert torch.allclose(encoded[0], encoded[1], atol=1e-6)
    assert not torch.allclose(encoded[0], encoded[2], atol=1e-2)
    assert torch.isfinite(encoded).all()

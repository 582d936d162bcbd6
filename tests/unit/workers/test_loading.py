from __future__ import annotations

import pytest
import torch

from latentd.errors import ConfigurationError
from workers.loading import choose_device


def test_the_cpu_is_taken_by_name() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")


def test_a_device_that_is_none_is_named() -> None:
    with pytest.raises(ConfigurationError, match="--device 'toaster'"):
        choose_device("toaster")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(ConfigurationError, match="torch finds no GPU"):
        choose_device("cuda:0")

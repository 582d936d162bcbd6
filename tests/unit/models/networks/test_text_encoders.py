"""BERT and CLIP are transformers' own modules: silent, offline, whole, and imported by those models alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.checkpoints.build import build
from models.networks.conditioning import TextConfig, TowerConfig
from models.networks.make import make_conditioner
from tests.parity.run import SD1_FOLDER

ROOT = Path(__file__).parents[4]
WEIGHTS = ROOT / "models" / "weights"
OFFLINE = """
import socket, sys
from pathlib import Path

def refuse(*_):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.getaddrinfo = refuse
from models.checkpoints.load import load
for path in sys.argv[1:]:
    model = load(Path(path))
    if model.tokenizers:
        model.encode_prompts(["red heart"])
sys.exit(3 if "transformers" in sys.modules else 0)
"""


def _run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HOME": str(tmp_path / "none"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", OFFLINE, *arguments]
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_encoders_say_nothing_and_ask_no_hub(tmp_path: Path) -> None:
    done = _run(tmp_path, str(WEIGHTS / "emoji"), str(SD1_FOLDER))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 3)
    assert not any(tmp_path.iterdir())


def test_models_without_such_an_encoder_do_not_wait_for_transformers(tmp_path: Path) -> None:
    done = _run(tmp_path, str(WEIGHTS / "emoji-upscale"))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def _config(kind: str) -> TextConfig:
    shape = {"vocab_size": 30, "width": 16, "layers": 1, "heads": 2, "head_dim": 8, "mlp": 32, "positions": 9}
    return TextConfig((TowerConfig(kind=kind, **shape),))  # type: ignore[arg-type]  # a name of the parameters


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_nothing_of_an_encoder_stays_on_the_meta_device(kind: str) -> None:
    config = _config(kind)
    state = dict(make_conditioner(config).state_dict())
    module = build(lambda: make_conditioner(config), state, "conditioner", "cpu", torch.bfloat16)
    assert not any(value.is_meta for value in (*module.parameters(), *module.buffers()))
    assert module([(torch.arange(7)[None], None)]).context.dtype == torch.bfloat16


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    for kind in ("bert", "clip"):
        with pytest.raises(ValueError, match="heads"):
            make_conditioner(TextConfig((TowerConfig(kind, 30, 16, 1, 3, 5, 32, 9),)))

"""Where `latentd generate`, `inpaint` and `upscale` write to is looked at before they compute."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from core.errors import ConfigurationError, InvalidRequest
from core.settings import WEIGHTS_DIR, Settings
from latentd.cli import draw
from service.requests.cards import installed_cards
from tests import embeddings
from tests.embeddings import write_embeddings
from tests.enqueue import make_request
from tests.loras import CASE, applied, write_loras, write_middle
from tests.tiny import write_tiny_inpaint

FIELDS = {"prompt": "cat", "steps": 1, "num_images": 2}


def test_each_of_several_files_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTD_MODELS_DIR", str(WEIGHTS_DIR))
    (tmp_path / "o-1.png").mkdir()
    with pytest.raises(ConfigurationError, match=r"--out .*/o-1\.png: it is a folder"):
        draw.draw("txt2img", FIELDS, {}, tmp_path / "o.png", "toaster")  # no such device: it would fail otherwise


def test_a_file_that_cannot_be_written_after_all_is_named(tmp_path: Path) -> None:
    card = installed_cards(WEIGHTS_DIR)["emoji"]
    with pytest.raises(ConfigurationError, match=r"--out .*/gone/o\.png: No such file or directory"):
        draw.write([Image.new("RGB", (8, 8))], [tmp_path / "gone" / "o.png"], make_request(), card)


def test_loras_are_named_with_their_scales(tmp_path: Path) -> None:
    write_tiny_inpaint(tmp_path / "tiny")
    write_middle(write_loras(tmp_path) / "middle.safetensors")
    settings = Settings(models_dir=tmp_path, model="tiny")
    sent = {"prompt": "cat", "loras": draw.read_loras(["middle:0.5", "style"])}
    request, *_ = draw.resolve("txt2img", sent, {}, settings)
    assert list(request.applied_loras) == applied(tmp_path, middle=0.5, style=1.0)
    assert draw.read_loras([]) is None


def test_prompts_are_read_as_the_options_say(tmp_path: Path) -> None:
    shutil.copytree(CASE / "sd1_kohya" / "pipeline", tmp_path / "tiny")
    write_loras(tmp_path)
    write_embeddings(tmp_path)
    settings = Settings(models_dir=tmp_path, model="tiny")
    sent = {"prompt": "(webui-style:1.2) <lora:style:0.5>", "clip_skip": 2} | draw.read_syntax("weighted")
    request, *_ = draw.resolve("txt2img", sent, {}, settings)
    assert list(request.applied_loras) == applied(tmp_path, style=0.5)
    assert list(request.applied_embeddings) == embeddings.applied(tmp_path, "webui-style")
    assert (request.text, request.syntax, request.skip) == ("(webui-style:1.2) ", "weighted", 2)
    assert draw.read_syntax("plain") == {}


def test_a_scale_of_a_lora_is_a_number() -> None:
    with pytest.raises(InvalidRequest, match="--lora 'a:b': must be ID or ID:NUMBER"):
        draw.read_loras(["a:b"])

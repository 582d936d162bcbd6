"""What options of `latentd generate` and its like become, and what is looked at before anything is computed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contract.base import Kind
from contract.request import JobRequest
from core.errors import ConfigurationError, InvalidRequest
from core.settings import WEIGHTS_DIR, Settings
from latentd.cli.drawing import local
from latentd.cli.drawing.draw import draw
from latentd.cli.drawing.options import read_controls, read_texts
from latentd.cli.drawing.order import Order
from tests import controls, embeddings
from tests.controls import write_controls
from tests.embeddings import write_embeddings
from tests.engines import picture_bytes
from tests.loras import CASE, applied, write_loras, write_middle
from tests.tiny import write_tiny_inpaint

FIELDS = {"prompt": "cat", "steps": 1, "num_images": 2}
OUT = Path("o.png")


def resolved(models: Path, files: dict[str, Path] | None = None, kind: Kind = "txt2img", **sent: Any) -> JobRequest:
    """What an order resolves to by the model `tiny`."""
    request, *_ = local.resolve(Order(kind, sent, files or {}, OUT), Settings(models_dir=models, model="tiny"))
    return request


def test_each_of_several_files_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTD_MODELS_DIR", str(WEIGHTS_DIR))
    (tmp_path / "o-1.png").mkdir()
    with pytest.raises(ConfigurationError, match=r"--out .*/o-1\.png: it is a folder"):
        draw(Order("txt2img", FIELDS, {}, tmp_path / "o.png"), None, "toaster")  # no such device: it would fail else


def test_loras_are_named_with_their_scales(tmp_path: Path) -> None:
    write_tiny_inpaint(tmp_path / "tiny")
    write_middle(write_loras(tmp_path) / "middle.safetensors")
    request = resolved(tmp_path, prompt="cat", **read_texts(["middle:0.5", "style"], "plain", None))
    assert list(request.applied_loras) == applied(tmp_path, middle=0.5, style=1.0)


def test_prompts_are_read_as_the_options_say(tmp_path: Path) -> None:
    shutil.copytree(CASE / "sd1_kohya" / "pipeline", tmp_path / "tiny")
    write_loras(tmp_path)
    write_embeddings(tmp_path)
    request = resolved(tmp_path, prompt="(webui-style:1.2) <lora:style:0.5>", **read_texts([], "weighted", 2))
    assert list(request.applied_loras) == applied(tmp_path, style=0.5)
    assert list(request.applied_embeddings) == embeddings.applied(tmp_path, "webui-style")
    assert (request.text, request.syntax, request.skip) == ("(webui-style:1.2) ", "weighted", 2)
    assert read_texts([], "plain", None) == {}


def test_controls_are_named_with_their_pictures(tmp_path: Path) -> None:
    shutil.copytree(controls.CASE / "two_controlnets" / "pipeline", tmp_path / "tiny")
    write_controls(tmp_path)
    map_ = tmp_path / "map.png"
    map_.write_bytes(picture_bytes(64, 64))
    fields, files = read_controls([f"lines={map_}:0.5:canny", f"any={map_}"])
    request = resolved(tmp_path, files, prompt="cat", width=64, height=64, **fields)
    told = [(each.id, each.scale, each.preprocess) for each in request.applied_controls]
    assert told == [("lines", 0.5, "canny"), ("any", 1.0, None)]
    assert request.applied_controls[0].image.bytes == len(map_.read_bytes())


def test_what_is_odd_about_a_mask_is_told(tmp_path: Path) -> None:
    write_tiny_inpaint(tmp_path / "tiny")
    files = {"image": tmp_path / "a.png", "mask": tmp_path / "m.png"}
    files["image"].write_bytes(picture_bytes(64, 64))
    Image.new("L", (64, 64), 255).save(files["mask"])
    order = Order("inpaint", {"prompt": "cat"}, files, OUT)
    *_, warnings = local.resolve(order, Settings(models_dir=tmp_path, model="tiny"))
    assert [each.field for each in warnings] == ["mask"]


@pytest.mark.parametrize(
    ("option", "control", "file"),
    [
        ("a=b.png", {"id": "a"}, "b.png"),
        ("a=C:b.png:0.5", {"id": "a", "scale": 0.5}, "C:b.png"),
        ("a=b:canny", {"id": "a", "preprocess": "canny"}, "b"),
        ("a=x=y.png:2:canny", {"id": "a", "scale": 2.0, "preprocess": "canny"}, "x=y.png"),
    ],
)
def test_a_control_s_file_keeps_its_colons(option: str, control: dict[str, Any], file: str) -> None:
    assert read_controls([option]) == ({"controls": [control]}, {"control_0": Path(file)})


def test_what_is_no_lora_or_control_is_named() -> None:
    with pytest.raises(InvalidRequest, match="--lora 'a:b': must be ID or ID:NUMBER"):
        read_texts(["a:b"], "plain", None)
    for option in ("a", "=b.png", "a="):
        with pytest.raises(InvalidRequest, match=f"--control '{option}': must be ID=FILE"):
            read_controls([option])

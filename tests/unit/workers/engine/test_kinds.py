"""The engine's declarations of kinds agree with the contract's requests."""

from __future__ import annotations

import pytest
from PIL import Image

from contract.request import REQUESTS
from core.errors import InvalidRequest
from tests.engines import make_request, tiny_models
from workers.engine.kinds import KINDS, job_spec_of
from workers.engine.pictures import picture_text


def test_every_kind_of_request_is_declared_with_its_uploads() -> None:
    assert {kind: tuple(declared.files) for kind, declared in KINDS.items()} == {
        kind: request.file_names() for kind, request in REQUESTS.items()
    }


@pytest.mark.parametrize(("files", "missing"), [({}, "image"), ({"image": Image.new("RGB", (64, 64))}, "mask")])
def test_an_upload_that_is_missing_is_named(files: dict[str, Image.Image], missing: str) -> None:
    request = make_request(kind="inpaint", model="paint", steps=1)
    with pytest.raises(InvalidRequest, match=f"inpaint needs a file {missing}") as caught:
        job_spec_of(request, files, tiny_models()["paint"], 1 << 24)
    assert caught.value.field == missing


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"kind": "class2img", "class_id": 207}, ", Class: 207, Version"),
        ({"kind": "upscale", "noise_level": 20}, ", Noise level: 20, Version"),
        ({"kind": "upscale", "noise_level": None}, "Model: up, Version"),
        ({"kind": "img2img", "strength": 1.0}, ", Denoising strength: 1, Version"),
        ({"kind": "inpaint", "strength": 0.35}, ", Denoising strength: 0.35, Version"),
    ],
)
def test_parameters_name_what_only_some_kinds_have(fields: dict[str, object], note: str) -> None:
    text = picture_text(make_request(model="up", steps=1, **fields), 0, "h" * 64)
    assert note in text["parameters"]

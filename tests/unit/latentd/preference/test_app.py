"""The study's calls: blind, each answer once, to its own page alone."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from latentd.preference.answers import AnswerFile, read_answers
from latentd.preference.app import create_app
from latentd.preference.study import Study
from tests.unit.latentd.preference.studies import COLOURS, make_study

SECRETS = ("secret", "name-", ".jpg", "made by")
ANNA = {"participant": "anna"}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


@pytest.fixture
def client(study: Study, tmp_path: Path) -> Iterator[TestClient]:
    answers = AnswerFile(tmp_path / "answers.csv", study)
    with TestClient(create_app(study, answers), "http://127.0.0.1:8010") as made:
        yield made
    answers.close()


def test_nothing_that_is_served_says_whose_a_picture_is(client: TestClient, tmp_path: Path) -> None:
    answers = [client.get(path) for path in ("/", "/study.js", "/study.css", "/css/base.css")]
    answers.append(client.get("/next", params=ANNA))
    answers.append(client.post("/answers", json=ANNA | {"number": 0, "place": "left", "seconds": 1.0}))
    pictures = [client.get(f"/pictures/{k}/{place}", params=ANNA) for k in range(6) for place in ("left", "right")]
    told = [client.get("/pictures/6/left", params=ANNA), client.get("/given/0", params=ANNA)]
    assert [answer.status_code for answer in told] == [404, 404]
    for answer in (*answers, *pictures, *told):
        heads = " ".join(f"{name}: {value}" for name, value in answer.headers.items())
        text = heads + answer.content.decode("latin-1")
        assert [secret for secret in (*SECRETS, str(tmp_path)) if secret in text] == []
    assert {tuple(sorted(picture.headers.keys())) for picture in pictures} == {tuple(sorted(pictures[0].headers))}
    for picture in pictures:
        opened = Image.open(io.BytesIO(picture.content))
        assert (opened.format, opened.size, opened.info) == ("PNG", (48, 32), {})
        assert set(chunks(picture.content)) == {b"IHDR", b"IDAT", b"IEND"}
    assert {answer.headers["cache-control"] for answer in pictures} == {"no-store"}
    assert "default-src 'none'" in answers[0].headers["content-security-policy"]


def chunks(png: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(png):
        yield png[at + 4 : at + 8]
        at += 12 + int.from_bytes(png[at : at + 4], "big")


def test_a_choice_is_written_as_the_method_that_stood_there(client: TestClient, study: Study, tmp_path: Path) -> None:
    shown = study.shown_to("anna")
    for number, showing in enumerate(shown):
        found = client.get("/next", params=ANNA).json()
        assert (found["number"], found["answered"], found["of"]) == (number, number, 6)
        assert (found["prompt"], found["question"]) == (showing.pair.prompt, "Which picture shows this better?")
        left = Image.open(io.BytesIO(client.get(f"/pictures/{number}/left", params=ANNA).content))
        assert (left.getpixel((0, 0)) == COLOURS["secret-ours"]) == (showing.left == "a")
        place = "left" if showing.left == "a" else "right"
        choice = ANNA | {"number": number, "place": place, "seconds": 0.5}
        first, second = (client.post("/answers", json=choice) for _ in range(2))
        assert first.json() == second.json() == client.get("/next", params=ANNA).json()
    assert client.get("/next", params=ANNA).json()["number"] is None
    written = read_answers(tmp_path / "answers.csv")
    assert [(each.picture, each.preferred) for each in written] == [(each.pair.name, "a") for each in shown]
    assert client.get("/next", params={"participant": " ben "}).json()["answered"] == 0


def test_the_picture_in_the_middle_is_served(study: Study, tmp_path: Path) -> None:
    pairs = tuple(replace(pair, given=pair.b) for pair in study.pairs)
    answers = AnswerFile(tmp_path / "answers.csv", study)
    with TestClient(create_app(replace(study, pairs=pairs), answers), "http://localhost:8010") as client:
        assert client.get("/next", params=ANNA).json()["given"] is True
        assert client.get("/given/0", params=ANNA).headers["content-type"] == "image/png"
    answers.close()


def test_others_are_refused(client: TestClient) -> None:
    choice = ANNA | {"number": 0, "place": "left", "seconds": 1.0}
    assert client.post("/answers", json=choice, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/next", params=ANNA, headers={"Host": "evil.example"}).status_code == 403
    assert client.post("/answers", json=choice, headers={"Origin": "http://127.0.0.1:8010"}).status_code == 200
    text = {"Content-Type": "text/plain"}
    assert client.post("/answers", content=b'{"participant": "anna"}', headers=text).status_code == 422


@pytest.mark.parametrize("name", ["", " ", "=1+1", "@x", "a\nb", "x" * 65, "a,b"])
def test_names_that_a_table_could_misread_are_refused(client: TestClient, name: str) -> None:
    assert client.get("/next", params={"participant": name}).status_code == 422
    choice = {"participant": name, "number": 0, "place": "left", "seconds": 1.0}
    assert client.post("/answers", json=choice).status_code == 422
    assert client.get("/next", params={"participant": "Zoë 7"}).status_code == 200


def test_a_picture_that_is_broken_is_told_without_its_name(client: TestClient, study: Study) -> None:
    study.shown_to("anna")[0].file("left").write_bytes(b"broken")
    answer = client.get("/pictures/0/left", params=ANNA)
    assert answer.status_code == 422
    assert "secret" not in answer.text


def test_it_needs_no_torch() -> None:
    program = (
        "import sys, latentd.cli.preference, latentd.preference.app, latentd.preference.tally; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert {"torch", "transformers", "numpy"}.isdisjoint(done.stdout.split())


def test_a_picture_that_goes_while_the_study_runs_is_told_without_its_name(client: TestClient, study: Study) -> None:
    gone, broken = study.shown_to("anna")[:2]
    gone.file("left").unlink()
    broken.file("left").write_bytes(b"no picture")
    answers = [client.get(f"/pictures/{number}/left", params=ANNA) for number in range(2)]
    assert [answer.status_code for answer in answers] == [404, 422]
    assert not any(secret in answer.text for answer in answers for secret in SECRETS)
    assert client.get("/pictures/2/left", params=ANNA).status_code == 200

"""What is paired, and who sees it where."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.errors import ConfigurationError
from latentd.preference.pairs import read_pairs
from tests.unit.latentd.preference.studies import make_study, write_pictures


def test_pictures_of_one_name_are_a_pair_with_the_prompt_that_one_carries(tmp_path: Path) -> None:
    ours, theirs = write_pictures(tmp_path)
    pairs = read_pairs(ours, theirs)
    assert [(pair.name, pair.prompt) for pair in pairs] == [(f"name-{k}", f"thing {k}") for k in range(6)]
    assert (pairs[0].a, pairs[0].b) == (ours / "name-0.png", theirs / "name-0.jpg")


def test_captions_beside_pictures_win_over_their_text(tmp_path: Path) -> None:
    ours, theirs = write_pictures(tmp_path)
    (ours / "name-0.txt").write_text("told beside\n")
    lines = [{"file_name": f"name-{k}.jpg", "text": f"listed {k}"} for k in range(2)]
    (theirs / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [pair.prompt for pair in read_pairs(ours, theirs)] == ["told beside", "listed 1"]


def test_what_both_were_made_from_belongs_to_the_pair(tmp_path: Path) -> None:
    ours, theirs = write_pictures(tmp_path)
    (tmp_path / "masked").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "masked" / "name-3.webp")
    [pair] = read_pairs(ours, theirs, tmp_path / "masked")
    assert (pair.name, pair.given) == ("name-3", tmp_path / "masked" / "name-3.webp")


def test_folders_that_make_no_pairs_are_named(tmp_path: Path) -> None:
    ours, theirs = write_pictures(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigurationError, match="other: no pictures"):
        read_pairs(ours, other)
    Image.new("RGB", (8, 8)).save(other / "x.png")
    with pytest.raises(ConfigurationError, match=r"no picture has the same name .* other has x|and .*other has x"):
        read_pairs(ours, other)
    (other / "name-1.png").write_bytes(b"none")
    with pytest.raises(ConfigurationError, match=r"name-1\.png: no PNG, JPEG or WebP"):
        read_pairs(other, theirs)
    Image.new("RGB", (8, 8)).save(other / "x.jpg")
    with pytest.raises(ConfigurationError, match="x is there twice"):
        read_pairs(ours, other)


def test_orders_and_sides_are_each_participant_s_own_and_the_seed_s(tmp_path: Path) -> None:
    study = make_study(tmp_path, 21)
    anna, ben = study.shown_to("anna"), study.shown_to("ben")
    assert anna == study.shown_to("anna")
    assert len({str(shown) for shown in (anna, ben, replace(study, seed=1).shown_to("anna"))}) == 3
    assert {showing.pair for showing in anna} == set(study.pairs)
    assert sorted(Counter(showing.left for showing in anna).values()) == [10, 11]
    assert {(showing.at("left"), showing.at("right")) for showing in anna} == {("a", "b"), ("b", "a")}
    assert all(showing.file("left").suffix == {"a": ".png", "b": ".jpg"}[showing.left] for showing in anna)
    assert replace(study, limit=4).shown_to("anna")[0].pair in study.pairs
    assert len(replace(study, limit=4).shown_to("anna")) == 4


def test_over_many_people_no_side_and_no_pair_is_preferred(tmp_path: Path) -> None:
    study = make_study(tmp_path, 6)
    shown = [study.shown_to(f"person {k}")[0] for k in range(600)]
    assert 240 < sum(showing.left == "a" for showing in shown) < 360  # 5 σ
    assert all(55 < count < 145 for count in Counter(showing.pair.name for showing in shown).values())


def test_the_question_is_the_task_s(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    pair = study.pairs[0]
    assert study.ask(pair) == "Which picture shows this better?"
    assert study.ask(replace(pair, prompt="")) == "Which picture is better?"
    assert study.ask(replace(pair, given=pair.a)) == "Which is the better version of the picture in the middle?"
    assert replace(study, task=1).ask(pair) == "Which picture is real?"
    assert replace(study, question="Which?").ask(pair) == "Which?"


def test_a_name_that_no_answer_could_have_is_refused_and_text_that_is_too_deep_is_no_prompt(tmp_path: Path) -> None:
    ours, theirs = write_pictures(tmp_path)
    deep = PngInfo()
    deep.add_text("latentd", "[" * 100_000)
    Image.new("RGB", (8, 8)).save(ours / "name-0.png", pnginfo=deep)
    assert read_pairs(ours, theirs)[0].prompt == ""
    os.rename(ours / "name-1.png", os.fsencode(ours) + b"/\xff.png")
    with pytest.raises(ConfigurationError, match="is no name that can be printed"):
        read_pairs(ours, theirs)

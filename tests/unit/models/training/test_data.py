"""Data: what a folder says, orders that resume, drawing and composing, and errors that name what is missing."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from core.errors import ConfigurationError
from models.training.configs.base import DataConfig
from models.training.data.folder import read_folder, split_held_out, weights_of
from models.training.data.loader import picture_batches
from models.training.data.order import Order, order_digest
from models.training.data.pictures import draw
from models.training.diffusion.cache import CAPTIONS, Cache, Chunk, cache_of
from models.training.loop.draws import normals
from models.training.loop.processes import Processes
from tests.training import SIZE, autoencoder_run, ldm_run, losses, train, write_balls


def test_an_epoch_shows_every_picture_once_and_the_next_in_another_order() -> None:
    order = Order(10, seed=1)
    first, second = ([order.index(n) for n in range(start, start + 10)] for start in (0, 10))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [Order(10, seed=1).index(n) for n in range(7, 12)] == [*first[7:], *second[:2]]


def test_weights_decide_how_often_and_may_change_in_the_run() -> None:
    order = Order(3, 1, {0: [1.0, 0.0, 3.0], 4000: [0.0, 1.0, 0.0]})
    seen = Counter(order.index(n) for n in range(4000))
    assert seen[1] == 0
    assert seen[2] / seen[0] == pytest.approx(3, rel=0.15)
    assert {order.index(n) for n in range(4000, 4100)} == {1}


def test_batches_resume_and_are_shared_out(tmp_path: Path) -> None:
    """From step 3 on come the pictures that an unbroken run has there; two processes have halves of them."""
    folder = read_folder(write_balls(tmp_path / "data"))
    run = autoencoder_run(tmp_path, steps=6)
    whole = list(picture_batches(run, folder, Processes(), 0))
    later = list(picture_batches(run, folder, Processes(), 3))
    assert [list(numbers) for numbers, _ in later] == [list(numbers) for numbers, _ in whole[3:]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(later, whole[3:], strict=True))
    halves = [list(picture_batches(run, folder, Processes(rank, 2), 0)) for rank in (0, 1)]
    assert torch.equal(torch.cat([half[4][1] for half in halves]), whole[4][1])


def test_helper_processes_draw_the_same_pictures(tmp_path: Path) -> None:
    folder = read_folder(write_balls(tmp_path / "data"))
    alone = autoencoder_run(tmp_path, steps=2)
    helped = autoencoder_run(tmp_path, steps=2, data=alone.data.model_dump() | {"workers": 1})
    assert train(alone, until=1) == train(helped)[:1]  # a run may go on with others
    assert len(losses(helped.out)) == 2
    for (_, a), (_, b) in zip(*(picture_batches(run, folder, Processes(), 0) for run in (alone, helped)), strict=True):
        assert torch.equal(a, b)


def test_helper_processes_encode_and_choose_the_same_latents(tmp_path: Path) -> None:
    """One run draws in its own process, one has helpers: caches and losses are the same bytes."""
    write_balls(tmp_path / "data")
    train(autoencoder_run(tmp_path, steps=1))
    seen = []
    for workers in (0, 2):
        out, cache = tmp_path / f"run-{workers}", tmp_path / f"cache-{workers}"
        data = {"folder": tmp_path / "data", "size": SIZE, "workers": workers}
        run = ldm_run(tmp_path, concat="mask-latent", steps=2, out=out, cache={"folder": cache, "chunk": 6}, data=data)
        seen.append((train(run), *(next(cache.rglob(f"{name}.npy")).read_bytes() for name in ("latent", "concat"))))
    assert seen[0] == seen[1]


def test_noise_is_a_function_of_the_sample() -> None:
    both = normals(1, "noise", [5, 6], (2, 3))
    assert torch.equal(both[1:], normals(1, "noise", [6], (2, 3)))
    assert not torch.equal(both, normals(2, "noise", [5, 6], (2, 3)))


def test_captions_may_lie_in_files_beside_and_labels_in_folders(tmp_path: Path) -> None:
    for name in ("cats/a.png", "dogs/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(f"one\n two of {name}\n\n", "utf-8")
    folder = read_folder(tmp_path, captions=True, labels=True)
    assert folder.classes == ("cats", "dogs")
    assert folder.items[1].captions == ("one", "two of dogs/b.png")
    assert folder.label(1) == 1


def test_folders_of_classes_may_be_links(tmp_path: Path) -> None:
    """Those that lead back up, by way of one another too, are entered once."""
    for name in ("data/cats", "elsewhere/dogs"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    (tmp_path / "data" / "hounds").symlink_to(tmp_path / "elsewhere" / "dogs")
    (tmp_path / "data" / "cats" / "all").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere" / "dogs" / "back").symlink_to(tmp_path / "data" / "cats")
    (tmp_path / "data" / "up").symlink_to(tmp_path)
    found = read_folder(tmp_path / "data")
    files = [item.file.relative_to(tmp_path / "data").as_posix() for item in found.items]
    assert files == ["cats/a.png", "hounds/a.png", "hounds/back/a.png"]
    assert [item.label for item in found.items] == ["cats", "hounds", "back"]


def test_a_run_among_pictures_that_nothing_lists_is_refused(tmp_path: Path) -> None:
    """Its grids would be pictures for the next piece; hidden folders aren't looked at."""
    data = {"folder": write_balls(tmp_path / "data"), "size": SIZE}
    train(autoencoder_run(tmp_path, data=data, out=tmp_path / "data" / "listed", steps=1))
    (tmp_path / "data" / "metadata.jsonl").unlink()
    for out in (tmp_path / "data", tmp_path / "data" / "run"):
        with pytest.raises(
            ConfigurationError, match=r"out is .*, below data\.folder .*grids would be pictures"
        ) as refused:
            train(autoencoder_run(tmp_path, data=data, out=out, steps=1))
        assert refused.value.field == "out"
        assert not (out / "config.yaml").exists()
    train(autoencoder_run(tmp_path, data=data, out=tmp_path / "data" / ".run", steps=1))


def test_labels_that_are_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    """Label 2 is class 2, not 4; one word among them, and they are words."""
    for name in map(str, range(12)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    assert read_folder(tmp_path).classes == tuple(map(str, range(12)))
    (tmp_path / "2").rename(tmp_path / "two")
    assert read_folder(tmp_path).classes == ("0", "1", "10", "11", *"3456789", "two")


def test_labels_that_a_table_wrote_as_numbers_with_a_point_are_whole_ones(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [json.dumps({"file_name": "a.png", "label": label}) for label in (10.0, 2.0, 1.0, 2, "3")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows), "utf-8")
    assert read_folder(tmp_path, labels=True).classes == ("1", "2", "3", "10")


def test_a_table_that_would_not_be_read_is_named(tmp_path: Path) -> None:
    """imagefolder reads one in each split, and its other kinds; captions and labels would be lost in silence."""
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "a.png")
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a cat"}', "utf-8")
    told = rf"train/metadata\.jsonl would not be read; name its own folder, folder: {tmp_path}/train"
    with pytest.raises(ConfigurationError, match=told) as refused:
        read_folder(tmp_path)
    assert refused.value.field == "data.folder"
    assert read_folder(tmp_path / "train").items[0].captions == ("a cat",)
    (tmp_path / "train" / "metadata.jsonl").rename(tmp_path / "metadata.csv")
    with pytest.raises(ConfigurationError, match=r": metadata\.csv would not be read; write it as metadata\.jsonl"):
        read_folder(tmp_path)


def test_a_file_that_is_changed_is_another_data_set_and_a_copy_is_not(tmp_path: Path) -> None:
    """A picture or label map, of as many bytes as before; what is encoded of the old one isn't used for the new one."""
    folder = write_balls(tmp_path / "data")
    seen = {read_folder(folder).fingerprint}
    for name in ("03.png", "03-map.png"):
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        seen.add(read_folder(folder).fingerprint)
    assert len(seen) == 3
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert read_folder(tmp_path / "copy").fingerprint in seen


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"file_name": "no.png"}', "no.png is not there"),
        ("{", "line 1: must be a JSON object"),
        ('{"file_name": "/a.png"}', "line 1: file_name is /a.png; it must be relative to"),
        ('{"file_name": "a.png", "text": 3}', "text must be a caption"),
        (r'{"file_name": "a.png", "text": ["a", "b \ud83d"]}', r"line 1: 'b \\ud83d' has half of a character"),
        (r'{"file_name": "a.png", "text": "a", "label": "\udc00"}', r"line 1: '\\udc00' has half of a character"),
        ('{"file_name": "a.png"}', "1 of 1 pictures have no caption, a.png first"),
        ('{"file_name": "a.png", "text": "", "map": null}', "1 of 1 pictures have no caption, a.png first"),
        ('{"file_name": "a.png", "text": "a", "weight": 1' + 400 * "0" + "}", "line 1: has a number beyond"),
        ("", "no pictures"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path, line: str, named: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(line + "\n", "utf-8")
    with pytest.raises(ConfigurationError, match=named):
        read_folder(tmp_path, captions=True)


def test_text_that_isnt_utf_8_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("café", "latin-1")
    with pytest.raises(ConfigurationError, match=r"a\.txt: isn't UTF-8 at byte 3, 0xe9"):
        read_folder(tmp_path)
    rows = '{"file_name": "a.png"}\n{"file_name": "a.png", "text": "café"}\n'
    (tmp_path / "metadata.jsonl").write_text(rows, "latin-1")
    with pytest.raises(ConfigurationError, match=r"metadata\.jsonl, line 2: isn't UTF-8"):
        read_folder(tmp_path)


def test_text_of_windows_is_read_without_its_mark(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a red cat", "utf-8-sig")
    assert read_folder(tmp_path).items[0].captions == ("a red cat",)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a cat"}', "utf-8-sig")
    assert read_folder(tmp_path).items[0].captions == ("a cat",)


def test_names_in_any_bytes_are_split_too(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(os.fsencode(tmp_path) + b"/caf\xe9.png", "PNG")
    folder = read_folder(tmp_path)
    assert split_held_out(folder, 0.0)[0].items == folder.items


def test_pictures_that_arent_read_are_told_of_and_hidden_files_are_none(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tiff")
    (tmp_path / "._a.png").write_bytes(b"a system's own")
    for folder in (".thumbnails", "lost+found"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jfif", "JPEG")
    assert [item.file.name for item in read_folder(tmp_path).items] == ["a.tiff", "b.jfif"]
    (tmp_path / "b.HEIC").write_bytes(b"a phone's")
    with pytest.raises(ConfigurationError, match=r"1 pictures are of a kind that isn't read, b\.HEIC first; convert"):
        read_folder(tmp_path)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_weights_that_arent_numbers_to_draw_by_are_refused(tmp_path: Path, weight: float) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "much": weight}), "utf-8")
    with pytest.raises(ConfigurationError, match="column 'much' must be ≥ 0"):
        weights_of(read_folder(tmp_path), "much")


def test_a_missing_folder_and_a_damaged_picture_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such folder"):
        read_folder(tmp_path / "none")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    folder = read_folder(tmp_path)
    with pytest.raises(ConfigurationError, match=r"bad\.png: is no readable picture"):
        draw(folder, 0, DataConfig(folder=tmp_path, size=16), np.random.default_rng(0))


def test_held_out_pictures_are_told_by_their_names_within_classes(tmp_path: Path) -> None:
    folder = read_folder(write_balls(tmp_path / "data", count=60))
    kept, held = split_held_out(folder, 0.2)
    assert len(kept.items) + len(held.items) == 60
    assert 6 < len(held.items) < 18
    assert {item.label for item in kept.items} == {item.label for item in held.items} == set(folder.classes)
    assert split_held_out(folder, 0.0)[1].items == ()


def test_pictures_in_one_folder_are_split_within_it(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    for number in range(40):
        Image.new("RGB", (8, 8)).save(tmp_path / "cats" / f"{number}.png")
    assert 10 < len(split_held_out(read_folder(tmp_path), 0.5)[1].items) < 30


def test_styles_of_one_concept_stay_together(tmp_path: Path) -> None:
    """Which concepts are held out may not change: figures are noted of them."""
    names = ("red heart", "pizza", "rocket", "house", "tree", "crown", "sun", "apple", "robot", "ghost")
    rows = [{"file_name": f"{s}-{n}.png", "label": n, "style": s} for n in names for s in ("flat", "3d")]
    for row in rows:
        Image.new("RGB", (8, 8)).save(tmp_path / row["file_name"])
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    held = Counter(item.label for item in split_held_out(read_folder(tmp_path), 0.6)[1].items)
    assert held == {"rocket": 2, "sun": 2, "apple": 2}


def test_orders_by_other_weights_are_told_apart(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    told = []
    for weight in (1, 9):
        row = {"file_name": "a.png", "text": "one", "w": weight}
        (tmp_path / "metadata.jsonl").write_text(json.dumps(row), "utf-8")
        folder = read_folder(tmp_path)
        told.append(order_digest(folder, DataConfig(folder=tmp_path, size=16, weights={0.0: "w"})))
        assert order_digest(folder, DataConfig(folder=tmp_path, size=16)) == {}
    assert told[0] != told[1]


def test_metadata_may_list_many_captions(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = {"file_name": "a.png", "text": ["one", "two"], "weight": 2}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row), "utf-8")
    (item,) = islice(read_folder(tmp_path, captions=True).items, 2)
    assert item.captions == ("one", "two")
    assert item.weights == {"weight": 2.0}


@pytest.mark.parametrize("workers", [0, 1])
def test_captions_of_any_characters_are_kept_as_they_are(tmp_path: Path, workers: int) -> None:
    """Some that end a line for Python, but not for JSON, among them; a cache that was begun goes on."""
    odd = ["one\u2028two", "next\x85line", "\x1cgroup\u2029", "a\rb\nc", "plain"]
    for name in ("data", "again"):
        write_balls(tmp_path / name, count=len(odd))
        rows = [{"file_name": f"{i:02}.png", "text": text} for i, text in enumerate(odd)]
        told = (json.dumps(row, ensure_ascii=name == "data") + "\n" for row in rows)
        (tmp_path / name / "metadata.jsonl").write_text("".join(told), "utf-8")
        assert [item.captions for item in read_folder(tmp_path / name).items] == [(text,) for text in odd]
    run = ldm_run(
        tmp_path,
        data={"folder": tmp_path / "data", "size": SIZE, "workers": workers},
        cache={"folder": tmp_path / "cache", "chunk": 2},
    )
    folder = read_folder(run.data.folder)
    made: list[int] = []

    def cached(most: int) -> Cache | None:
        """Make a cache of pictures as they are, until so many are there."""
        told = lambda done, _: made.append(done)  # noqa: E731
        return cache_of(run, folder, "as they are", as_they_are, told, lambda: made[-1] >= most)

    assert cached(4) is None
    cache = cached(4)
    assert cache is not None
    assert made == [2, 4, 5]
    assert [cache.texts[number] for (number,) in cache.captions] == odd


def test_two_runs_make_a_cache_one_after_the_other(tmp_path: Path) -> None:
    """Each would write its captions beneath the other's."""
    write_balls(tmp_path / "data", count=6)
    run = ldm_run(tmp_path, cache={"folder": tmp_path / "cache", "chunk": 2})
    folder = read_folder(run.data.folder)
    begun, go_on, encoded = threading.Event(), threading.Event(), []

    def encode(chunk: Chunk) -> dict[str, Tensor]:
        encoded.append(chunk)
        begun.set()
        assert go_on.wait(30)
        return as_they_are(chunk)

    def made() -> Cache | None:
        return cache_of(run, folder, "shared", encode, lambda *_: None, lambda: False)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(made)
        assert begun.wait(30)
        assert cache_of(run, folder, "shared", encode, lambda *_: None, lambda: True) is None  # stops waiting
        second = pool.submit(made)
        go_on.set()
        one, other = first.result(), second.result()
    assert one is not None
    assert other is not None
    assert len(encoded) == 3
    assert one.captions == other.captions
    captions = one.folder / CAPTIONS
    before = captions.stat().st_mtime_ns
    made()
    assert captions.stat().st_mtime_ns == before  # who reads writes nothing
    captions.write_text("".join(captions.read_text("utf-8").splitlines(keepends=True)[:3]), "utf-8")
    again = made()
    assert again is not None
    assert (len(encoded), again.captions) == (6, one.captions)  # captions that were lost are made again


def as_they_are(chunk: Chunk) -> dict[str, Tensor]:
    return {"latent": chunk.pictures.float()}

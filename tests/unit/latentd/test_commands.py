"""What commands print for programs, what they tell of the environment, and what can be drawn without a text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from redis import Redis
from rich.markup import render
from typer.core import TyperGroup
from typer.main import get_command

from core.settings import Settings, variable
from core.version import __version__
from latentd.cli import app, main
from latentd.cli.console import counted
from service.auth import keys
from tests.modules import ROOT
from tests.tiny import write_tiny, write_tiny_inpaint, write_tiny_upscale

LONG = "a-model-with-a-name-that-is-longer-than-the-usual-terminal-is-wide-" * 2


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tiny models, named by LATENTD_MODELS_DIR; the working folder is empty."""
    folder, here = tmp_path / "models", tmp_path / "here"
    here.mkdir()
    write_tiny_inpaint(folder / "tiny")
    write_tiny_upscale(folder / "tiny-upscale")
    monkeypatch.chdir(here)
    monkeypatch.setenv("LATENTD_MODELS_DIR", str(folder))
    monkeypatch.setenv("LATENTD_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "60")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command that succeeds; what it prints on standard output."""

    def run(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["latentd", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        assert (caught.value.code or 0) == code, said.err
        return said.out if code == 0 else said.err

    return run


def test_the_version(run: Any) -> None:
    assert run("--version") == f"latentd {__version__}\n"


def test_one_of_a_thing_is_no_plural() -> None:
    assert [counted(number, "pair") for number in (0, 1, 2)] == ["0 pairs", "1 pair", "2 pairs"]


def _commands(command: Any) -> Iterator[Any]:
    yield command
    for each in command.commands.values() if isinstance(command, TyperGroup) else ():
        yield from _commands(each)


def test_help_says_what_is_written_in_it() -> None:
    """rich takes `[word]` for a style and `:id:` for a picture."""
    shown = [each.help or "" for each in _commands(get_command(app))]
    shown += [getattr(each, "help", None) or "" for command in _commands(get_command(app)) for each in command.params]
    assert sum(map(len, shown)) > 1000
    for text in shown:
        assert render(text).plain == text.replace("\\[", "["), text


def test_settings_as_json(run: Any, models: Path) -> None:
    found = {row["variable"]: row for row in json.loads(run("settings", "--json"))}
    assert found.keys() == {variable(name) for name in Settings.model_fields}
    assert found["LATENTD_MODELS_DIR"]["value"] == str(models)
    assert all(row["meaning"] for row in found.values())


def test_models_as_json(run: Any, models: Path) -> None:
    (models / "broken.safetensors").write_bytes(b"no")
    found = json.loads(run("models", "list", "--json"))
    assert [card["id"] for card in found["models"]] == ["tiny", "tiny-upscale"]
    assert {Path(each["path"]).name: each["error"] is None for each in found["files"]}["broken.safetensors"] is False
    report = json.loads(run("models", "inspect", str(models / "tiny"), "--json"))
    assert report["path"] == str(models / "tiny")
    assert report["tasks"]
    assert report["parts"][0]["parameters"] > 0


def test_keys_as_json_without_digests(run: Any, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    key, _ = keys.create(redis, "phone", ["read"], 60, 2.5)
    text = run("keys", "list", "--json")
    (found,) = json.loads(text)
    assert (found["id"], found["requests_per_minute"], found["gpu_s_per_day"]) == (key.id, 60, 2.5)
    assert key.digest not in text


def test_no_table_is_cut_where_it_is_piped(run: Any, models: Path) -> None:
    (models / LONG).mkdir()
    card = json.loads((models / "tiny" / "card.json").read_text()) | {"id": LONG}
    (models / LONG / "card.json").write_text(json.dumps(card))
    for command in (["models", "list"], ["doctor"], ["settings"]):
        printed = run(*command)
        assert "…" not in printed.replace("LATENTD_…", "")
        assert LONG in printed or command == ["settings"]
    meaning = Settings.model_fields["webhook_allow"].description
    assert meaning is not None
    assert meaning in printed


def test_doctor_tells_of_variables_that_nothing_reads(run: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTD_QUEUE_LIMITS", "5")
    monkeypatch.setenv("LATENTD_MODEL", "emojis")
    Path(".env").write_text("LATENTD_METRIC_PORT=1\nlatentd_port=8001\n")
    found = [(row["what"], row["found"]) for row in json.loads(run("doctor", "--json"))]
    assert [text for what, text in found if what == "unknown variable"] == [
        "LATENTD_METRIC_PORT is no setting; LATENTD_METRICS_PORT is one",
        "LATENTD_QUEUE_LIMITS is no setting; LATENTD_QUEUE_LIMIT is one",
    ]
    (wrong,) = [text for what, text in found if what == "wrong setting"]
    assert wrong == f"LATENTD_MODEL='emojis': no such model in {models}; there are: tiny, tiny-upscale"


@pytest.mark.usefixtures("models")
def test_a_plan_without_redis_is_one_line(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    mix = tmp_path / "mix.json"
    mix.write_text(
        '[{"model": "tiny", "kind": "txt2img", "width": 64, "height": 64, "steps": 4, "weight": 1}]', "utf-8"
    )
    said = run("plan", "--mix", str(mix), "--rate", "1", "--p99", "1", code=1)
    assert said.startswith("latentd: Redis at redis://127.0.0.1:1 doesn't answer")
    assert said.count("\n") == 1


def test_a_package_that_is_missing_is_one_line_and_nothing_is_started_again() -> None:
    """As where only the gateway's part was installed."""
    code = "import sys; sys.modules['torch'] = None; sys.argv[1:] = ['worker']; from latentd.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert json.loads(ended.stderr)["detail"].startswith("torch isn't installed here")


@pytest.mark.usefixtures("models")
def test_a_wrong_default_model_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTD_MODEL", "emojis")
    assert "LATENTD_MODEL='emojis': no such model" in run("generate", "cat", code=1)
    assert "LATENTD_MODEL='emojis': no such model" in run("worker", code=1)
    run("generate", "cat", "--model", "tiny", "--steps", "1")


@pytest.mark.usefixtures("models")
def test_a_picture_that_cannot_be_read_is_named(run: Any) -> None:
    Image.new("RGB", (32, 32)).save("good.png")
    Path("bad.png").write_bytes(b"no picture")
    Image.new("L", (32, 32)).save("empty.png")
    assert run("upscale", "bad.png", code=1).startswith("latentd: bad.png: image can't be read")
    assert run("inpaint", "good.png", "bad.png", code=1).startswith("latentd: bad.png: mask can't be read")
    assert run("inpaint", "good.png", "empty.png", code=1).startswith("latentd: empty.png: the mask is empty")


@pytest.mark.usefixtures("models")
def test_drawing_twice_makes_two_files_and_json_names_them(run: Any) -> None:
    first, second = (json.loads(run("generate", "--json", "--steps", "1", "-n", "2")) for _ in range(2))
    assert [image["path"] for image in first["images"]] == ["generate-0.png", "generate-1.png"]
    assert [image["path"] for image in second["images"]] == ["generate-2.png", "generate-3.png"]
    assert first["request"]["seeds"] == [image["seed"] for image in first["images"]]
    with Image.open("generate-3.png") as picture:
        assert picture.size == (second["images"][1]["width"], second["images"][1]["height"])


def test_models_that_read_no_text_can_be_drawn_from(run: Any, models: Path) -> None:
    for kind in ("bare", "class", "ldm-inpaint"):
        write_tiny(kind, models / kind)
    Image.new("RGB", (32, 32), "white").save("white.png")
    for command in ("generate --model bare", "generate --class-id 3 --model class", "inpaint white.png white.png"):
        model = ["--model", "ldm-inpaint"] if command.startswith("inpaint") else []
        assert run(*command.split(), *model, "--steps", "1", "-o", "o.png").endswith("\n")
    assert {path.name for path in Path().glob("o*.png")} == {"o.png", "o-1.png", "o-2.png"}
    assert "model class can't txt2img" in run("generate", "--model", "class", code=1)


def test_every_kind_is_a_command_and_minus_one_draws_a_seed(run: Any, models: Path) -> None:
    for kind in ("map", "plain", "layout"):
        write_tiny(kind, models / kind)
    Image.new("RGB", (32, 32), "white").save("white.png")
    Image.new("L", (32, 32), 1).save("classes.png")
    drawn = json.loads(
        run("img2img", "white.png", "red", "--strength", "0.5", "--seed", "-1", "--steps", "2", "--json")
    )
    assert (drawn["request"]["kind"], drawn["images"][0]["path"]) == ("img2img", "img2img.png")
    assert drawn["images"][0]["seed"] >= 0
    mapped = json.loads(run("semantic2img", "classes.png", "--steps", "1", "--json"))
    assert (mapped["request"]["kind"], mapped["images"][0]["width"]) == ("semantic2img", 32)
    Path("boxes.json").write_text('[{"box": [0, 0, 0.5, 1], "class_id": 3}]', "utf-8")
    laid_out = json.loads(run("layout2img", "boxes.json", "--steps", "1", "--json"))
    assert laid_out["request"]["tokens"][:3] == [3, 0, 94]
    assert "white.png isn't JSON: it must be a list of boxes" in run("layout2img", "white.png", code=1)
    assert "no.json" in run("layout2img", "no.json", code=1)


def test_pictures_are_changed_as_told_and_drawn_over_by_depth(run: Any, models: Path) -> None:
    for kind in ("edit", "depth"):
        write_tiny(kind, models / kind)
    Image.new("RGB", (32, 32), "white").save("white.png")
    Image.linear_gradient("L").resize((32, 32)).save("depth.png")
    edited = json.loads(
        run("img2img", "white.png", "red", "--model", "edit", "--image-guidance-scale", "2", "--steps", "1", "--json")
    )
    assert edited["request"]["image_guidance_scale"] == 2.0
    deep = json.loads(run("depth2img", "white.png", "depth.png", "red", "--steps", "2", "--json"))
    assert (deep["request"]["kind"], deep["request"]["strength"]) == ("depth2img", 0.8)
    assert "white.png: depth is the same everywhere" in run("depth2img", "white.png", "white.png", code=1)


def test_a_text_model_without_a_tokenizer_is_left_out_with_what_it_needs(run: Any, models: Path) -> None:
    for name in ("model.json", "unet.safetensors", "first_stage.safetensors", "conditioner.safetensors"):
        (models / "mute").mkdir(exist_ok=True)
        shutil.copy(models / "tiny" / name, models / "mute" / name)
    needed = "no tokenizer: put tokenizer.json beside it in a folder tokenizer/"
    assert needed in " ".join(run("models", "list").split())
    assert (
        "no such model" in run("generate", "red", "--model", "mute", code=1) or not (models / "mute/card.json").exists()
    )
    assert needed in " ".join(run("models", "inspect", str(models / "mute")).split())
    shutil.copytree(models / "tiny" / "tokenizer", models / "mute" / "tokenizer")
    run("generate", "red", "--model", "mute", "--steps", "1")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_terminals_that_lack_a_sign_are_told_the_rest(encoding: str) -> None:
    command = [sys.executable, "-m", "latentd", "generate", "--help"]
    env = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, env=env)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"--guidance-scale" in ended.stdout


def test_json_says_every_sign_in_any_encoding() -> None:
    code = "from latentd.cli.console import print_json; print_json({'path': 'é×.png'})"
    env = os.environ | {"PYTHONIOENCODING": "ascii:replace"}
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, env=env).stdout
    assert json.loads(told) == {"path": "é×.png"}


def test_a_process_ends_at_once_with_its_status_while_a_thread_compiles() -> None:
    """Python would wait for what the compiler registered to run at the end, or abort."""
    code = (
        "import atexit, sys; import models.pipeline.fused as fused; from latentd.cli import process\n"
        "atexit.register(lambda: print('waits')); fused.ALONE.acquire(); sys.argv[0] = 'latentd'; process()"
    )
    for arguments, status in ((["--version"], 0), (["models", "inspect", "nowhere"], 1)):
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, check=False, capture_output=True, text=True
        )
        assert (ended.returncode, "waits" in ended.stdout) == (status, False), ended.stderr
        assert ended.stdout + ended.stderr


@pytest.mark.parametrize("words", [["settings"], ["settings", "--json"], ["--version"], ["--help"]])
def test_an_output_that_takes_nothing_is_one_line(words: list[str]) -> None:
    reading, left = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    for out, told in ((left, ""), (full, "latentd: standard output: No space left on device\n")):
        command = [sys.executable, "-m", "latentd", *words]
        ended = subprocess.run(command, cwd=ROOT, check=False, stdout=out, stderr=subprocess.PIPE, text=True)
        os.close(out)
        assert (ended.returncode, ended.stderr) == (1, told)


def test_a_process_that_ends_at_once_needs_no_reader() -> None:
    code = (
        "import os, sys; import models.pipeline.fused as fused; from latentd.cli import _leave\n"
        "fused.ALONE.acquire(); print('pending'); os.dup2(os.open(sys.argv[1], os.O_WRONLY), 1)\n"
        "_leave(SystemExit(3))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "/dev/full"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (3, "")


def test_a_process_that_ends_at_once_leaves_no_helpers() -> None:
    """Its own ending would have ended them; who reads its output would wait for them."""
    code = (
        "import multiprocessing as m, time; import models.pipeline.fused as fused; from latentd.cli import _leave\n"
        "m.get_context('fork').Process(target=time.sleep, args=(300,), daemon=True).start()\n"
        "fused.ALONE.acquire(); _leave(SystemExit(3))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, stdout=subprocess.PIPE, timeout=60)
    assert ended.returncode == 3

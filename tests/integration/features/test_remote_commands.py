"""Commands that draw, with --server: files, messages and errors as without, and nothing is loaded that draws."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from redis import Redis

from latentd.child import die_with_parent
from latentd.cli import main
from latentd.cli.drawing.remote import REFUSED_S
from service.auth import keys
from tests.controls import CASE, write_controls
from tests.faults.proxy import Proxy
from tests.integration.rig import write_models
from tests.loras import write_middle
from tests.service import Service, free_port
from tests.starved import allowance
from tests.tiny import write_tiny
from tests.waits import wait_for

HEAVY = ("torch", "transformers", "fastapi", "rq", "models", "workers", "service", "jobs.create")
TOLD = "import sys; from latentd.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
Run = Callable[..., "Said"]


class Said:
    """What a command printed; of standard error the last line without its end."""

    def __init__(self, out: str, err: str) -> None:
        self.out, self.err = out, err
        self.last = err.rstrip("\n").rpartition("\n")[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_models(tmp_path_factory.mktemp("models"))
    write_tiny("map", folder / "map")
    shutil.copytree(CASE / "two_controlnets" / "pipeline", folder / "led")
    write_controls(folder)
    (folder / "Lora").mkdir()
    write_middle(folder / "Lora" / "middle.safetensors")
    return folder


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[Service]:
    settings = {"LATENTD_MODELS_DIR": str(models), "LATENTD_MODEL": "tiny", "LATENTD_THREADS": "1"}
    with Service(settings) as started:
        yield started


@pytest.fixture
def run(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder."""
    for name in ("LATENTD_SERVER", "LATENTD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LATENTD_MODELS_DIR", str(models))
    monkeypatch.setenv("LATENTD_MODEL", "tiny")
    monkeypatch.setenv("LATENTD_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 32), "navy").save("picture.png")
    Image.new("L", (64, 32), 255).save("mask.png")
    Image.new("RGB", (64, 64), "red").save("square.png")
    Image.new("L", (32, 32), 1).save("classes.png")

    def run(command: str, code: int = 0) -> Said:
        monkeypatch.setattr(sys, "argv", ["latentd", *command.split()])
        with pytest.raises(SystemExit) as caught:
            main()
        said = Said(*capsys.readouterr())
        assert (caught.value.code or 0) == code, said.err
        return said

    return run


def start(command: str, **env: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "latentd", *command.split()]
    return subprocess.Popen(words, env=os.environ | env, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent)


def texts(path: str) -> dict[str, Any]:
    """What a PNG says of how it was made."""
    with Image.open(io.BytesIO(Path(path).read_bytes())) as picture:
        made: dict[str, Any] = json.loads(picture.info["latentd"])
        return made


@pytest.mark.parametrize(
    "command",
    [
        "generate cat --seed 7 --steps 2 -n 2 --schedule karras --guidance-interval 0.2 0.8 --lora middle:0.5",
        "generate cat --seed 7 --steps 2 --model led --width 64 --height 64 --control lines=square.png:0.5:canny",
        "inpaint picture.png mask.png cat --seed 7 --steps 2 --feather 2",
        "img2img picture.png cat --seed 7 --steps 2 --model led --control any=mask.png --control lines=mask.png",
        "upscale picture.png --seed 7 --steps 1",
        "semantic2img classes.png --seed 7 --steps 1 --schedule karras",
    ],
)
def test_a_server_draws_what_would_be_drawn_here(command: str, service: Service, run: Run) -> None:
    here = run(f"{command} -o here.png")
    there = run(f"{command} -o there.png --server {service.url}")
    assert there.out == here.out.replace("here", "there")
    files = sorted(path.name for path in Path().glob("here*.png"))
    assert files == [path.name.replace("there", "here") for path in sorted(Path().glob("there*.png"))]
    assert [texts(file) for file in files] == [texts(file.replace("here", "there")) for file in files]
    bar = re.compile(r"^(\w+ seed 7) ━+ (\d+/\d+)", re.MULTILINE)
    assert bar.findall(there.err) == bar.findall(here.err) != []


def test_the_environment_names_the_server_and_an_option_wins(
    service: Service, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTD_SERVER", f"{service.url}/")
    told = json.loads(run("generate cat --seed 7 --steps 1 --json").out)
    assert service.client.get("/v1/jobs", params={"limit": 1}).json()["items"][0]["request"] == told["request"]
    assert run("generate cat --device cpu", 1).err.startswith(f"latentd: --device cpu: can't be told to {service.url}")
    here = json.loads(run("generate cat --seed 7 --steps 1 --json --device cpu --server=").out)
    assert here["request"] == told["request"]
    assert [Path(each["path"]).name for told in (told, here) for each in told["images"]] == [
        "generate.png",
        "generate-1.png",
    ]


def test_loras_and_controls_are_the_server_s(service: Service, run: Run) -> None:
    there = f"--server {service.url}"
    assert run(f"generate cat --lora none:0.5 {there}", 1).err.startswith("latentd: no LoRA")
    assert run(f"generate cat --control none=mask.png {there}", 1).err.startswith("latentd: no ControlNet")


def test_errors_are_one_line(service: Service, run: Run) -> None:
    Path("bad.png").write_bytes(b"no picture")
    there = f"--server {service.url}"
    for command, told in {
        "generate cat --steps 0": "steps is 0; it must be",
        "generate cat -n 17": "num_images is 17; it must be",
        "generate cat --model none": "",
        "inpaint picture.png bad.png": "bad.png: mask can't be read",
        "upscale gone.png": "gone.png: No such file",
    }.items():
        here, said = run(command, 1), run(f"{command} {there}", 1)
        assert said.err.startswith(f"latentd: {told}")
        assert (said.out, said.err.count("\n"), here.err.count("\n")) == ("", 1, 1)
    assert not list(Path().glob("generate*"))


def test_who_is_no_latentd_is_named(run: Run) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    allowed, began = allowance(os.getpid()), time.monotonic()
    said = run(f"generate cat --server {nobody}", 1).err
    assert time.monotonic() - began - allowed() < 5 * REFUSED_S
    assert said.startswith(f"latentd: {nobody}: no connection in 1.5 s (")
    assert said.endswith("); does latentd run there?\n")
    with HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.handle_request).start()
        url = f"http://127.0.0.1:{other.server_port}"
        said = run(f"generate cat --server {url}", 1).err
    assert said == f"latentd: {url}: {url}/v1/txt2img answered 200 with text/html: is it latentd's address?\n"


class Other(BaseHTTPRequestHandler):
    """A page of somebody else's."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>Hello")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_nothing_is_loaded_that_draws(service: Service, tmp_path: Path) -> None:
    words = [sys.executable, "-c", TOLD, "generate", "cat", "--steps", "1", "--server", service.url]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=180)
    loaded = set(done.stderr.split())
    assert loaded.isdisjoint(HEAVY)
    assert "latentd_client" in loaded
    assert done.stdout.startswith("generate.png: 64×64, seed ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_cancel_the_job_there(service: Service, number: signal.Signals, code: int) -> None:
    process = start(f"generate cat --steps 1000 -n 16 --server {service.url}")
    wait_for(lambda: state(service) == ("running", 16_000), 120, "start")
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    told = f"job {jobs(service)[0]['id']} is canceled"
    assert (process.returncode, told in said, "Traceback" in said) == (code, True, False)
    wait_for(lambda: state(service)[0] == "canceled", 60, "end")


def test_ctrl_c_before_the_answer_cancels_the_job_that_it_was_about(service: Service) -> None:
    before = {job["id"] for job in jobs(service)}
    with Proxy(("127.0.0.1", service.port)) as proxy:
        proxy.latency_s = 60
        process = start(f"generate cat --steps 1000 -n 16 --server http://127.0.0.1:{proxy.port}")
        wait_for(lambda: len(jobs(service)) > len(before), 60, "submission")
        proxy.latency_s = 0
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=45)
        assert process.returncode == 130
    [job] = [job for job in jobs(service) if job["id"] not in before]
    wait_for(lambda: service.client.get(f"/v1/jobs/{job['id']}").json()["status"] == "canceled", 60, "end")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_at_a_silent_server_they_end_within_seconds_and_say_what_is_unknown(number: signal.Signals, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = start(f"generate cat --server {url}")
        connection, _ = server.accept()  # it asks, and gets no answer
        with connection:
            assert connection.recv(1)
            process.send_signal(number)
            allowed, began = allowance(process.pid), time.monotonic()
            _, said = process.communicate(timeout=120)
            assert time.monotonic() - began - allowed() < 15
    assert (process.returncode, "goes on there" in said, "Traceback" in said) == (code, True, False)


def test_what_json_cant_say_is_one_line(client: httpx2.Client, run: Run) -> None:
    url = str(client.base_url).rstrip("/")
    assert run(f"generate caf\udce9 --server {url}", 1).last == (
        rf"latentd: {url}: prompt is 'caf\udce9', which isn't UTF-8"
    )
    said = run(f"generate cat --guidance-scale nan --server {url}", 1).last
    assert said == f"latentd: {url}: guidance_scale is nan; it must be a finite number"
    assert client.get("/v1/jobs").json()["items"] == []


def state(service: Service) -> tuple[str, int]:
    """Of the newest job, with its steps."""
    for newest in jobs(service):
        return newest["status"], newest["progress"]["steps"]
    return "none yet", 0


def jobs(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.client.get("/v1/jobs", params={"limit": 100}).json()["items"]
    return found


def test_a_key_is_sent_and_a_job_that_waits_is_canceled(client: httpx2.Client, redis: Redis, run: Run) -> None:
    _, token = keys.create(redis, "me", ["generate", "read"])
    url = str(client.base_url).rstrip("/")
    said = run(f"generate cat --server {url}", 1).last
    assert said.startswith("latentd: ")
    assert said.endswith("(LATENTD_API_KEY is sent as the key)")
    process = start(f"generate cat --server {url}", LATENTD_API_KEY=token)
    me = {"Authorization": f"Bearer {token}"}
    wait_for(lambda: bool(client.get("/v1/jobs", headers=me).json()["items"]), 60, "submission")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, "is canceled" in said) == (130, True)
    assert [job["status"] for job in client.get("/v1/jobs", headers=me).json()["items"]] == ["canceled"]

"""The Python client, installed apart, against a service: what its README promises."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from latentd_client import Client, Refused, Unreachable
from PIL import Image

from tests.clients.installed import CLIENT, install, run
from tests.faults.proxy import Proxy
from tests.service import Service, free_port

pytestmark = pytest.mark.timeout(600)  # a README's example took 50 s beside other tests


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("client") / "venv")


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as made:
        yield made


@pytest.mark.parametrize("example", range(3))
def test_examples_of_its_readme_run_where_nothing_else_is_installed(
    python: Path, service: Service, tmp_path: Path, example: int
) -> None:
    program = re.findall(r"```python\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL)[example]
    printed = run(python, program.replace("http://127.0.0.1:8000", service.url), tmp_path, LATENTD_SERVER=service.url)
    pictures = sorted(tmp_path.glob("*.png"))
    assert [len(pictures), printed.count("12 of 12")] == [[1, 0], [0, 1], [3, 0]][example]
    assert ("WebPImageFile" in printed) == (example == 1)
    assert {Image.open(io.BytesIO(picture.read_bytes())).size for picture in pictures} <= {(256, 256)}


def test_pictures_go_up_as_images_bytes_and_paths(client: Client, tmp_path: Path) -> None:
    picture, mask = Image.new("RGB", (128, 64), "navy"), Image.new("L", (128, 64), 255)
    picture.save(tmp_path / "small.png")
    picture.save(oddly := str(tmp_path / "caf\udce9.png"))  # a name that isn't UTF-8
    assert client.dry_run("upscale", image=oddly)["request"]["kind"] == "upscale"
    painted = client.images(client.inpaint(picture, mask, "red heart", steps=2))
    (large,) = client.images(client.upscale(str(tmp_path / "small.png"), steps=1))
    (again,) = client.images(client.upscale((tmp_path / "small.png").read_bytes(), steps=1, seed=1))
    assert [painted[0].size, large.size, again.size] == [(128, 64), (512, 256), (512, 256)]


def test_what_cannot_work_names_field_value_and_bound(client: Client) -> None:
    with pytest.raises(Refused, match="steps") as caught:
        client.txt2img("red heart", steps=0)
    problem = caught.value.problem
    assert (problem.status, problem.field, problem.value) == (422, "steps", 0)
    assert problem.bound is not None


def test_jobs_are_listed_canceled_and_purged(client: Client) -> None:
    job = client.submit("txt2img", prompt="red heart", steps=200)
    assert client.cancel(job).status in ("canceled", "running")
    events = list(client.events(job))
    assert events[-1].type == "canceled"
    assert job.id in [each.id for each in client.jobs(limit=1)]
    client.purge(job)
    with pytest.raises(Refused, match="purged"):
        client.job(job.id)


def test_a_dry_run_makes_no_job(client: Client) -> None:
    before = [job.id for job in client.jobs()]
    assert client.dry_run("txt2img", prompt="red heart")["request"]["prompt"] == "red heart"
    assert [job.id for job in client.jobs()] == before


def test_a_lost_answer_makes_no_second_job(service: Service) -> None:
    with Proxy(("127.0.0.1", service.port)) as proxy, Client(f"http://127.0.0.1:{proxy.port}") as client:
        before = {job.id for job in client.jobs()}
        proxy.lose_answer_to = b"POST /v1/txt2img"
        job = client.txt2img("red heart", steps=1)
        assert proxy.lose_answer_to == b""
        assert {each.id for each in client.jobs()} - before == {job.id}


def test_previews_are_told_apart_by_their_pictures(client: Client) -> None:
    job = client.txt2img("red heart", width=64, height=64, num_images=2, steps=400, preview_every=20)
    for event in client.events(job):
        if len(event.previews) == 2:
            break
    client.cancel(job)
    assert event.previews.keys() == {0, 1}
    assert event.previews[0].tobytes() != event.previews[1].tobytes()
    assert event.preview == event.previews[0]


def test_a_broken_event_stream_goes_on_where_it_was(service: Service) -> None:
    with Proxy(("127.0.0.1", service.port)) as proxy, Client(f"http://127.0.0.1:{proxy.port}") as client:
        job, events = client.txt2img("red heart", steps=40), []
        for event in client.events(job):
            events.append(event)
            if event.type == "step" and event.data["step"] == 3:
                proxy.cut()
        assert len({event.id for event in events}) == len(events)
        assert [event.type for event in events if event.type != "step"] == ["queued", "started", "image", "succeeded"]


def test_nobody_there_is_said_after_the_time_that_one_waits() -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}", patience_s=0.5) as client,
        pytest.raises(Unreachable, match=r"no connection in 0\.5 s"),
    ):
        client.models()


def test_one_who_never_answered_is_given_less_time_than_one_who_did(service: Service) -> None:
    with Proxy(("127.0.0.1", service.port)) as proxy:
        client = Client(f"http://127.0.0.1:{proxy.port}", patience_s=1.5, refused_s=0.2)
        stranger = Client(f"http://127.0.0.1:{proxy.port}", patience_s=1.5, refused_s=0.2)
        client.models()
    with client, stranger:
        for each, told in ((client, r"in 1\.5 s"), (stranger, r"no connection in 0\.2 s")):
            with pytest.raises(Unreachable, match=told):
                each.models()

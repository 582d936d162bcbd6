"""The Dockerfile and docker-compose.yml: valid, pinned, without rights that they don't need, true of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from core.settings import Settings
from tests.deploy.files import COMPOSE, ROOT, services

BIN = Path(sys.executable).parent
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing() -> None:
    run(BIN / "hadolint", "--failure-threshold", "style", "Dockerfile")


def test_compose_is_valid() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_every_image_is_pinned() -> None:
    ours = {"latentd-gateway", "latentd-worker", "latentd-worker-cpu"}
    theirs = [service["image"] for service in services().values() if service["image"] not in ours]
    bases = [line.split()[1] for line in DOCKERFILE.splitlines() if line.startswith("FROM")]
    for image in [*theirs, *(base for base in bases if ":" in base)]:
        assert re.search(r":v?[A-Z.]*\d+[.\d-]+", image), image
        assert "latest" not in image


def test_every_service_does_without_rights() -> None:
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
    assert {name: service["cap_add"] for name, service in services().items() if "cap_add" in service} == {
        "s3-volume": ["CHOWN"]
    }
    for name in ("redis", "s3"):
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", services()[name]["user"]), name
    assert DOCKERFILE.count("USER 10001:10001") == 2


def test_no_log_fills_the_disk() -> None:
    for name, service in services().items():
        assert service["logging"] == {"driver": "json-file", "options": {"max-size": "50m", "max-file": "4"}}, name


def test_what_is_published_is_published_on_loopback() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_keeps_data_and_what_looks_on_share_no_network() -> None:
    places = {name: set(service.get("networks", [])) for name, service in services().items()}
    keep, look = places["redis"] | places["s3"], places["prometheus"] | places["grafana"]
    assert keep.isdisjoint(look)
    for name in ("gateway", "worker", "worker-cpu"):
        assert places[name] == keep | look, name


def test_the_volume_of_s3_is_given_to_its_user() -> None:
    (script,) = services()["s3-volume"]["entrypoint"][2:]
    assert f"chown -R {services()['s3']['user']} " in script


def test_environment_names_settings_that_there_are() -> None:
    known = {"REDIS_URL", *(f"LATENTD_{name.upper()}" for name in Settings.model_fields)}
    for name in ("gateway", "worker", "worker-cpu"):
        assert set(services()[name]["environment"]) <= known, name


def test_a_worker_has_longer_to_stop_than_it_drains() -> None:
    for name in ("worker", "worker-cpu"):
        grace = float(services()[name]["stop_grace_period"].removesuffix("s"))
        assert grace >= Settings.model_fields["drain_s"].default + 10


def test_a_worker_for_a_gpu_never_draws_on_the_cpu() -> None:
    """By `auto` a driver that is too old would leave a slow worker on the same queues. A container sees one card."""
    command = ["latentd", "worker", "--device", "cuda", "--metrics-port", "9101"]
    assert services()["worker"]["command"] == command
    (cards,) = services()["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert cards["count"] == 1
    assert "cuda" not in services()["worker-cpu"]["command"]


def test_a_health_check_waits_for_models_as_long_as_compose() -> None:
    check = DOCKERFILE.split("AS worker\n")[1].split("HEALTHCHECK ")[1].split("\n")[0]
    assert f"--start-period={services()['worker']['healthcheck']['start_period']} " in check


def test_the_gateway_image_holds_neither_torch_nor_weights() -> None:
    stage = DOCKERFILE.split("AS gateway\n")[1].split("\nFROM")[0]
    copied = re.findall(r"^COPY (?:--from=\S+ )?(\S+)", stage, re.MULTILINE)
    assert copied == ["/opt/venv", "/weights", "clients", "contract", "core", "jobs", "latentd", "service"]
    install = DOCKERFILE.split("AS install-gateway\n")[1].split("\nFROM")[0]
    assert "worker" not in install


def test_docker_is_sent_what_is_copied_and_no_more() -> None:
    sent = {
        line[1:].split("/")[0]
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert sent == {path.split("/")[0] for line in lines for path in line.split()}

"""Commands that tell: settings, doctor."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import redis
import typer

from core.clock import TOLERATED_S, RedisClock
from core.errors import ConfigurationError
from core.settings import Settings, variable, without_password
from core.version import __version__
from jobs.layout import evicting, too_old
from latentd.cli.console import Json, plain, print_json, table_of
from latentd.cli.environment import unknown_variables, wrong_model
from latentd.cli.serve import settings_with


def settings(json: Json = False) -> None:
    """Print every setting: its variable, its value now, and what it means."""
    now = settings_with()
    rows = [
        (variable(name), without_password(str(getattr(now, name))), about.description or "")
        for name, about in Settings.model_fields.items()
    ]
    _show(("variable", "value", "meaning"), rows, "latentd settings", json)


def _show(headers: tuple[str, ...], rows: Iterable[tuple[str, ...]], title: str, json: bool) -> None:
    """Print rows for people or programs."""
    if json:
        print_json([dict(zip(headers, row, strict=True)) for row in rows])
        return
    table = table_of(*headers, title=title)
    for row in rows:
        table.add_row(*row)
    plain().print(table)


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def torch_facts() -> list[tuple[str, str]]:
    """Build, device and threads of torch, where it is installed."""
    if installed("torch") == "not installed":
        return [("torch", "not installed: this machine can run the gateway, not a worker")]
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    return [("torch", torch.__version__), ("device", device), ("threads", str(torch.get_num_threads()))]


def redis_fact(now: Settings) -> str:
    """Version of the Redis that answers, or of the server that `latentd up` would start."""
    if now.redis_url is None and not now.redis_socket.exists():
        from latentd.embedded_server import find_server, version_of

        try:
            binary = find_server(now.redis_server)
        except ConfigurationError as error:
            return error.detail
        found = ".".join(map(str, version_of(binary) or ()))
        return f"not running; `latentd up` would start {binary}, version {found}"
    try:
        with redis.Redis.from_url(now.redis) as there:
            return f"{without_password(now.redis)} answers: {_told_by(there)}"
    except redis.exceptions.RedisError as error:
        return f"{without_password(now.redis)} does not answer: {error}"


def _told_by(there: redis.Redis) -> str:
    """Version, and what is wrong with it: too old, keys that it may evict, another time than this machine's."""
    server = there.info("server")
    name, version_there = ("Valkey", "valkey_version") if "valkey_version" in server else ("Redis", "redis_version")
    facts = [f"{name} {server[version_there]}"]
    if old := too_old({"version": server["redis_version"]}):
        facts.append(old)
    if policy := evicting(there):
        facts.append(f"maxmemory-policy is {policy}, by which jobs may be lost: set it to noeviction")
    clock = RedisClock()
    clock.sync(there)
    ahead = clock.own_ahead_s()
    if abs(ahead) > TOLERATED_S:
        facts.append(f"this machine's clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} Redis's")
    return "; ".join(facts)


def model_facts(now: Settings) -> list[tuple[str, str]]:
    """The checkpoints that have a card, and a default model that isn't among them."""
    from service.requests.cards import installed_cards

    cards = installed_cards(now.models_dir)
    wrong = wrong_model(now, cards)
    found = [("checkpoints", ", ".join(cards) or f"none in {now.models_dir}")]
    return found if wrong is None else [*found, ("wrong setting", wrong)]


def doctor(json: Json = False) -> None:
    """Check versions, device, threads, Redis, weights and variables that nothing reads."""
    now = settings_with()
    rows = [
        ("latentd", __version__),
        ("python", platform.python_version()),
        ("cores", str(os.cpu_count())),
        *((package, installed(package)) for package in ("fastapi", "rq", "redis", "pillow", "obstore")),
        *torch_facts(),
        ("Redis", redis_fact(now)),
        *model_facts(now),
        *(("unknown variable", line) for line in unknown_variables()),
    ]
    _show(("what", "found"), rows, "latentd doctor", json)


def register(app: typer.Typer) -> None:
    for command in (settings, doctor):
        app.command()(command)

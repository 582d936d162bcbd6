"""Commands about API keys: create, list, revoke, clear. They need Redis alone."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer
from redis import Redis
from redis.exceptions import RedisError

from core.errors import Unavailable
from core.settings import Settings, without_password
from jobs.layout import check_version
from latentd.cli.console import Json, plain, print_json, table_of
from latentd.cli.serve import settings_with

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


LONGEST = timedelta(days=3650)
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_LIFETIME = re.compile(r"([0-9]{1,9})([dhms])")


class ScopeName(StrEnum):
    """What a key may do."""

    generate = "generate"
    read = "read"
    metrics = "metrics"
    admin = "admin"


def parse_lifetime(text: str) -> timedelta:
    """Read a time as 30d, 12h, 90m or 60s.

    Raises:
        BadParameter: it is none, or outside of 1 s to 3650 d.
    """
    found = _LIFETIME.fullmatch(text.strip())
    lifetime = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta()
    if not timedelta(seconds=1) <= lifetime <= LONGEST:
        raise typer.BadParameter(f"{text!r} is no time from 1s to {LONGEST.days}d, as 30d, 12h, 90m or 60s")
    return lifetime


Scopes = Annotated[list[ScopeName] | None, typer.Option("--scope", help="Repeatable. Default: generate and read.")]
Rate = Annotated[int | None, typer.Option(min=1, help="Requests a minute. Default: no limit.")]
Lifetime = Annotated[
    timedelta | None,
    typer.Option(
        "--expires-in",
        parser=parse_lifetime,
        metavar="TIME",
        help="How long it is accepted: 30d, 12h, 90m or 60s. Default: until it is revoked.",
    ),
]
Budget = Annotated[float | None, typer.Option(min=0.1, help="GPU-seconds a day (UTC). Default: no limit.")]


def connect(settings: Settings | None = None) -> Redis:
    """Redis, known to answer and to be one that this release can use.

    Raises:
        ConfigurationError: it is too old, or refuses us.
        Unavailable: it doesn't answer.
    """
    url = (settings or settings_with()).redis
    redis = Redis.from_url(url)
    try:
        check_version(redis)
    except RedisError as error:
        raise Unavailable(
            f"Redis at {without_password(url)} doesn't answer ({error}); start `latentd up`, or set REDIS_URL"
        ) from error
    return redis


@app.command()
def create(
    name: str, scope: Scopes = None, rate: Rate = None, gpu_seconds: Budget = None, expires_in: Lifetime = None
) -> None:
    """Make a key called NAME and print it: it is shown this once, only its hash is kept."""
    from service.auth import keys

    with connect() as redis:
        scopes = keys.parse_scopes([each.value for each in scope or (ScopeName.generate, ScopeName.read)])
        key, token = keys.create(redis, name, scopes, rate, gpu_seconds, expires_in)
    typer.echo(token)
    until = f", until {key.expires_at:%Y-%m-%d %H:%M:%S} UTC" if key.expires_at else ""
    plain(stderr=True).print(f"key {key.id} ({name}): {', '.join(key.scopes)}{until}")


@app.command("list")
def list_keys(json: Json = False) -> None:
    """Show every key ever made."""
    from service.auth import keys

    with connect() as redis:
        found = keys.all_keys(redis)
    if json:
        print_json([key.model_dump(mode="json", exclude={"digest"}) for key in found])
        return
    table = table_of("id", "name", "scopes", "requests/min", "GPU-s/day", "created", "expires", "revoked")
    for key in found:
        limits = [str(each or "") for each in (key.requests_per_minute, key.gpu_s_per_day)]
        dates = (key.created_at, key.expires_at, key.revoked_at)
        moments = [f"{each:%Y-%m-%d %H:%M}" if each else "" for each in dates]
        table.add_row(key.id, key.name, ", ".join(key.scopes), *limits, *moments)
    plain().print(table)


@app.command()
def revoke(id: str) -> None:
    """Refuse the key ID from now on. Keys stay on, also after the last one was revoked."""
    from service.auth import keys

    with connect() as redis:
        key = keys.revoke(redis, id)
    typer.echo(f"key {key.id} ({key.name}) is revoked")


@app.command()
def clear() -> None:
    """Forget every key: a gateway on loopback then asks for none, and shows everyone's jobs to everyone."""
    from service.auth import keys

    with connect() as redis:
        count = keys.remove_all(redis)
    typer.echo(f"{count} keys removed")

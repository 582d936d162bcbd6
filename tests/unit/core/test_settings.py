"""Settings come from the environment, and the embedded Redis' socket always fits the kernel's bound."""

import re
from pathlib import Path

import pytest
from redis import ConnectionPool

from core.errors import ConfigurationError
from core.settings import DAY_S, SOCKET_PATH_MAX, TEN_YEARS_S, Settings, read_settings, variable, without_password


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTD_ALLOWED_HOSTS", "images.example, other.example")
    assert Settings().allowed_hosts == ("images.example", "other.example")


def test_where_webhooks_may_go_is_read_in_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "LATENTD_WEBHOOK_ALLOW", "HTTP://Hooks.example.org.:*,*.example.org.,[fd00::1]:8443,fd00::2.:443,::1,10.0.0.0/8"
    )
    assert Settings().webhook_allow == (
        "http://hooks.example.org:*",
        "*.example.org",
        "[fd00::1]:8443",
        "[fd00::2]:443",
        "::1",
        "10.0.0.0/8",
    )


@pytest.mark.parametrize(
    "entry",
    [
        "https://hooks.example.org",
        "hooks.example.org/",
        "hooks.example.org:https",
        "hooks.example.org:65536",
        "hooks.example.org:0",
        "*example.org",
        "a.*.example.org",
        "*",
        "http://",
        "10.0.0.0/33",
        "hööks.example.org",
    ],
)
def test_where_no_webhook_can_go_is_refused(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("LATENTD_WEBHOOK_ALLOW", f"hooks.example.org, {entry}")
    with pytest.raises(ConfigurationError, match=f"must be hosts.*{re.escape(entry)}"):
        read_settings()


def test_redis_url_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://cache:6379/1")
    assert Settings().redis == "redis://cache:6379/1"


def test_a_deep_data_directory_gets_a_short_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    deep = tmp_path / ("x" * 120)
    settings = Settings(data_dir=deep)
    assert len(str(settings.redis_socket)) <= SOCKET_PATH_MAX
    assert settings.redis_socket == Settings(data_dir=deep).redis_socket
    assert settings.redis_socket != Settings(data_dir=deep / "other").redis_socket


@pytest.mark.parametrize("name", ["C#", "what?", "a%41b", "white space"])
def test_a_data_directory_of_any_name_has_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings = Settings(data_dir=tmp_path / name)
    assert ConnectionPool.from_url(settings.redis).connection_kwargs["path"] == str(settings.redis_socket)


def test_every_setting_is_documented() -> None:
    assert all(about.description for about in Settings.model_fields.values())


def test_passwords_are_not_shown() -> None:
    assert without_password("rediss://user:secret@cache:6379/1") == "rediss://***@cache:6379/1"
    assert without_password("unix:///data/redis/redis.sock") == "unix:///data/redis/redis.sock"
    assert without_password("unix:///sock?db=1&password=a@b&x=1") == "unix:///sock?db=1&password=***&x=1"
    assert without_password("redis://:with/slash@cache") == "redis://***@cache"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(variable(name), raising=False)
    unset = Settings()
    monkeypatch.setenv(variable(name), "")
    assert Settings() == unset


@pytest.mark.parametrize(
    "url", ["redis://u:p@cache:6379/1", "rediss://cache?ssl_cert_reqs=none", "unix:///run/sock?db=2&password=p"]
)
def test_redis_urls_of_every_scheme_are_taken(url: str) -> None:
    assert Settings(redis_url=url).redis == url


def test_log_levels_are_taken_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTD_LOG_LEVEL", "WARNING")
    assert Settings().log_level == "warning"


@pytest.mark.parametrize(
    ("name", "most"),
    [("retention_s", TEN_YEARS_S), ("gone_s", TEN_YEARS_S), ("max_wait_s", DAY_S), ("compat_wait_s", DAY_S)],
)
def test_times_that_redis_could_not_keep_are_refused(name: str, most: int) -> None:
    assert getattr(read_settings(**{name: most}), name) == most
    with pytest.raises(ConfigurationError, match=f"should be less than or equal to {most}"):
        read_settings(**{name: most + 1})

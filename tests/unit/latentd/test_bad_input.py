"""Whatever is wrong with options and settings, a command says so in one line and ends with 1."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from redis import Redis

from core.errors import ConfigurationError
from core.storage import open_store
from latentd.cli import main

BAD_SETTINGS = {
    "LATENTD_MAX_ROWS": ("many", "LATENTD_MAX_ROWS='many': input should be a valid integer"),
    "LATENTD_PORT": ("70000", "LATENTD_PORT='70000': input should be less than or equal to 65535"),
    "LATENTD_DRAIN_S": ("inf", "LATENTD_DRAIN_S='inf': input should be a finite number"),
    "LATENTD_SERVER": ("draw.example.org", "LATENTD_SERVER='draw.example.org': must be http:// or https://, a host"),
    "LATENTD_LOG_LEVEL": ("verbose", "LATENTD_LOG_LEVEL='verbose': input should be 'debug', 'info'"),
    "REDIS_URL": ("localhost:6379", "REDIS_URL='localhost:6379': must be redis://"),
}
BAD_COMMANDS = {
    "gateway --port 70000": "--port 70000: input should be less than or equal to 65535",
    "plan --rate inf --p99 1 --mix none": "--rate inf: at most 1e+09",
    "plan --rate 1 --p99 1 --redis-jobs inf --mix none": "--redis-jobs inf: at most 1e+09",
    "generate cat --out /missing/o.png": "--out /missing/o.png: /missing is no folder",
    "upscale picture.png --out /missing/o.webp": "--out /missing/o.webp: /missing is no folder",
    "inpaint a.png b.png cat --out o.txt": "--out o.txt: ends in none of .png",
    "generate cat --server http://h --device cpu": "--device cpu: can't be told to http://h, which draws by --server",
    "generate cat --server ftp://h": "--server 'ftp://h': must be http:// or https://",
    "generate cat --control lines": "--control 'lines': must be ID=FILE",
    "preference a b": "a: no such folder",
    "preference report none.csv": "none.csv: No such file or directory",
    "worker --device meta": "--device 'meta': must be auto, cpu, cuda or cuda:N",
}


def line_of(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command says on standard error, all of it one line; it must end with 1."""
    monkeypatch.setattr(sys, "argv", ["latentd", *command.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr()
    assert (caught.value.code, said.out, said.err.count("\n")) == (1, "", 1)
    return said.err


@pytest.mark.parametrize("variable", BAD_SETTINGS)
@pytest.mark.parametrize("command", ["settings", "doctor", "keys list", "models list", "gateway"])
def test_a_bad_setting_is_named(
    command: str, variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    value, told = BAD_SETTINGS[variable]
    monkeypatch.setenv(variable, value)
    assert told in line_of(command, capsys, monkeypatch)


def test_an_env_file_that_is_no_text_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"LATENTD_PORT=\xff")
    assert ".env: 'utf-8' codec can't decode" in line_of("settings", capsys, monkeypatch)


@pytest.mark.parametrize("command", BAD_COMMANDS)
def test_a_bad_option_is_named(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BAD_COMMANDS[command] in line_of(command, capsys, monkeypatch)


@pytest.mark.parametrize(
    "url", ["redis://:secret/x@cache", "unix:///sock?password=secret&foo=1", "redis://:secret@h:x"]
)
def test_a_bad_redis_url_keeps_its_password(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    line = line_of("keys list", capsys, monkeypatch)
    assert "***" in line
    assert "secret" not in line


@pytest.mark.parametrize("url", ["s3://", "gs://bucket", "file/below"])
def test_a_storage_that_is_none_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="LATENTD_STORAGE_URL") as caught:
        open_store(url if "://" in url else str(tmp_path / url))
    assert "\n" not in caught.value.detail


def test_a_data_folder_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("LATENTD_DATA_DIR", str(tmp_path / "file" / "data"))
    assert "can't be made: Not a directory" in line_of("up", capsys, monkeypatch)


def test_a_key_s_name_is_shown_as_it_is(
    redis: Redis, redis_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "200")
    for command in (["create", "[/x] :cat: [red]"], ["list"]):
        monkeypatch.setattr(sys, "argv", ["latentd", "keys", *command])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 0
    assert capsys.readouterr().out.count("[/x] :cat: [red]") == 1
    assert redis.dbsize() > 0

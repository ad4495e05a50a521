"""Who may ask the HTTP API, and what stops it at its start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from headwater_client import SettingsError
from headwater_client.contract import Scope
from typer.testing import CliRunner

from deploy.commands.api import keys
from deploy.services.api import find_keys_file, listen
from deploy.settings import Settings
from stream.api.keys import KeyRing
from stream.settings import ApiSettings


def settings_of(**api: object) -> Settings:
    return Settings(api=ApiSettings.model_validate(api))


def test_without_keys_it_answers_on_loopback_beside_local_servers_only(tmp_path: Path) -> None:
    assert find_keys_file(settings_of(), "api", is_local=True) is None
    named = settings_of(keys_file=tmp_path / "keys.toml", address="0.0.0.0")
    for is_local in (True, False):
        assert find_keys_file(named, "api", is_local=is_local) == tmp_path / "keys.toml"
    with pytest.raises(SettingsError, match=r"api\.keys_file: is not set, and the servers are not"):
        find_keys_file(settings_of(), "api", is_local=False)
    with pytest.raises(SettingsError, match=r"api\.address is 0\.0\.0\.0: .* headwater keys add"):
        find_keys_file(settings_of(address="0.0.0.0"), "api", is_local=True)


def test_a_port_that_is_taken_is_a_wrong_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"api\.port: 127\.0\.0\.1 port {port}: "):
            listen("api", "127.0.0.1", port)


def test_keys_are_made_listed_and_taken_back(tmp_path: Path) -> None:
    file, run = str(tmp_path / "keys.toml"), CliRunner().invoke
    words = ["add", "shop", "--scope", "send", "--scope", "ask", "--per-second", "20"]
    made = run(keys, [*words, "--file", file])
    assert made.exit_code == 0, made.output
    secret = made.output.strip()
    assert KeyRing(Path(file)).admit(f"Bearer {secret}", Scope.SEND).name == "shop"
    assert run(keys, ["list", "--file", file]).output == "shop: send, ask, 20 a second\n"
    again = run(keys, [*words, "--file", file])
    assert isinstance(again.exception, SettingsError)
    assert run(keys, ["remove", "shop", "--file", file]).exit_code == 0
    assert isinstance(run(keys, ["remove", "shop", "--file", file]).exception, SettingsError)
    assert "shop" not in Path(file).read_text()

"""Keys are kept as hashes, can be taken back, and have a rate."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwater_client import SettingsError
from headwater_client.contract import Scope

from stream.api.keys import KeyRing, hash_key, make_key, read_keys, write_keys
from stream.api.problems import RequestError


def refusal_of(ring: KeyRing, authorization: str, scope: Scope | None = None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        ring.admit(authorization, scope)
    return caught.value


def test_a_key_is_kept_as_its_hash_alone(tmp_path: Path) -> None:
    secret, key = make_key("shop", [Scope.ASK], 2.5)
    write_keys(tmp_path / "keys.toml", [key])
    text = (tmp_path / "keys.toml").read_text()
    assert secret not in text
    assert hash_key(secret) in text
    assert read_keys(tmp_path / "keys.toml") == [key]
    assert (tmp_path / "keys.toml").stat().st_mode & 0o777 == 0o600
    assert KeyRing(tmp_path / "keys.toml").admit(f"bearer {secret}", Scope.ASK) == key


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    secret, key = make_key("shop", [Scope.ASK], None)
    write_keys(tmp_path / "keys.toml", [key])
    ring = KeyRing(tmp_path / "keys.toml")
    for authorization in (
        "",
        secret,
        f"Basic {secret}",
        "Bearer ",
        f"Bearer {secret}x",
        "Bearer \udc80",
    ):
        error = refusal_of(ring, authorization)
        assert (error.problem.status, error.headers) == (401, {"Www-Authenticate": "Bearer"})
        assert secret not in str(error.problem)
    assert refusal_of(ring, f"Bearer {secret}", Scope.SEND).problem.status == 403


def test_a_key_that_is_taken_back_is_not_known_a_second_later(tmp_path: Path) -> None:
    now = [0.0]
    (mine, my_key), (theirs, their_key) = (make_key(name, [Scope.ASK], None) for name in "ab")
    write_keys(tmp_path / "keys.toml", [my_key, their_key])
    ring = KeyRing(tmp_path / "keys.toml", lambda: now[0])
    ring.admit(f"Bearer {theirs}", Scope.ASK)
    write_keys(tmp_path / "keys.toml", [my_key])
    now[0] += 1.5
    refusal_of(ring, f"Bearer {theirs}")
    (tmp_path / "keys.toml").write_text("[[keys]]\nname = 3")
    now[0] += 1.5
    ring.admit(f"Bearer {mine}", Scope.ASK)


def test_a_key_has_a_rate(tmp_path: Path) -> None:
    now = [0.0]
    secret, key = make_key("shop", [Scope.ASK], 2)
    write_keys(tmp_path / "keys.toml", [key])
    ring = KeyRing(tmp_path / "keys.toml", lambda: now[0])
    for _ in range(2):
        ring.admit(f"Bearer {secret}", Scope.ASK)
    error = refusal_of(ring, f"Bearer {secret}", Scope.ASK)
    assert (error.problem.status, error.headers) == (429, {"Retry-After": "1"})
    now[0] += 0.6
    ring.admit(f"Bearer {secret}", Scope.ASK)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no key"),
        ("[[keys]]\nname = 1", "keys.toml"),
        ("[[keys]]\nname = 'a'\nscopes = ['all']\nsha256 = 'x'", "keys[0]"),
        ("keys = [", "keys.toml"),
    ],
)
def test_a_file_that_cannot_be_is_a_wrong_setting(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"api\.keys_file") as caught:
        KeyRing(tmp_path / "keys.toml")
    assert told in str(caught.value)


def test_a_file_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="headwater keys add"):
        KeyRing(tmp_path / "none.toml")

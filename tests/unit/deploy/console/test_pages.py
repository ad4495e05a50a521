"""Who may see the console, what a browser may do with its answers, and what forms must bring."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from headwater_client.contract import Scope

from deploy.console.pages import _safe_path
from deploy.console.session import COOKIE, Session
from stream.api.keys import hash_key, make_key, write_keys
from tests.harness.http_api import HttpAnswer, ask
from tests.harness.offline_console import FORM, OfflineConsole

CSRF = "t" * 20


def with_keys(folder: Path, **scopes: Scope) -> tuple[OfflineConsole, dict[str, str]]:
    made = {name: make_key(name, [scope], None) for name, scope in scopes.items()}
    write_keys(folder / "keys.toml", [key for _, key in made.values()])
    return OfflineConsole(keys_file=folder / "keys.toml"), {
        name: secret for name, (secret, _) in made.items()
    }


def cookie_of(console: OfflineConsole, secret: str) -> str:
    return f"{COOKIE}={console.sessions.write(Session(hash_key(secret), CSRF))}"


def text_of(answer: HttpAnswer) -> str:
    return unescape(answer.body.decode())


def test_the_login_is_there_though_every_server_is_away(tmp_path: Path) -> None:
    """Pages that wait for Kafka: tests/integration/console/test_console.py has it sleep."""
    console, _ = with_keys(tmp_path, viewer=Scope.VIEW)
    answer = console.get("/login")
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert b"<script>" not in answer.body
    assert b" style=" not in answer.body


def test_hostile_ids_are_shown_as_text() -> None:
    hostile = "<script>alert(1)</script>\"'&"
    for room in ("people", "items"):
        answer = OfflineConsole().get(f"/{room}/{quote(hostile, safe='')}")
        assert b"<script>alert" not in answer.body
        found = OfflineConsole().get(f"/{room}?id={quote(hostile, safe='')}")
        assert found.status == 303
        assert found.headers["location"] == f"/{room}/{quote(hostile, safe='')}"


def test_without_a_session_one_is_led_to_the_login_and_back(tmp_path: Path) -> None:
    console, secrets = with_keys(tmp_path, look=Scope.VIEW, ask=Scope.ASK)
    answer = console.get("/quality?x=1")
    assert (answer.status, answer.headers["location"]) == (303, "/login?next=%2Fquality%3Fx%3D1")
    assert console.get("/login").status == 200
    wrong = console.post("/login?next=/quality", {"key": "hw_wrong"})
    assert (wrong.status, "not known" in text_of(wrong)) == (401, True)
    no_role = console.post("/login", {"key": secrets["ask"]})
    assert (no_role.status, "scope view" in text_of(no_role)) == (403, True)
    right = console.post("/login?next=/quality", {"key": secrets["look"]})
    assert (right.status, right.headers["location"]) == (303, "/quality")
    cookie = right.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Max-Age=3600"))
    assert secrets["look"] not in cookie
    seen = console.get("/quality", cookie=cookie.partition(";")[0])
    assert seen.status == 200
    assert "look, viewer" in text_of(seen)


def test_a_session_is_worth_nothing_once_its_key_is_gone_or_its_time_is_over(
    tmp_path: Path,
) -> None:
    console, secrets = with_keys(tmp_path, look=Scope.VIEW)
    cookie = cookie_of(console, secrets["look"])
    assert console.get("/", cookie=cookie).status == 200
    assert console.get("/", cookie=cookie[:-2] + "xx").status == 303
    console.sessions.lifetime_s = -1
    assert console.get("/", cookie=cookie).status == 303
    console.sessions.lifetime_s = 3600
    write_keys(tmp_path / "keys.toml", [make_key("other", [Scope.VIEW], None)[1]])
    assert console.get("/", cookie=cookie).status == 303


def test_few_tries_to_log_in_are_let_through(tmp_path: Path) -> None:
    console, _ = with_keys(tmp_path, look=Scope.VIEW)
    console.logins_per_minute = 2
    tries = [("POST", "/login", b"key=hw_wrong")] * 4

    async def work(app: Any) -> list[int]:
        return [(await ask(app, *each, FORM)).status for each in tries]

    assert console.run(work) == [401, 401, 429, 429]


def test_a_form_of_another_site_does_nothing(tmp_path: Path) -> None:
    console, secrets = with_keys(tmp_path, look=Scope.VIEW)
    cookie = cookie_of(console, secrets["look"])
    for fields in ({}, {"csrf": "other"}):
        answer = console.post("/logout", fields, cookie=cookie)
        assert answer.status == 403, answer.body
        assert "set-cookie" not in answer.headers
    assert console.post("/logout", {"csrf": CSRF}, cookie=cookie).status == 303
    foreign = console.post("/login", {"key": secrets["look"]}, origin="https://evil.example")
    assert foreign.status == 403


def test_the_operations_answer_keys_and_sessions(tmp_path: Path) -> None:
    console, secrets = with_keys(tmp_path, look=Scope.VIEW, ask=Scope.ASK, all=Scope.ADMINISTER)
    path = "/v1/admin/audit?limit=none"
    assert console.get(path).status == 401
    assert console.get(path, authorization=f"Bearer {secrets['ask']}").status == 403
    # Who may look is let in, and told what is wrong with the question.
    for headers in (
        {"authorization": f"Bearer {secrets['look']}"},
        {"authorization": f"Bearer {secrets['all']}"},
        {"cookie": cookie_of(console, secrets["look"])},
    ):
        answer = console.get(path, **headers)
        assert (answer.status, answer.document["field"]) == (400, "limit")


def test_what_changes_something_by_a_session_names_its_token(tmp_path: Path) -> None:
    console, secrets = with_keys(tmp_path, all=Scope.ADMINISTER)
    headers = {"cookie": cookie_of(console, secrets["all"])}
    request = ("PUT", "/v1/placements/home", b'{"limit": 0}')
    (refused,) = console.ask(request, **headers)
    assert (refused.status, "this session" in refused.document["detail"]) == (403, True)
    (read,) = console.ask(request, **headers, **{"x-csrf-token": CSRF})
    assert (read.status, read.document["field"]) == (400, "limit")


def test_without_keys_only_this_machine_is_shown_anything() -> None:
    answer = OfflineConsole().get("/", host="evil.example")
    assert answer.status == 401
    assert "set-cookie" not in answer.headers


def test_one_is_led_to_no_other_host() -> None:
    for wrong in ("//evil.example", "/\\evil.example", "https://evil.example", "x", "", "/a\nb"):
        assert _safe_path(wrong) == "/"
    assert _safe_path("/people/a%2Fb?x=1&y=//z") == "/people/a%2Fb?x=1&y=//z"

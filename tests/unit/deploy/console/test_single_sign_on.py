"""What an OpenID provider says of somebody: taken where it is valid, and for what it opens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from headwater_client.contract import Scope
from pydantic import ValidationError

from deploy.console.session import Gate, LoginGuard, Sessions
from deploy.console.single_sign_on import SingleSignOn, find_scopes
from deploy.local.process import free_port
from stream.api.keys import ApiKey, KeyRing
from stream.api.problems import RequestError
from stream.settings import OidcSettings

PROVIDER = {
    "issuer": "https://id.example",
    "client_id": "console",
    "redirect_url": "https://console.example/login/oidc/done",
}


@pytest.mark.parametrize(
    ("roles", "scopes"),
    [
        ([], []),
        (["cook"], []),
        (["support"], []),
        (["staff"], [Scope.VIEW]),
        (["staff", "support"], [Scope.VIEW, Scope.READ_PEOPLE]),
        (["shop", "staff"], [Scope.VIEW, Scope.OPERATE]),
        (["root"], list(Scope)),
    ],
)
def test_roles_open_what_settings_say(roles: list[str], scopes: list[Scope]) -> None:
    chosen = OidcSettings(
        viewers=("staff",),
        operators=("shop",),
        administrators=("root",),
        people_readers=("support",),
    )
    assert find_scopes(chosen, roles) == scopes


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "nobody may log in"),
        ({"viewers": ["a"], "client_id": ""}, "client_id: is not set, nor is audience"),
        ({"viewers": ["a"], "redirect_url": None}, "redirect_url: is not set"),
        ({"viewers": ["a"], "redirect_url": "https://console.example/"}, "redirect_url"),
        ({"viewers": ["a"], "scopes": ["email"]}, "has no openid"),
        ({"viewers": ["a"], "issuer": "id.example"}, "issuer"),
    ],
)
def test_settings_that_cannot_be_are_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        OidcSettings.model_validate(PROVIDER | given)


def test_a_session_of_a_provider_ends_with_the_provider() -> None:
    chosen = OidcSettings.model_validate(PROVIDER | {"viewers": ["staff"]})
    sessions = Sessions("s" * 32, 600)
    who = ApiKey(name="oidc:ann", scopes=[Scope.VIEW], sha256="1" * 64)
    session = sessions.read(sessions.write(sessions.begin_without_key(who)))

    def open_gate(sign_on: SingleSignOn | None) -> Gate:
        return Gate(KeyRing(None), sessions, LoginGuard(10), is_secure=True, sign_on=sign_on)

    assert open_gate(SingleSignOn(chosen, "s" * 32)).find_key(session) == who
    assert open_gate(None).find_key(session) is None


def test_a_provider_that_is_away_is_named_and_a_login_comes_back_once() -> None:
    issuer = f"http://127.0.0.1:{free_port()}/o"
    chosen = OidcSettings.model_validate(PROVIDER | {"viewers": ["staff"], "issuer": issuer})

    async def log_in() -> None:
        sign_on = SingleSignOn(chosen, "s" * 32)
        with pytest.raises(RequestError, match=f"oidc.issuer: {issuer}: ConnectionError") as away:
            await sign_on.begin("/")
        assert away.value.problem.status == 503
        kept = {"state": "s", "nonce": "n", "verifier": "v", "next": "/"}
        cookie = str(sign_on._signer.dumps(kept))
        for told in ("ConnectionError", "has come back before"):
            with pytest.raises(RequestError, match=told):
                await sign_on.finish({"state": "s", "code": "c"}, cookie)

    asyncio.run(log_in())

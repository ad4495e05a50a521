"""What an OpenID provider says of somebody: taken where it is valid, and for what it opens."""

from __future__ import annotations

import time
from typing import Any

import pytest
from headwater_client.contract import Scope
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey, RSAKey
from pydantic import ValidationError

from deploy.console.session import Gate, LoginGuard, Sessions
from deploy.console.single_sign_on import SingleSignOn, find_scopes, read_id_token
from deploy.settings import OidcSettings
from stream.api.keys import ApiKey, KeyRing

KEY = RSAKey.generate_key(2048, {"kid": "one"})
KEYS = KeySet([KEY])
EXPECTED = {"iss": "https://id.example", "aud": "console", "nonce": "n"}
CLAIMS = EXPECTED | {"sub": "ann", "exp": int(time.time()) + 600}
PROVIDER = {
    "issuer": "https://id.example",
    "client_id": "console",
    "redirect_url": "https://console.example/login/oidc/done",
}


def sign(claims: dict[str, Any], key: Any = KEY, algorithm: str = "RS256") -> str:
    return jwt.encode({"alg": algorithm, "kid": "one"}, claims, key, [algorithm])


def test_a_valid_token_is_read() -> None:
    assert read_id_token(sign(CLAIMS), KEYS, EXPECTED)["sub"] == "ann"
    shared = CLAIMS | {"aud": ["console", "shop"], "azp": "console"}
    assert read_id_token(sign(shared), KEYS, EXPECTED)["sub"] == "ann"


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://evil.example"},
        {"aud": "shop"},
        {"aud": ["console", "shop"], "azp": "shop"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": int(time.time()) - 600},
        {"exp": None},
        {"nbf": int(time.time()) + 600},
    ],
)
def test_a_token_of_something_else_is_refused(changed: dict[str, Any]) -> None:
    claims = {name: value for name, value in (CLAIMS | changed).items() if value is not None}
    with pytest.raises(JoseError):
        read_id_token(sign(claims), KEYS, EXPECTED)


def test_a_token_that_the_provider_has_not_signed_is_refused() -> None:
    stranger = RSAKey.generate_key(2048, {"kid": "one"})
    shared = OctKey.import_key("console secret that both know, long enough for it")
    for token in (sign(CLAIMS, stranger), sign(CLAIMS, shared, "HS256"), sign(CLAIMS) + "x"):
        with pytest.raises((JoseError, ValueError)):
            read_id_token(token, KEYS, EXPECTED)


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
        ({"viewers": ["a"], "client_id": ""}, "client_id: is not set"),
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

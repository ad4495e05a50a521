"""Tokens of an OpenID provider: taken where they are valid, and for what they name."""

from __future__ import annotations

import time
from typing import Any

import pytest
from headwater_client.contract import Scope
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey, RSAKey

from stream.api.keys import KeyRing
from stream.api.oidc import AccessTokens, read_token
from stream.api.problems import RequestError

# Tests may run long after they were collected.
LATER = int(time.time()) + 86_400
KEY = RSAKey.generate_key(2048, {"kid": "one"})
KEYS = KeySet([KEY])
EXPECTED = {"iss": "https://id.example", "aud": "console", "nonce": "n"}
CLAIMS = EXPECTED | {"sub": "ann", "exp": LATER}


def sign(claims: dict[str, Any], key: Any = KEY, algorithm: str = "RS256") -> str:
    return jwt.encode({"alg": algorithm, "kid": "one"}, claims, key, [algorithm])


def test_a_valid_token_is_read() -> None:
    assert read_token(sign(CLAIMS), KEYS, **EXPECTED)["sub"] == "ann"
    shared = CLAIMS | {"aud": ["console", "shop"]}
    assert read_token(sign(shared), KEYS, **EXPECTED)["sub"] == "ann"


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://evil.example"},
        {"aud": "shop"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": int(time.time()) - 600},
        {"exp": None},
        {"nbf": LATER},
    ],
)
def test_a_token_of_something_else_is_refused(changed: dict[str, Any]) -> None:
    claims = {name: value for name, value in (CLAIMS | changed).items() if value is not None}
    with pytest.raises(JoseError):
        read_token(sign(claims), KEYS, **EXPECTED)


def test_a_token_opens_what_its_scopes_name() -> None:
    tokens = AccessTokens(EXPECTED["iss"], "console")
    keys = KeyRing(None, find_other=tokens.find_key)
    assert keys.is_open
    assert tokens.find_key("hw_key-of-a-file") is None
    with pytest.raises(RequestError, match="are not known yet"):
        tokens.find_key(sign(CLAIMS))

    tokens._keys = KEYS
    token = sign(CLAIMS | {"scope": "openid ask view", "client_id": "shop"})
    key = tokens.find_key(token)
    assert key is not None
    assert (key.name, key.scopes) == ("oidc:shop", [Scope.ASK, Scope.VIEW])
    assert tokens.find_key(token) is key
    for wrong in (sign(CLAIMS | {"aud": "other"}), "a.b.c", token[:-8]):
        with pytest.raises(RequestError, match="the access token is not valid"):
            tokens.find_key(wrong)


def test_a_token_that_was_taken_is_not_once_it_has_expired() -> None:
    tokens = AccessTokens(EXPECTED["iss"], "console")
    tokens._keys = KEYS
    token = sign(CLAIMS | {"exp": int(time.time()) - 30})
    assert tokens.find_key(token), "within the leeway of clocks"
    assert tokens._known.currsize == 0, "and read anew each time"


def test_a_token_that_the_provider_has_not_signed_is_refused() -> None:
    stranger = RSAKey.generate_key(2048, {"kid": "one"})
    shared = OctKey.import_key("console secret that both know, long enough for it")
    for token in (sign(CLAIMS, stranger), sign(CLAIMS, shared, "HS256"), sign(CLAIMS) + "x"):
        with pytest.raises((JoseError, ValueError)):
            read_token(token, KEYS, **EXPECTED)

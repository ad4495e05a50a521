"""An OpenID provider: its public keys, and the access tokens that it gives to programs.

A program brings a token in place of a key (`Authorization: Bearer`). It has to be a JWT (RFC 9068)
that the provider has signed for this API; its scopes are those of keys: `send`, `ask`, ...
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from time import time
from typing import Any

import requests
import structlog
from cachetools import TLRUCache
from headwater_client.contract import Scope
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import ClaimsOption

from stream.api.keys import ApiKey, hash_key
from stream.api.problems import RequestError, refuse

# What is signed with a secret that both know is left out: nothing here has such a secret to check.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
LEEWAY_S = 60
_WITHIN_S = 5.0
_READ_EVERY_S = 60.0
_RETRY_S = 5.0
_TOKENS = 10_000
log = structlog.get_logger()


@dataclass(frozen=True)
class OpenIdProvider:
    """What a provider says of itself.

    Attributes:
        document: of its discovery (OpenID Connect Discovery 1.0).
        keys: with which it signs.
    """

    document: Mapping[str, Any]
    keys: KeySet


def read_provider(issuer: str) -> OpenIdProvider:
    """Ask a provider for both; waits for it.

    Raises:
        OSError: it does not answer (`requests.RequestException`).
        ValueError: what it answers is no such document, or another issuer's.
    """
    document = _get_json(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    try:
        if document["issuer"] != issuer:
            raise ValueError(f"its document names the issuer {str(document['issuer'])[:200]!r}")
        return OpenIdProvider(document, KeySet.import_key_set(_get_json(document["jwks_uri"])))
    except (KeyError, TypeError, JoseError) as error:
        raise ValueError(f"its document is not whole: {error!r}") from error


def _get_json(url: str) -> Any:
    answer = requests.get(url, timeout=_WITHIN_S)
    answer.raise_for_status()
    return answer.json()


class AccessTokens:
    """Reads access tokens of a provider, as keys with the scopes that they name.

    Args:
        issuer: of the provider.
        audience: of the tokens that are taken.
    """

    def __init__(self, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys: KeySet | None = None
        self._known: TLRUCache[str, tuple[ApiKey, float]] = TLRUCache(
            _TOKENS, ttu=lambda _token, value, _now: value[1], timer=time
        )

    async def follow(self) -> None:
        """Keep the provider's keys up to date, for ever; those of before hold while it is away."""
        while True:
            try:
                self._keys = (await asyncio.to_thread(read_provider, self._issuer)).keys
            except (OSError, ValueError) as error:
                log.warning("provider_not_read", issuer=self._issuer, reason=str(error)[:500])
            await asyncio.sleep(_READ_EVERY_S if self._keys else _RETRY_S)

    def find_key(self, token: str) -> ApiKey | None:
        """What a token opens; None where it is no JWT, but a key.

        Raises:
            RequestError: it is not valid, or the provider's keys are not known yet.
        """
        if token.count(".") != 2:
            return None
        digest = sha256(token.encode(errors="surrogateescape")).hexdigest()
        known = self._known.get(digest)
        if known is None:
            known = self._read(token)
            self._known[digest] = known
        return known[0]

    def _read(self, token: str) -> tuple[ApiKey, float]:
        """A key, and until when it is good."""
        if self._keys is None:
            raise refuse(
                "unavailable",
                f"the keys of {self._issuer} are not known yet",
                "try again in a moment",
                retry_after="1",
            )
        try:
            claims = read_token(token, self._keys, iss=self._issuer, aud=self._audience)
        except (JoseError, ValueError) as error:
            raise _refuse_token(str(error)) from error
        subject = str(claims["sub"])
        key = ApiKey(
            name=f"oidc:{str(claims.get('client_id') or claims.get('azp') or subject)[:64]}",
            scopes=find_token_scopes(claims),
            sha256=hash_key(f"{self._issuer} {subject}"),
        )
        return key, float(claims["exp"])


def _refuse_token(reason: str) -> RequestError:
    return refuse(
        "no-key",
        f"the access token is not valid: {reason}",
        "get a new one for this API from oidc.issuer, for oidc.audience",
        www_authenticate='Bearer error="invalid_token"',
    )


def read_token(text: str, keys: KeySet, **claims: str) -> dict[str, Any]:
    """The claims of a token that a provider has signed (RFC 9068, section 4; OpenID Connect Core
    1.0, section 3.1.3.7).

    Args:
        claims: that it has to have, with these values: `iss`, `aud`, ...

    Raises:
        JoseError, ValueError: it is not valid.
    """
    token = jwt.decode(text, keys, ALGORITHMS)
    options: dict[str, Any] = {name: ClaimsOption(essential=True) for name in ("exp", "sub")}
    options |= {name: ClaimsOption(essential=True, value=value) for name, value in claims.items()}
    jwt.JWTClaimsRegistry(leeway=LEEWAY_S, **options).validate(token.claims)
    return token.claims


def find_token_scopes(claims: Mapping[str, Any]) -> list[Scope]:
    """The scopes that are keys', too; of Entra ID they are in `scp`, or a list.

    >>> [each.value for each in find_token_scopes({"scope": "openid send ask"})]
    ['send', 'ask']
    >>> find_token_scopes({"scp": ["view"]}), find_token_scopes({})
    ([<Scope.VIEW: 'view'>], [])
    """
    given = claims.get("scope") or claims.get("scp") or ""
    named = set(given.split() if isinstance(given, str) else map(str, given))
    return [scope for scope in Scope if scope.value in named]

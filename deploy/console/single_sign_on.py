"""Login by OpenID Connect: who a provider says that somebody is, and what they may do for it.

    /login/oidc ──▶ provider: logs in ──▶ /login/oidc/done?code=... ──▶ ID token ──▶ session

The authorization code flow with PKCE, state and nonce (OpenID Connect Core 1.0, section 3.1; RFC
7636). What has to come back stands in a signed cookie of the browser that began.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from secrets import token_urlsafe
from threading import Lock
from typing import Any

from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from cachetools import LRUCache, TTLCache, cached
from headwater_client.contract import Scope
from itsdangerous import BadData, URLSafeTimedSerializer
from joserfc.errors import JoseError
from requests import RequestException

from stream.api.keys import ApiKey, hash_key
from stream.api.oidc import OpenIdProvider, read_provider, read_token
from stream.api.problems import refuse
from stream.settings import OidcSettings

COOKIE = "headwater_login"
LIFETIME_S = 600
_SALT = "headwater-console-oidc"
_WITHIN_S = 5.0
_PROVIDER_S = 300
# Logins that wait for the provider at once: a stranger's must not take all threads.
_AT_ONCE = 4
_ENDED = 10_000
_REMEDY = "log in again, or with a key"


@dataclass(frozen=True)
class Beginning:
    """A login that has begun: where the browser goes, and the cookie that it is to keep."""

    url: str
    cookie: str


class SingleSignOn:
    """Sends browsers to a provider, and reads what it says of who comes back.

    Args:
        secret: signs the cookies of logins that have begun.
    """

    def __init__(self, settings: OidcSettings, secret: str) -> None:
        self._settings, self._issuer = settings, settings.issuer or ""
        self._signer = URLSafeTimedSerializer(secret, salt=_SALT)
        self._provider: TTLCache[Any, OpenIdProvider] = TTLCache(1, _PROVIDER_S)
        self._read_provider = cached(self._provider, lock=Lock())(
            partial(read_provider, self._issuer)
        )
        self._waiting = asyncio.Semaphore(_AT_ONCE)
        # Logins that have come back, by their state: each does so once.
        self._ended: LRUCache[str, None] = LRUCache(_ENDED)

    async def begin(self, leads_to: str) -> Beginning:
        """Begin a login.

        Args:
            leads_to: path of this console where it is to end.

        Raises:
            RequestError: the provider does not answer.
        """
        kept = {
            "state": token_urlsafe(24),
            "nonce": token_urlsafe(24),
            "verifier": token_urlsafe(48),
            "next": leads_to,
        }
        provider = await self._ask(self._read_provider)
        url, _ = self._make_session().create_authorization_url(
            provider.document["authorization_endpoint"],
            state=kept["state"],
            nonce=kept["nonce"],
            code_verifier=kept["verifier"],
        )
        return Beginning(url, str(self._signer.dumps(kept)))

    async def finish(self, query: Mapping[str, str], cookie: str) -> tuple[ApiKey, str]:
        """Who has logged in, as a key with the scopes of their roles; and where they wanted to.

        Args:
            query: with which the provider has led back.
            cookie: of the login that has begun.

        Raises:
            RequestError: it is no login of this browser, the provider has refused it or does not
                answer, or who has logged in has no role here.
        """
        try:
            kept = self._signer.loads(cookie, LIFETIME_S)
        except BadData as error:
            raise refuse("no-key", "this browser has begun no login", _REMEDY) from error
        if not query.get("state") or query["state"] != kept["state"]:
            raise refuse("no-key", "state: is not that of the login that was begun", _REMEDY)
        if told := query.get("error"):
            more = query.get("error_description", "")
            raise refuse("no-key", f"the provider says: {told[:80]} {more[:200]}", _REMEDY)
        if kept["state"] in self._ended:
            raise refuse("no-key", "this login has come back before", _REMEDY)
        self._ended[kept["state"]] = None
        claims = await self._ask(self._take_claims, query, kept)
        return self._make_key(claims), kept["next"]

    def _take_claims(self, query: Mapping[str, str], kept: Mapping[str, str]) -> dict[str, Any]:
        provider = self._read_provider()
        answer = self._make_session().fetch_token(
            provider.document["token_endpoint"],
            grant_type="authorization_code",
            code=query.get("code", ""),
            code_verifier=kept["verifier"],
        )
        client_id = self._settings.client_id
        claims = read_token(
            answer.get("id_token", ""),
            provider.keys,
            iss=self._issuer,
            aud=client_id,
            nonce=kept["nonce"],
        )
        if claims.get("azp", client_id) != client_id:
            raise refuse("no-key", "azp: the ID token is another client's", _REMEDY)
        return claims

    async def _ask(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do what needs the provider, with its faults in words."""
        try:
            async with self._waiting:
                return await asyncio.to_thread(work, *arguments)
        except (AuthlibBaseError, JoseError) as error:
            if isinstance(error, JoseError):
                # The provider may have new keys: the next login reads them.
                self._provider.clear()
            raise refuse("no-key", f"the login is not valid: {error}", _REMEDY) from error
        except (RequestException, ValueError, KeyError, TypeError) as error:
            raise refuse(
                "unavailable",
                f"oidc.issuer: {self._issuer}: {type(error).__name__}: {error}"[:500],
                "log in with a key, or try again",
            ) from error

    def _make_session(self) -> OAuth2Session:
        chosen, secret = self._settings, self._settings.client_secret
        return OAuth2Session(
            chosen.client_id,
            secret.get_secret_value() if secret else None,
            token_endpoint_auth_method=None if secret else "none",
            scope=" ".join(chosen.scopes),
            redirect_uri=chosen.redirect_url,
            code_challenge_method="S256",
            default_timeout=_WITHIN_S,
        )

    def _make_key(self, claims: Mapping[str, Any]) -> ApiKey:
        """What a provider's claims open; no key of a file can have its name."""
        chosen = self._settings
        name = str(claims.get(chosen.name_claim) or claims["sub"])[:64]
        if chosen.name_claim == "email" and claims.get("email_verified") is False:
            # Anybody can claim an address that the provider has not verified.
            name = str(claims["sub"])[:64]
        scopes = find_scopes(chosen, find_claim(claims, chosen.role_claim))
        if not scopes:
            raise refuse(
                "scope",
                f"{name}: {chosen.role_claim} names no role that may enter this console",
                "ask who runs it: oidc.viewers, oidc.operators and oidc.administrators say who may",
            )
        identity = hash_key(f"{self._issuer} {claims['sub']}")
        return ApiKey(name=f"oidc:{name}", scopes=scopes, sha256=identity)


def find_claim(claims: Mapping[str, Any], name: str) -> list[str]:
    """The values of a claim, wherever dots lead.

    >>> find_claim({"realm": {"roles": ["a", "b"]}, "group": "c"}, "realm.roles")
    ['a', 'b']
    >>> find_claim({"https://x.example/roles": "c"}, "https://x.example/roles")
    ['c']
    """
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    given = found if isinstance(found, list) else [found]
    return [each for each in given if isinstance(each, str)]


def find_scopes(settings: OidcSettings, roles: Sequence[str]) -> list[Scope]:
    """What roles open.

    >>> chosen = OidcSettings(viewers=["staff"], people_readers=["support"])
    >>> [each.value for each in find_scopes(chosen, ["staff", "support"])]
    ['view', 'read-people']
    >>> find_scopes(chosen, ["support"])
    []
    """
    has = {
        Scope.VIEW: settings.viewers,
        Scope.OPERATE: settings.operators,
        Scope.ADMINISTER: settings.administrators,
    }
    scopes = [scope for scope, names in has.items() if set(names) & set(roles)]
    if Scope.ADMINISTER in scopes:
        return list(Scope)
    reads_people = bool(scopes) and bool(set(settings.people_readers) & set(roles))
    return scopes + [Scope.READ_PEOPLE] * reads_people

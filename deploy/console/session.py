"""Who has logged in: a signed cookie that no script of a page can read.

The cookie holds no key. It names one by its hash, and is worth nothing once that key is removed; or
it says what an OpenID provider has said of somebody, as long as the session lasts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_urlsafe
from time import monotonic

import msgspec
from cachetools import LRUCache
from headwater_client.contract import Scope
from headwater_client.decoders import convert
from itsdangerous import BadData, URLSafeTimedSerializer
from msgspec import Struct

from deploy.console.single_sign_on import SingleSignOn
from stream.api.keys import ApiKey, KeyRing, TokenBucket
from stream.api.problems import refuse

COOKIE = "headwater_session"
_SALT = "headwater-console-session"
_ADDRESSES = 10_000


class Session(Struct, frozen=True):
    """Who has logged in.

    Attributes:
        sha256: of the key.
        csrf: what forms of this session's pages send, and those of other pages do not know.
        name: of who has logged in without a key; "" for the key's own.
        scopes: theirs.
    """

    sha256: str
    csrf: str
    name: str = ""
    scopes: list[Scope] = []


class Sessions:
    """Makes sessions, and reads them.

    Args:
        secret: signs them.
        lifetime_s: one ends so long after its login, whatever is done meanwhile.
    """

    def __init__(self, secret: str, lifetime_s: int) -> None:
        self._signer = URLSafeTimedSerializer(secret, salt=_SALT)
        self.lifetime_s = lifetime_s

    def begin(self, key: ApiKey) -> Session:
        """A new session of the holder of a key that is in the file."""
        return Session(key.sha256, token_urlsafe(24))

    def begin_without_key(self, key: ApiKey) -> Session:
        """A new session of somebody whom a provider has named: it has to say what they may do."""
        return Session(key.sha256, token_urlsafe(24), key.name, key.scopes)

    def write(self, session: Session) -> str:
        """The cookie of a session that begins now."""
        return str(self._signer.dumps(msgspec.to_builtins(session)))

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None where it is not of this console, or too old."""
        try:
            return convert(self._signer.loads(cookie, self.lifetime_s), Session)
        except (BadData, msgspec.ValidationError):
            return None


class LoginGuard:
    """Lets few tries to log in through, from each address.

    Args:
        per_minute: tries of one address.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._of: LRUCache[str, TokenBucket] = LRUCache(_ADDRESSES)

    def check(self, address: str) -> None:
        """Count a try.

        Raises:
            RequestError: it is one too many.
        """
        if address not in self._of:
            # A bucket whose time runs in minutes.
            self._of[address] = TokenBucket(self._per_minute, lambda: self._clock() / 60)
        wait_s = math.ceil(self._of[address].take() * 60)
        if wait_s:
            raise refuse(
                "rate",
                "too many tries to log in",
                f"wait {wait_s} s",
                retry_after=str(wait_s),
            )


@dataclass(frozen=True)
class Gate:
    """Who comes in.

    Attributes:
        keys: of all who may.
        sessions: of browsers.
        guard: of the page where one logs in.
        is_secure: whether browsers send a session by HTTPS only.
        sign_on: of an OpenID provider; None: there is none.
    """

    keys: KeyRing
    sessions: Sessions
    guard: LoginGuard
    is_secure: bool
    sign_on: SingleSignOn | None = None

    def find_key(self, session: Session | None) -> ApiKey | None:
        """The key of a session, as long as it is in use."""
        if session is None or not session.name:
            return self.keys.find(session.sha256) if session else None
        if self.sign_on is None:
            return None
        return ApiKey(name=session.name, scopes=session.scopes, sha256=session.sha256)


def role_of(key: ApiKey) -> str:
    """What a key's holder is called at the console; "" for one that may not even look.

    >>> role_of(ApiKey(name="a", scopes=[Scope.OPERATE, Scope.ASK], sha256="0" * 64))
    'operator'
    """
    roles = {
        Scope.ADMINISTER: "administrator",
        Scope.OPERATE: "operator",
        Scope.VIEW: "viewer",
    }
    return next((role for scope, role in roles.items() if scope in key.scopes), "")

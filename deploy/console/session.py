"""Who has logged in: a signed cookie that no script of a page can read.

The cookie holds no key. It names one by its hash, and is worth nothing once that key is removed.
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
    """

    sha256: str
    csrf: str


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
        """A new session."""
        return Session(key.sha256, token_urlsafe(24))

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
    """

    keys: KeyRing
    sessions: Sessions
    guard: LoginGuard
    is_secure: bool

    def find_key(self, session: Session | None) -> ApiKey | None:
        """The key of a session, as long as it is in use."""
        return self.keys.find(session.sha256) if session else None


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

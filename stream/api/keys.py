"""Keys of the API: what each may be used for, and how often.

A key is 32 random bytes as text, shown once. The file of keys has its SHA-256 only, which is enough
for what nobody can guess: a slow hash is for passwords.

    [[keys]]
    name = "shop"
    scopes = ["send", "ask"]
    sha256 = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
    per_second = 200
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe
from time import monotonic
from typing import Annotated

import msgspec
import structlog
from headwater_client import SettingsError
from headwater_client.contract import Scope
from headwater_client.decoders import convert
from headwater_client.documents import read_toml
from msgspec import Meta, Struct

from stream.api.problems import refuse

PREFIX = "hw_"
_LOOK_EVERY_S = 1.0
_BEARER = "bearer "
log = structlog.get_logger()


class ApiKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key: its hash, and what it may do.

    Attributes:
        per_second: requests a second that one process answers, in bursts of as many; None: any.
    """

    name: Annotated[str, Meta(pattern=r"^[\w.-]{1,64}$")]
    scopes: list[Scope]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    per_second: Annotated[float, Meta(gt=0)] | None = None


class _KeysFile(Struct, frozen=True, forbid_unknown_fields=True):
    """What the file of keys holds."""

    keys: list[ApiKey] = []


# Who may do one thing may do the other.
_INCLUDED_IN = {
    Scope.VIEW: (Scope.OPERATE, Scope.ADMINISTER),
    Scope.OPERATE: (Scope.ADMINISTER,),
}
# Whoever asks from this machine, where no keys are asked for.
ANYONE = ApiKey(name="anyone", scopes=list(Scope), sha256="0" * 64)


def hash_key(secret: str) -> str:
    """What the file has of a key.

    >>> hash_key("hw_a")[:8]
    '5ed04289'
    """
    return sha256(secret.encode(errors="surrogateescape")).hexdigest()


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file.

    Raises:
        SettingsError: it cannot be read, or a key in it is not as it must be.
    """
    try:
        found = convert(read_toml(path.read_text("utf-8-sig")), _KeysFile).keys
    except OSError as error:
        raise SettingsError(
            f"api.keys_file: {path}: {error.strerror}: make a key: headwater keys add"
        ) from error
    except (ValueError, msgspec.ValidationError) as error:
        raise SettingsError(f"api.keys_file: {path}: {error}") from error
    names = [key.name for key in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingsError(f"api.keys_file: {path}: two keys are named {twice}: remove one")
    return found


def write_keys(path: Path, keys: Sequence[ApiKey]) -> None:
    """Write a file of keys, whole or not at all, for its owner to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        beside.unlink()
    number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write("\n".join(_toml(key) for key in keys))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # The new name, too, outlives a power cut: who has a key was told it once.
        os.fsync(folder)
    finally:
        os.close(folder)


def _toml(key: ApiKey) -> str:
    scopes = ", ".join(f'"{scope}"' for scope in key.scopes)
    lines = ["[[keys]]", f'name = "{key.name}"', f"scopes = [{scopes}]", f'sha256 = "{key.sha256}"']
    if key.per_second is not None:
        lines.append(f"per_second = {key.per_second:g}")
    return "\n".join([*lines, ""])


def make_key(name: str, scopes: Sequence[Scope], per_second: float | None) -> tuple[str, ApiKey]:
    """A new key: what its owner is told, once, and what the file has of it.

    Raises:
        SettingsError: its name or its rate cannot be.
    """
    secret = PREFIX + token_urlsafe(32)
    described = {"name": name, "scopes": list(scopes), "sha256": hash_key(secret)}
    try:
        return secret, convert(described | {"per_second": per_second}, ApiKey)
    except msgspec.ValidationError as error:
        raise SettingsError(f"key {name!r}: {error}") from error


class TokenBucket:
    """Lets `per_second` requests through, and as many at once after a pause.

    >>> now = [0.0]
    >>> bucket = TokenBucket(2, lambda: now[0])
    >>> [bucket.take(), bucket.take(), bucket.take()]
    [0.0, 0.0, 0.5]
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = monotonic) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second)
        self._left = self._most
        self._clock = clock
        self._seen_s = clock()

    def take(self) -> float:
        """Take a token: 0, or in how many seconds there is one."""
        now_s = self._clock()
        self._left = min(self._most, self._left + (now_s - self._seen_s) * self._per_second)
        self._seen_s = now_s
        if self._left < 1:
            return (1 - self._left) / self._per_second
        self._left -= 1
        return 0.0


class KeyRing:
    """Who may do what. The file is read again when it has changed: a key can be taken back.

    Args:
        path: of the file of keys; None: whoever can reach the service may do all.
        find_other: the key that a secret stands for which is in no file, if any.

    Raises:
        SettingsError: the file cannot be read, or has no key.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float] = monotonic,
        find_other: Callable[[str], ApiKey | None] = lambda _: None,
    ) -> None:
        self._path = path
        self._find_other = find_other
        self._clock = clock
        self._keys: Mapping[str, ApiKey] = {}
        self._buckets: dict[str, TokenBucket] = {}
        self._looked_s = -math.inf
        self._seen: object = None
        if path is not None and not self._read(path):
            raise SettingsError(f"api.keys_file: {path}: has no key: headwater keys add")

    @property
    def is_open(self) -> bool:
        """Whether no keys are asked for."""
        return self._path is None

    def admit(self, authorization: str, scope: Scope | None) -> ApiKey:
        """The key of a request.

        Args:
            authorization: the header of this name; "" where it is missing.
            scope: what the key must be for; None: anything.

        Raises:
            RequestError: no key or token that is known, not for this, or too many requests.
        """
        if self._path is None:
            return ANYONE
        self._refresh(self._path)
        is_bearer = authorization[: len(_BEARER)].lower() == _BEARER
        secret = authorization[len(_BEARER) :].strip() if is_bearer else ""
        key = (self._keys.get(hash_key(secret)) or self._find_other(secret)) if secret else None
        if key is None:
            raise refuse(
                "no-key",
                "the key is not known" if secret else "no key was sent",
                "send the header Authorization: Bearer KEY; headwater keys add makes one",
                www_authenticate="Bearer",
            )
        self.use(key, scope)
        return key

    def find(self, sha256: str) -> ApiKey | None:
        """The key of this hash, as long as it is in use: for who has shown it a while ago."""
        if self._path is None:
            return ANYONE if sha256 == ANYONE.sha256 else None
        self._refresh(self._path)
        return self._keys.get(sha256)

    def use(self, key: ApiKey, scope: Scope | None) -> None:
        """Count a request of a key.

        Raises:
            RequestError: it is not for this, or these are too many requests.
        """
        if (wait_s := self._take(key)) > 0:
            raise refuse(
                "rate",
                f"key {key.name} may ask {key.per_second:g} times a second",
                f"wait {wait_s:.2f} s",
                retry_after=str(math.ceil(wait_s)),
            )
        check_scope(key, scope)

    def _take(self, key: ApiKey) -> float:
        if key.per_second is None:
            return 0.0
        if key.sha256 not in self._buckets:
            self._buckets[key.sha256] = TokenBucket(key.per_second, self._clock)
        return self._buckets[key.sha256].take()

    def _refresh(self, path: Path) -> None:
        if (now_s := self._clock()) - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        try:
            self._read(path)
        except SettingsError as error:
            # Those of before go on: a file that is being written is no reason to refuse everyone.
            log.warning("keys_not_read", reason=str(error))

    def _read(self, path: Path) -> bool:
        """Read the file where it has changed; whether there is a key."""
        try:
            status = path.stat()
            seen = status.st_mtime_ns, status.st_ino, status.st_size
        except OSError:
            seen = None
        if seen is None or seen != self._seen:
            self._keys = {key.sha256: key for key in read_keys(path)}
            self._buckets.clear()
            self._seen = seen
        return bool(self._keys)


def check_scope(key: ApiKey, scope: Scope | None) -> None:
    """Refuse a key that is not for this.

    Raises:
        RequestError: its scopes do not have this one.
    """
    if scope is not None and not has_scope(key, scope):
        raise refuse("scope", f"key {key.name} is not for this", f"use one with the scope {scope}")


def has_scope(key: ApiKey, scope: Scope) -> bool:
    """Whether a key is for this, or for what includes it.

    >>> has_scope(ApiKey(name="a", scopes=[Scope.OPERATE], sha256="0" * 64), Scope.VIEW)
    True
    """
    return bool({scope, *_INCLUDED_IN.get(scope, ())} & set(key.scopes))

"""What is wrong with a server of Redis, in words that say what to do."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from features.store.redis.append_file import waits_for_fsync


class Meaning(NamedTuple):
    """What a server's error means. It `waits`: a batch is tried again until it is over."""

    reason: str
    words: str
    waits: bool = True


# OpenSSL's words for a certificate that is not trusted, and for a server that speaks no TLS.
_OTHER_TLS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
_FINAL = ("ERR", "WRONGTYPE", "NOSCRIPT")
_MEANINGS = {
    "READONLY": Meaning(
        "read_only",
        "takes no writes, as a replica does: connected anew; if it stays so, set store.address to "
        "the primary",
    ),
    "OOM": Meaning("full", "is full: raise its maxmemory"),
    "MISCONF": Meaning("disk", "takes no writes, because it cannot write its file: free its disk"),
    "LOADING": Meaning("loading", "is still loading its file"),
    "BUSY": Meaning("busy", "is busy with somebody's script: end it with SCRIPT KILL"),
    "NOREPLICAS": Meaning("replicas", "takes no writes: it has too few replicas that are well"),
    "MASTERDOWN": Meaning("replicas", "is a replica that has lost its primary"),
    "CLUSTERDOWN": Meaning("cluster", "is a cluster that lacks some of its slots"),
    "TRYAGAIN": Meaning("cluster", "is a cluster that moves its slots"),
    "WRONGPASS": Meaning(
        "login", "does not take the login: correct store.username and store.password", waits=False
    ),
    "NOAUTH": Meaning("login", "asks for a password: set store.password", waits=False),
    "NOPERM": Meaning(
        "rights",
        "does not let this user do what a worker does: grant it ~* +@read +@write +@scripting "
        "+waitaof +info",
        waits=False,
    ),
    "MOVED": Meaning(
        "cluster",
        "is part of a cluster: set store.cluster=true and store.durability=acknowledged",
        waits=False,
    ),
}


def explain_error(error: Exception) -> Meaning:
    """What an error of the server, or of its connection, means."""
    code = error_code(error)
    if code in _MEANINGS:
        return _MEANINGS[code]
    if any(sign in str(error) for sign in _OTHER_TLS):
        return Meaning(
            "tls",
            f"and this client do not agree on TLS ({error}): check store.tls and store.tls_ca_file",
            waits=False,
        )
    if isinstance(error, ResponseError):
        # The text may go on with what was sent: a person's id.
        text = str(error).partition(", with args")[0][:80]
        return Meaning("refused", f"refuses a command: {text}", waits=code not in _FINAL)
    return Meaning("away", f"does not answer: {error}")


def error_code(error: Exception) -> str:
    """The word that a server's error begins with: redis-py takes some of them off."""
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]


def is_other_kind(error: ResponseError) -> bool:
    """Whether a key holds something else than the command is for."""
    return error_code(error) == "WRONGTYPE"


def find_faults(
    info: Mapping[str, Any], config: Mapping[str, str], needs_disk: bool
) -> Iterator[str]:
    """What of a server breaks a promise, each with its remedy; to be read after its name.

    Args:
        info: its answer to INFO.
        config: of `appendfsync` and `no-appendfsync-on-rewrite`, what it tells.
        needs_disk: offsets are committed once rows are on disk.
    """
    if info.get("role") == "slave":
        yield "is a replica, which takes no writes: set store.address to the primary"
    policy = str(info.get("maxmemory_policy", "noeviction"))
    # Rows have no time to live: the other policies drop only what has one.
    if policy.startswith("allkeys"):
        yield (
            f"drops rows when it is full (maxmemory-policy {policy}): "
            "set maxmemory-policy noeviction"
        )
    if not needs_disk:
        return
    remedy = "or set store.durability=acknowledged, which can lose what was written last"
    if not info.get("aof_enabled", 1):
        yield f"has no append-only file: set appendonly yes, {remedy}"
    if config.get("appendfsync") == "no":
        yield f"never syncs its append-only file (appendfsync no): set everysec, {remedy}"
    if config.get("no-appendfsync-on-rewrite") == "yes" and not waits_for_fsync(info):
        yield (
            "does not sync its file during a rewrite, and WAITAOF of its version does not tell: "
            f"set no-appendfsync-on-rewrite no, {remedy}"
        )

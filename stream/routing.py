"""Which version of the model answers which user: deterministic buckets, as a rollout says."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import xxhash
from headwater_client.errors import HeadwaterError

from features.rollout_messages import LARGEST_SHARE, Rollout, RoutedVersion, Variant
from features.schema import FILE_NAME, Contract, Vocabulary, check_version_fits, read_vocabulary

READ_TIMEOUT_S = 60.0
MAX_BACKOFF_S = 60.0
# Of reads that hang, such as those of a network disk that is away: no more threads than this.
MAX_READS = 8
MAX_PROBLEM_CHARS = 300
ReadT = TypeVar("ReadT")


class VersionPendingError(HeadwaterError):
    """A version is being read."""


@dataclass(frozen=True, eq=False)
class Route:
    """A version that takes traffic, with its own vocabulary.

    Compared by identity: `Routes` makes one object per version and rollout.

    Attributes:
        rollout_id: of the rollout that the version is part of; "" for none.
    """

    version: RoutedVersion
    vocabulary: Vocabulary
    rollout_id: str = ""


@dataclass(frozen=True)
class Assignment:
    """Which version one user sees, and which is called in shadow mode besides."""

    shown: Route
    shadow: Route | None = None


class Routes:
    """The routes of one model as the newest rollout says, as far as its versions can be read.

    A user's bucket between 0 and 1 is a hash of user, model and rollout. The canary has the buckets
    from 0 on, its baseline those from the middle on: as their shares grow users join them, and
    nobody leaves (Kohavi, Tang & Xu, "Trustworthy Online Controlled Experiments", 2020, ch. 4).

    A canary or a shadow that cannot be read is left out: its users get the stable version. While
    that cannot be read, the stable version of before goes on alone. `refresh` tries again.

    Args:
        model: name of the model.
        contract: what the rows are; a version that was trained on others is refused. None: any is
            taken.
        load: reads a vocabulary from its address; what it raises is that version's problem.
        clock: seconds, for leases.

    Attributes:
        problems: by variant, why its version is not there; empty where all are.
        is_loading: whether one of these is only being read.
        lease_expired: whether a rollout is not shown because no controller watches it.
    """

    def __init__(
        self,
        model: str,
        contract: Contract | None = None,
        load: Callable[[str], Vocabulary] = read_vocabulary,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.problems: dict[str, str] = {}
        self.is_loading = self.lease_expired = False
        self._contract = contract
        self._load = load
        self._clock = clock
        self._rollout: Rollout | None = None
        self._lease_end = math.inf
        self._vocabularies: dict[tuple[int, str], Vocabulary] = {}
        # Replaced whole, never changed: `refresh` runs in another thread than `assign`.
        self._routes: dict[str, Route] = {}

    @property
    def stable(self) -> Route | None:
        """The version that a rollout relies on; None without any version."""
        return self._routes.get(Variant.STABLE)

    @property
    def versions_to_keep(self) -> list[RoutedVersion]:
        """What is to stay loaded: what the newest rollout names, readable or not; what answers."""
        named = self._rollout.versions if self._rollout else []
        answering = [route.version for route in self._routes.values()]
        return [*named, *(each for each in answering if each not in named)]

    @property
    def answering(self) -> list[Route]:
        """The versions that answer."""
        return list(self._routes.values())

    @property
    def loaded(self) -> dict[str, int]:
        """By variant, the number of the version that answers."""
        return {variant: route.version.version for variant, route in self._routes.items()}

    def assign(self, user_id: str) -> Assignment | None:
        """A user's versions: the same as long as the shares stay; None without any version."""
        routes = self._routes
        stable = routes.get(Variant.STABLE)
        if stable is None:
            return None
        if len(routes) == 1:
            return Assignment(stable)
        shares = {name: route.version.share for name, route in routes.items()}
        bucket = bucket_of(self.model, stable.rollout_id, user_id)
        variant, has_shadow = deal_variant(bucket, shares)
        return Assignment(routes[variant], routes[Variant.SHADOW] if has_shadow else None)

    def follow(self, rollout: Rollout, lease_s: float = math.inf) -> None:
        """Route as a rollout says; vocabularies already loaded are kept.

        Args:
            lease_s: how long it may be shown unless it is renewed; a version that everyone gets
                needs no lease.

        Raises:
            ValueError: no version is stable; the routes stay as they are.
        """
        if rollout.version_for(Variant.STABLE) is None:
            raise ValueError("versions: none is stable: one has to be")
        self._rollout = rollout
        self._lease_end = self._clock() + lease_s
        self.refresh()

    def renew(self, rollout_id: str, lease_s: float) -> None:
        """A controller watches this rollout; a lease of another one changes nothing."""
        if self._rollout is not None and self._rollout.rollout_id == rollout_id:
            self._lease_end = max(self._lease_end, self._clock() + lease_s)
            self.refresh()

    def refresh(self) -> None:
        """Load what is missing, and end what no controller watches; nothing raises."""
        rollout = self._rollout
        if rollout is None:
            return
        self.lease_expired = rollout.needs_lease and self._clock() >= self._lease_end
        self.is_loading = False
        problems: dict[str, str] = {}
        routes: dict[str, Route] = {}
        for version in rollout.versions:
            if self.lease_expired and version.variant != Variant.STABLE:
                continue
            try:
                routes[version.variant] = self._route(version, rollout.rollout_id)
            except Exception as error:  # noqa: BLE001  (an address is others' work: it is said)
                self.is_loading |= isinstance(error, VersionPendingError)
                problems[version.variant] = _line(error)
        self.problems = problems
        if Variant.STABLE in routes:
            self._routes = routes
        elif (before := self.stable) is not None:
            self._routes = {Variant.STABLE: before}
        used = [each.version for each in self._routes.values()] + rollout.versions
        names = {(each.version, each.address) for each in used}
        self._vocabularies = {k: v for k, v in self._vocabularies.items() if k in names}

    def _route(self, version: RoutedVersion, rollout_id: str) -> Route:
        """The route of before, if it is the same, else a new one."""
        before = self._routes.get(version.variant)
        if before and (before.version, before.rollout_id) == (version, rollout_id):
            return before
        name = version.version, version.address
        vocabulary = self._vocabularies.get(name)
        if vocabulary is None:
            vocabulary = self._vocabularies[name] = self._load_vocabulary(version)
        return Route(version, vocabulary, rollout_id)

    def _load_vocabulary(self, version: RoutedVersion) -> Vocabulary:
        if self._contract is not None:
            check_version_fits(version.address, self._contract)
        return self._load(f"{version.address.rstrip('/')}/{FILE_NAME}")


def _line(error: Exception) -> str:
    said = " ".join(str(error).split())[:MAX_PROBLEM_CHARS]
    return said if isinstance(error, HeadwaterError) else f"{type(error).__name__}: {said}"


def deal_variant(bucket: float, shares: Mapping[str, float]) -> tuple[Variant, bool]:
    """What a person is shown, by their bucket; and whether the shadow is asked besides.

    Args:
        shares: by variant; what nobody has is left out.

    >>> deal_variant(0.55, {"stable": 0.8, "canary": 0.1, "baseline": 0.1})
    (<Variant.BASELINE: 'baseline'>, False)
    """

    def is_within(variant: Variant, place: float) -> bool:
        return 0 <= place < shares.get(variant, 0.0)

    if is_within(Variant.CANARY, bucket):
        return Variant.CANARY, False
    if is_within(Variant.BASELINE, bucket - LARGEST_SHARE):
        return Variant.BASELINE, False
    return Variant.STABLE, is_within(Variant.SHADOW, bucket)


def bucket_of(model: str, rollout_id: str, user_id: str) -> float:
    """A user's bucket in a rollout, from 0 up to 1: the same in every process.

    >>> 0 <= bucket_of("temporal_llm", "r1", "ann") < 1
    True
    """
    return xxhash.xxh3_64_intdigest(f"{model}/{rollout_id}/{user_id}") / 2**64


_PENDING: Any = object()


@dataclass(slots=True)
class _Read:
    """A read that was begun; `outcome` is there once it has ended."""

    begun_s: float
    failures: int
    outcome: Any = _PENDING
    retry_s: float = 0.0


class BackgroundReads(Generic[ReadT]):
    """Reads addresses in threads of their own, each for a limited time, and again when it fails.

    So who follows `rollouts` sees a rollback at once, whatever an address does meanwhile.

    Args:
        read: what is done in the thread.
        timeout_s: how long one may take. It cannot be stopped: its thread is left alone.
        clock: seconds.
    """

    def __init__(
        self,
        read: Callable[[str], ReadT],
        timeout_s: float = READ_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._timeout_s = timeout_s
        self._clock = clock
        self._reads: dict[str, _Read] = {}
        self._threads: list[threading.Thread] = []

    def __call__(self, address: str) -> ReadT:
        """What was read; asked again it is read anew.

        Raises:
            VersionPendingError: it is being read, or has to wait for its turn.
            Exception: what reading it raised last; it is tried again after 1 s, 2, 4 ... 60.
            TimeoutError: it took too long, likewise.
        """
        now_s = self._clock()
        found = self._reads.get(address)
        if found is None:
            raise self._begin(address, 0)
        if not isinstance(found.outcome, Exception) and found.outcome is not _PENDING:
            del self._reads[address]
            read: ReadT = found.outcome
            return read
        if found.outcome is _PENDING:
            if now_s - found.begun_s < self._timeout_s:
                raise VersionPendingError(f"{address}: is being read")
            found.outcome = TimeoutError(f"{address}: no answer in {self._timeout_s:.0f} s")
        if not found.retry_s:
            found.retry_s = now_s + min(MAX_BACKOFF_S, 2.0**found.failures)
        if now_s >= found.retry_s:
            self._begin(address, found.failures + 1)
        # Raised again and again, it must not collect a trace of each time.
        raise found.outcome.with_traceback(None)

    def _begin(self, address: str, failures: int) -> VersionPendingError:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= MAX_READS:
            return VersionPendingError(f"{address}: waits: {MAX_READS} other reads hang")
        read = _Read(self._clock(), failures)
        # Those that nobody asks for any more go; a rollout has a few.
        newest = list(self._reads.items())[-2 * MAX_READS :]
        self._reads = {**dict(newest), address: read}
        thread = threading.Thread(
            target=self._run, args=(address, read), name="version-read", daemon=True
        )
        self._threads.append(thread)
        thread.start()
        return VersionPendingError(f"{address}: is being read")

    def _run(self, address: str, read: _Read) -> None:
        outcome: ReadT | Exception
        try:
            outcome = self._read(address)
        except BaseException as error:  # noqa: BLE001  (kept: it is raised where it is asked for)
            outcome = error if isinstance(error, Exception) else RuntimeError(repr(error))
        if read.outcome is _PENDING:
            read.outcome = outcome

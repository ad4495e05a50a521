"""Which version of the model answers which user: deterministic buckets, as a rollout says."""

from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from features.rollout_messages import LARGEST_SHARE, Rollout, RoutedVersion, Variant
from features.schema import FILE_NAME, Contract, Vocabulary, check_version_fits, read_vocabulary


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
    """The routes of one model as the newest rollout says.

    A user's bucket between 0 and 1 is a hash of user, model and rollout. The canary has the buckets
    from 0 on, its baseline those from the middle on: as their shares grow users join them, and
    nobody leaves (Kohavi, Tang & Xu, "Trustworthy Online Controlled Experiments", 2020, ch. 4).

    Args:
        model: name of the model.
        contract: what the rows are; a version that was trained on others is refused. None: any is
            taken.
        load: reads the vocabulary of a version from its address.
    """

    def __init__(
        self,
        model: str,
        contract: Contract | None = None,
        load: Callable[[str], Vocabulary] = read_vocabulary,
    ) -> None:
        self.model = model
        self._contract = contract
        self._load = load
        # Replaced whole, never changed: `follow` runs in another thread than `assign`.
        self._routes: dict[str, Route] = {}

    @property
    def stable(self) -> Route | None:
        """The version that a rollout relies on; None without any version."""
        return self._routes.get(Variant.STABLE)

    @property
    def routed(self) -> list[RoutedVersion]:
        """Every version that takes traffic."""
        return [route.version for route in self._routes.values()]

    def assign(self, user_id: str) -> Assignment | None:
        """A user's versions: the same as long as the shares stay; None without any version."""
        routes = self._routes
        stable = routes.get(Variant.STABLE)
        if stable is None:
            return None
        if len(routes) == 1:
            return Assignment(stable)
        bucket = bucket_of(self.model, stable.rollout_id, user_id)
        if (canary := _route_if_within(routes.get(Variant.CANARY), bucket)) is not None:
            return Assignment(canary)
        baseline = _route_if_within(routes.get(Variant.BASELINE), bucket - LARGEST_SHARE)
        if baseline is not None:
            return Assignment(baseline)
        return Assignment(stable, _route_if_within(routes.get(Variant.SHADOW), bucket))

    def follow(self, rollout: Rollout) -> None:
        """Route as a rollout says; vocabularies already loaded are kept.

        Raises:
            OSError, ValueError: a vocabulary cannot be read, or no version is stable.
            SettingsError: a version was trained on other features.
            In each case the routes stay as they are.
        """
        if rollout.version_for(Variant.STABLE) is None:
            raise ValueError("versions: none is stable: one has to be")
        loaded = {route.version.address: route.vocabulary for route in self._routes.values()}
        self._routes = {
            version.variant: Route(
                version,
                loaded.get(version.address) or self._load_vocabulary(version),
                rollout.rollout_id,
            )
            for version in rollout.versions
        }

    def _load_vocabulary(self, version: RoutedVersion) -> Vocabulary:
        if self._contract is not None:
            check_version_fits(version.address, self._contract)
        return self._load(f"{version.address.rstrip('/')}/{FILE_NAME}")


def _route_if_within(route: Route | None, bucket: float) -> Route | None:
    """The route, if a bucket counted from the route's first one is among its share."""
    return route if route is not None and 0 <= bucket < route.version.share else None


def bucket_of(model: str, rollout_id: str, user_id: str) -> float:
    """A user's bucket in a rollout, from 0 up to 1: the same in every process.

    >>> 0 <= bucket_of("temporal_llm", "r1", "ann") < 1
    True
    """
    return xxhash.xxh3_64_intdigest(f"{model}/{rollout_id}/{user_id}") / 2**64

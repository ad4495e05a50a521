"""Which rules of a placement make a person's list, while a change of it is tried out."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from headwater_client.contract import PlacementAnswer, PlacementRules

from features.rollout_messages import Rollout, Variant, placement_subject
from stream.routing import bucket_of, deal_variant


class PlacementPart(NamedTuple):
    """A person's part in the trial of a placement.

    Attributes:
        tried: the rules that are tried out, where they make this person's list.
        shadow: the same, where they make a list that nobody sees.
    """

    rollout_id: str
    variant: str
    tried: PlacementRules | None = None
    shadow: PlacementRules | None = None


@dataclass(slots=True)
class _Followed:
    rollout: Rollout
    lease_end_s: float


class PlacementTrials:
    """The trials of placements as the newest messages of `rollouts` say.

    A person's bucket is a hash of the person, the placement and the trial: whoever is in the canary
    of one trial is in any variant of another, and of a rollout of the model.

    Args:
        clock: seconds, for leases.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._followed: dict[str, _Followed] = {}

    def follow(self, rollout: Rollout, lease_s: float = math.inf) -> None:
        """Deal people as a message says.

        Args:
            lease_s: how long it may be shown unless it is renewed.
        """
        self._followed[rollout.model] = _Followed(rollout, self._clock() + lease_s)

    def renew(self, subject: str, rollout_id: str, lease_s: float) -> None:
        """A controller watches this trial; a lease of another one changes nothing."""
        found = self._followed.get(subject)
        if found is not None and found.rollout.rollout_id == rollout_id:
            found.lease_end_s = max(found.lease_end_s, self._clock() + lease_s)

    def assign(self, placement: PlacementAnswer, person: str) -> PlacementPart | None:
        """A person's part; None where nothing is tried out, or nobody watches it.

        A trial compares with certain rules: once somebody has changed these, it is over.
        """
        subject = placement_subject(placement.name)
        found = self._followed.get(subject)
        if found is None or self._clock() >= found.lease_end_s:
            return None
        rollout = found.rollout
        stable, tried = rollout.version_for(Variant.STABLE), rollout.candidate
        if stable is None or tried is None or stable.version != placement.revision:
            return None
        shares = {each.variant: each.share for each in rollout.versions}
        bucket = bucket_of(subject, rollout.rollout_id, person)
        variant, has_shadow = deal_variant(bucket, shares)
        return PlacementPart(
            rollout.rollout_id,
            variant,
            tried.rules if variant is Variant.CANARY else None,
            tried.rules if has_shadow else None,
        )

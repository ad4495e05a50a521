"""What can be tried out: another version of a model, or other rules of a placement."""

import hashlib
from collections.abc import Callable
from typing import Protocol

from headwater_client import EventError
from headwater_client.contract import PlacementAnswer, PlacementRules
from headwater_client.events import encode

from deploy.rollout.commands import CommandRejectedError
from deploy.rollout.decision import PlacementChange, RolloutState, Trial
from features.placements import PlacementTable, check_placement
from features.rollout_messages import Rollout, RolloutCommand, Variant, placement_subject
from features.rules.errors import RuleError

_DIGEST_CHARS = 16


class Subject(Protocol):
    """What the rollouts of one subject begin with, and what ends one from outside."""

    name: str

    def begin(self, command: RolloutCommand, current: Rollout | None, state: RolloutState) -> Trial:
        """The trial that a command asks for.

        Raises:
            CommandRejectedError: it cannot be tried out.
        """

    def is_same(self, trial: Trial, command: RolloutCommand) -> bool:
        """Whether what a command asks for is on trial already."""

    def find_overtaking(self, trial: Trial, /) -> str:
        """Why a trial compares with what is not there any more; "" where it is."""


class ModelSubject:
    """Versions of a model.

    Args:
        find_problem: why a version at an address cannot be tried out; "" where it can.
    """

    def __init__(self, name: str, find_problem: Callable[[int, str], str]) -> None:
        self.name = name
        self._find_problem = find_problem

    def begin(self, command: RolloutCommand, current: Rollout | None, state: RolloutState) -> Trial:
        """As `Subject.begin`."""
        stable = current.version_for(Variant.STABLE) if current else None
        if stable is None:
            raise CommandRejectedError(
                "start: no version is live yet: train a first one: headwater train"
            )
        if command.version is None:
            raise CommandRejectedError("start: version: is missing: name the version to try out")
        if command.version == stable.version:
            raise CommandRejectedError(
                f"start: version {command.version} is what everyone gets already"
            )
        address = command.address or _sibling_address(stable.address, command.version)
        if problem := self._find_problem(command.version, address):
            raise CommandRejectedError(f"start: version {command.version}: {problem}")
        return Trial(
            rollout_id=f"{command.version}-{command.time}",
            model=self.name,
            candidate=(command.version, address),
            stable=(stable.version, stable.address),
            state=state,
        )

    def is_same(self, trial: Trial, command: RolloutCommand) -> bool:
        """As `Subject.is_same`."""
        return trial.candidate == (command.version, command.address)

    def find_overtaking(self, _: Trial, /) -> str:
        """An announcement overtakes a trial, and stands on the topic itself."""
        return ""


class PlacementSubject:
    """The rules of a placement.

    Args:
        placement: its name.
        table: the placements that count.
    """

    def __init__(self, placement: str, table: PlacementTable) -> None:
        self.name = placement_subject(placement)
        self._placement = placement
        self._table = table

    def begin(self, command: RolloutCommand, _: Rollout | None, state: RolloutState, /) -> Trial:
        """As `Subject.begin`."""
        stable = self._table.known.get(self._placement)
        if stable is None:
            there = ", ".join(sorted(self._table.known)) or "none"
            raise CommandRejectedError(
                f"start: no placement is named {self._placement}: there are {there}"
            )
        rules = command.rules
        if rules is None:
            raise CommandRejectedError("start: rules: are missing: say what is to be tried out")
        try:
            check_placement(self._placement, rules)
        except (EventError, RuleError) as error:
            raise CommandRejectedError(f"start: placement {self._placement}: {error}") from error
        if rules == stable.placement:
            raise CommandRejectedError(
                f"start: placement {self._placement} has these rules already, by revision "
                f"{stable.revision}"
            )
        return Trial(
            rollout_id=f"{self.name}-{command.time}",
            model=self.name,
            candidate=(stable.revision + 1, self._address(rules)),
            stable=self._identify(stable),
            state=state,
            change=PlacementChange(rules, stable.placement),
        )

    def is_same(self, trial: Trial, command: RolloutCommand) -> bool:
        """As `Subject.is_same`."""
        return trial.change is not None and trial.change.candidate == command.rules

    def find_overtaking(self, trial: Trial) -> str:
        """Somebody has changed the placement meanwhile, or removed it."""
        found = self._table.known.get(self._placement)
        if found is None:
            return "overtaken: the placement was removed"
        if self._identify(found) != trial.stable:
            return f"overtaken: the placement was changed, by revision {found.revision}"
        return ""

    def _identify(self, found: PlacementAnswer) -> tuple[int, str]:
        return found.revision, self._address(found.placement)

    def _address(self, rules: PlacementRules) -> str:
        """Names the content of rules."""
        return f"{self.name}#{hashlib.sha256(encode(rules)).hexdigest()[:_DIGEST_CHARS]}"


def _sibling_address(address: str, version: int) -> str:
    """The address of a version in the same folder as another.

    >>> _sibling_address("s3://models/temporal_llm/7/", 8)
    's3://models/temporal_llm/8'
    """
    return f"{address.rstrip('/').rpartition('/')[0]}/{version}"

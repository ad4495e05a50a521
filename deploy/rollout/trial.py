"""A rollout as it stands: which version is compared with which, and who gets which of the two."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deploy.rollout.decision import RolloutState
from deploy.rollout.settings import RolloutSettings
from features.rollout_messages import Rollout, RolloutPhase, RoutedVersion, Variant


@dataclass(frozen=True)
class Trial:
    """A candidate and the stable version.

    Attributes:
        candidate, stable: version number and address of each.
        sequence: number of its newest step, from 0.
    """

    rollout_id: str
    model: str
    candidate: tuple[int, str]
    stable: tuple[int, str]
    state: RolloutState
    sequence: int = 0

    @property
    def started_ms(self) -> int:
        """When it began, in milliseconds since 1970."""
        return int(1000 * self.state.started_s)

    def advance(self, state: RolloutState) -> Trial:
        """The trial one step on, in this state."""
        return replace(self, state=state, sequence=self.sequence + 1)

    def to_rollout(self, rules: RolloutSettings, time_ms: int) -> Rollout:
        """The message that workers follow: who gets which version."""
        return Rollout(
            model=self.model,
            versions=self._versions(rules),
            phase=self.state.phase,
            time=time_ms,
            rollout_id=self.rollout_id,
            sequence=self.sequence,
        )

    def _versions(self, rules: RolloutSettings) -> list[RoutedVersion]:
        match self.routing_phase:
            case RolloutPhase.PROMOTED:
                return [_route(self.candidate, Variant.STABLE, 1.0)]
            case RolloutPhase.ROLLED_BACK:
                return [_route(self.stable, Variant.STABLE, 1.0)]
            case RolloutPhase.SHADOW:
                return [
                    _route(self.stable, Variant.STABLE, 1.0),
                    _route(self.candidate, Variant.SHADOW, rules.shadow_fraction),
                ]
        share = rules.steps[self.state.step]
        return [
            _route(self.stable, Variant.STABLE, 1 - 2 * share),
            _route(self.candidate, Variant.CANARY, share),
            _route(self.stable, Variant.BASELINE, share),
        ]

    @property
    def routing_phase(self) -> RolloutPhase:
        """The phase that decides who gets which version: a pause changes nobody's."""
        paused = self.state.phase is RolloutPhase.PAUSED
        return self.state.phase_before_pause if paused else self.state.phase


def _route(version: tuple[int, str], variant: Variant, share: float) -> RoutedVersion:
    number, address = version
    return RoutedVersion(version=number, variant=variant, share=share, address=address)

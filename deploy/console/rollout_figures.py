"""A rollout as the console tells of it: from what the controller wrote on the topic. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from headwater_client.admin import rollouts
from headwater_client.admin.rollouts import SteeringAction
from headwater_client.errors import DataError
from msgspec import structs

from deploy.rollout import RolloutSettings, course, history
from deploy.rollout.decision import Trial, find_few_people
from deploy.rollout.evidence import DecisionInputs, Health, VariantTally, read_ratios
from deploy.rollout.guards import read_guards
from deploy.rollout.settings import DAY_S
from deploy.rollout.topic import RolloutHistory
from features import rollout_messages
from features.rollout_messages import RolloutPhase, RolloutStep
from trainer.version_history import describe_values

_ASSUMES = [
    "as many events earn a reward a day as in the last 24 hours of this rollout",
    "people are as alike to themselves as so far: the error shrinks with the root of the events",
    "the true effect is that of its row; chance moves the estimate: half of them take longer",
    "nobody pauses it, and no guard breaks",
]


@dataclass(frozen=True)
class FoundRollout:
    """A rollout on the topic: its steps, oldest first, and what stands there besides."""

    subject: str
    steps: Sequence[RolloutStep]
    of_subject: RolloutHistory

    @property
    def newest(self) -> RolloutStep:
        return self.steps[-1]

    @property
    def rollout_id(self) -> str:
        return self.newest.rollout.rollout_id

    @property
    def course(self) -> rollout_messages.RolloutCourse | None:
        return self.of_subject.courses.get(self.rollout_id)

    @property
    def is_current(self) -> bool:
        current = self.of_subject.current
        return bool(current and current.rollout_id == self.rollout_id and current.phase.is_active)

    def rules(self) -> RolloutSettings | None:
        """The rules that it began with; None where none of its steps can be read."""
        for step in self.steps:
            try:
                return history.rules_of(step)
            except DataError:
                continue
        return None

    def trial(self) -> Trial | None:
        try:
            return history.trial_of(self.newest)
        except DataError:
            return None


def list_found(known: Mapping[str, RolloutHistory]) -> Iterator[FoundRollout]:
    """All rollouts, by subject."""
    for subject, of_subject in known.items():
        by_rollout: dict[str, list[RolloutStep]] = {}
        for step in of_subject.steps:
            by_rollout.setdefault(step.rollout.rollout_id, []).append(step)
        for steps in by_rollout.values():
            yield FoundRollout(subject, steps, of_subject)


def summarise(found: FoundRollout) -> rollouts.RolloutSummary:
    newest, trial = found.newest, found.trial()
    phase, rules = newest.rollout.phase, found.rules()
    sample = found.course.samples[-1] if found.course and found.course.samples else None
    return rollouts.RolloutSummary(
        rollout=found.rollout_id,
        state=phase,
        candidate=trial.candidate[0] if trial else 0,
        stable=trial.stable[0] if trial else 0,
        share=history.share_of(newest.rollout),
        started=found.steps[0].rollout.time,
        reason=newest.reason,
        actor=newest.actor,
        placement=rollout_messages.placement_of(found.subject) or "",
        ended=None if found.is_current else newest.rollout.time,
        estimate=sample.estimate if sample else None,
        lower=sample.lower if sample else None,
        upper=sample.upper if sample else None,
        margin=rules.margin if rules else None,
    )


def describe(found: FoundRollout) -> rollouts.RolloutDetails:
    newest, rules = found.newest, found.rules()
    decision = _describe_decision(found)
    outlook = _expect(found, rules)
    name = f"rollout {found.rollout_id},"
    return rollouts.RolloutDetails(
        summary=summarise(found),
        variants=[
            rollouts.VariantShare(variant=each.variant, version=each.version, share=each.share)
            for each in newest.rollout.versions
        ],
        sequence=newest.rollout.sequence,
        actions=_possible_actions(newest.rollout.phase) if found.is_current else [],
        margin=rules.margin if rules else None,
        shares=list(rules.steps) if rules else [],
        watched=found.of_subject.lease_ms if found.is_current else None,
        evidence=list(_list_evidence(found)),
        history=[_describe_step(step) for step in found.steps],
        breaks=[line for line in found.of_subject.breaks if line.startswith(name)],
        decision=decision,
        outlook=outlook if isinstance(outlook, rollouts.OutlookFigures) else None,
        no_outlook=outlook if isinstance(outlook, str) else "",
    )


def _possible_actions(phase: RolloutPhase) -> list[SteeringAction]:
    other = SteeringAction.RESUME if phase is RolloutPhase.PAUSED else SteeringAction.PAUSE
    return [SteeringAction.PROMOTE, SteeringAction.ROLLBACK, other]


def make_sample(found: FoundRollout) -> rollouts.RolloutSample:
    rollout, kept = found.newest.rollout, found.course
    return rollouts.RolloutSample(
        rollout=found.rollout_id,
        state=rollout.phase,
        sequence=rollout.sequence,
        share=history.share_of(rollout),
        point=_point(kept.samples[-1]) if kept and kept.samples else None,
    )


def _point(sample: rollout_messages.EvidenceSample) -> rollouts.EvidencePoint:
    fields = rollouts.EvidencePoint.__struct_fields__
    return rollouts.EvidencePoint(**{name: getattr(sample, name) for name in fields})


def _list_evidence(found: FoundRollout) -> Iterator[rollouts.EvidencePoint]:
    """The samples that the controller kept; of an older release's rollout those of its steps."""
    if found.course is not None:
        yield from map(_point, found.course.samples)
        return
    for step in found.steps:
        try:
            if history.has_inputs(step):
                recorded = history.read_recorded(step.inputs, f"rollout {found.rollout_id}")
                trial = structs.replace(history.trial_of(step), state=recorded.before)
                decided = recorded.replay()
                yield _point(course.make_sample(trial, recorded.inputs, decided, recorded.rules))
        except DataError:
            # The history says of this step what is wrong with it.
            continue


def _describe_step(step: RolloutStep) -> rollouts.StepFigures:
    told = rollouts.StepFigures(
        sequence=step.rollout.sequence,
        time=step.rollout.time,
        state=step.rollout.phase,
        share=history.share_of(step.rollout),
        actor=step.actor,
        reason=step.reason,
    )
    if not history.has_inputs(step):
        return told
    try:
        recorded = history.read_recorded(step.inputs, f"step {step.rollout.sequence}")
        effect, rules = recorded.replay().effect, recorded.rules
        alike = history.is_reproducible(step)
    except DataError as error:
        return structs.replace(told, problem=str(error))
    if effect is None:
        return structs.replace(told, replayed_alike=alike)
    return structs.replace(
        told,
        replayed_alike=alike,
        estimate=effect.estimate,
        lower=_finite(effect.lower(rules.false_promotion)),
        upper=_finite(effect.upper(rules.false_rollback)),
    )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _describe_decision(found: FoundRollout) -> rollouts.DecisionFigures | None:
    """The newest decision: the controller's last one, or that of the last step with figures."""
    kept = found.course
    decided = next((step for step in reversed(found.steps) if history.has_inputs(step)), None)
    source = (kept.inputs, kept.reason, kept.time) if kept and kept.inputs else None
    if source is None and decided is not None:
        source = decided.inputs, decided.reason, decided.rollout.time
    if source is None:
        return None
    inputs_json, reason, time_ms = source
    try:
        recorded = history.read_recorded(inputs_json, f"rollout {found.rollout_id}")
        replayed = recorded.replay()
    except DataError:
        return None
    inputs, rules = recorded.inputs, recorded.rules
    requests = inputs.canary_health.requests
    is_shadow = recorded.before.phase is RolloutPhase.SHADOW
    return rollouts.DecisionFigures(
        time=time_ms,
        reason=reason,
        replayed_alike=replayed.reason == reason,
        of_seen=inputs.of_seen,
        drift=inputs.drift,
        canary=_describe_variant(inputs.canary, inputs.canary_health),
        baseline=_describe_variant(inputs.baseline, inputs.baseline_health),
        guards=[rollouts.GuardFigures(**each._asdict()) for each in read_guards(inputs, rules)],
        guards_speak=requests >= rules.min_requests,
        # In shadow mode the stable version has everyone: nothing is to be equal.
        ratios=[] if is_shadow else _describe_ratios(inputs),
        rules=describe_values(history.rules_as_json(rules)["rules"]),
        few=find_few_people(inputs, rules),
    )


def _describe_ratios(inputs: DecisionInputs) -> list[rollouts.RatioFigures]:
    return [
        rollouts.RatioFigures(**each._asdict(), problem=each.problem)
        for each in read_ratios(inputs)
    ]


def _describe_variant(tally: VariantTally, health: Health) -> rollouts.VariantFigures:
    counts = health.counts
    return rollouts.VariantFigures(
        shown=float(tally.shown.sum()),
        reward=float(tally.reward.sum()),
        events=tally.events,
        people=health.people,
        requests=counts["requests"],
        failed=counts["failed"],
        fallbacks=counts["fallbacks"],
        clicked=counts["clicked"],
        bought=counts["bought"],
        p99_ms=health.p99_ms,
        coverage=health.coverage,
    )


def _expect(found: FoundRollout, rules: RolloutSettings | None) -> rollouts.OutlookFigures | str:
    """How long a verdict takes from now, or why nobody can say."""
    trial, kept = found.trial(), found.course
    if not found.is_current or trial is None or rules is None:
        return "it has ended" if not found.is_current else "its history cannot be read"
    if trial.routing_phase is RolloutPhase.SHADOW:
        return "nobody sees the candidate yet: nothing is earned in shadow mode"
    samples = kept.samples if kept else []
    newest = samples[-1] if samples else None
    since_s = newest.time / 1000 - DAY_S if newest else 0.0
    traffic = course.measure_traffic(samples, since_s)
    if newest is None or traffic is None:
        return "nothing was earned yet: clicks and purchases of what was recommended are waited for"
    cases = course.expect_verdict(trial.state, newest, traffic, rules)
    return rollouts.OutlookFigures(
        events_a_day=traffic.events_a_day,
        design_effect=traffic.design_effect,
        bound_days=course.bound_days(traffic, rules),
        cases=[
            rollouts.VerdictCase(
                case=name, effect=math.expm1(each.effect), verdict=each.phase, days=each.days
            )
            for name, each in cases.items()
        ],
        assumes=_ASSUMES,
    )

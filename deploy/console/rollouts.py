"""Rollouts: what the controller has written of them, and commands to it."""

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

from headwater_client.admin import rollouts
from headwater_client.admin.rollouts import SteeringAction
from headwater_client.errors import DataError, HeadwaterError, ServerError
from msgspec import structs

from deploy.console.parts import ConsoleOperations, ConsoleParts
from deploy.rollout import RolloutSettings, commands, course, history
from deploy.rollout.decision import Trial, find_few_people
from deploy.rollout.evidence import DecisionInputs, Health, VariantTally, read_ratios
from deploy.rollout.guards import read_guards
from deploy.rollout.settings import DAY_S
from deploy.rollout.topic import RolloutArchive, RolloutHistory, send_command
from deploy.settings import Settings
from features import rollout_messages
from features.inputs import MODEL_NAME
from features.rollout_messages import RolloutAction, RolloutPhase, RolloutStep
from stream.api.keys import ANYONE, ApiKey
from stream.api.parts import ApiCall
from stream.api.problems import refuse
from trainer.version_history import describe_values

_NEWEST_REFUSED = 10
_ASSUMES = [
    "as many events earn a reward a day as in the last 24 hours of this rollout",
    "people are as alike to themselves as so far: the error shrinks with the root of the events",
    "the true effect is that of its row; chance moves the estimate: half of them take longer",
    "nobody pauses it, and no guard breaks",
]


@dataclass(frozen=True)
class _Found:
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


class RolloutOperations(ConsoleOperations):
    """List rollouts, describe one, start and steer them."""

    def __init__(self, parts: ConsoleParts) -> None:
        super().__init__(parts)
        self._rollout_archive = RolloutArchive(parts.settings.kafka, MODEL_NAME)

    async def list_rollouts(self, call: ApiCall) -> rollouts.RolloutsAnswer:
        """The newest rollouts of all subjects.

        Raises:
            ServerError: Kafka does not answer.
        """
        known = await asyncio.to_thread(self._rollout_archive.read)
        found = sorted(_list_found(known), key=lambda each: each.steps[0].rollout.time)
        stable = self._parts.routes.stable
        refused = [answer for each in known.values() for answer in each.rejected]
        refused.sort(key=lambda answer: answer.time)
        return rollouts.RolloutsAnswer(
            live=stable.version.version if stable else None,
            rollouts=[_summarise(each) for each in reversed(found[-call.query.limit :])],
            breaks=[line for each in known.values() for line in each.breaks],
            refused=[
                rollouts.RefusedCommand(time=each.time, reason=each.reason)
                for each in reversed(refused[-_NEWEST_REFUSED:])
            ],
        )

    async def describe_rollout(self, call: ApiCall) -> rollouts.RolloutDetails:
        """What is known of one rollout.

        Raises:
            RequestError: there is no such rollout.
            ServerError: Kafka does not answer.
        """
        return _describe(await self._find_rollout(call.path["rollout"]))

    async def sample_rollouts(self) -> rollouts.RolloutsSample:
        """The newest rollout of each subject, for whoever looks.

        Raises:
            ServerError: Kafka does not answer.
        """
        known = await asyncio.to_thread(self._rollout_archive.read)
        newest = {each.subject: each for each in _list_found(known)}
        return rollouts.RolloutsSample(rollouts=[_sample(each) for each in newest.values()])

    async def start_rollout(self, call: ApiCall) -> rollouts.CommandAnswer:
        """Load a version, and have the controller try it out.

        Raises:
            RequestError: it cannot be loaded, or the controller refuses.
            ServerError: Kafka does not answer, or no controller does.
        """
        query: rollouts.StartQuery = call.body
        actor = _name_actor(call.key, query.actor)
        address = await asyncio.to_thread(_load_apart, self._parts.settings, query.version)
        request = commands.CommandRequest(
            MODEL_NAME,
            RolloutAction.START,
            actor,
            query.reason,
            version=query.version,
            address=address,
        )
        return await self._command_controller(request)

    async def steer_rollout(self, call: ApiCall) -> rollouts.CommandAnswer:
        """Have the controller promote a rollout, roll it back, pause or resume it.

        Raises:
            RequestError: there is no such rollout, it has ended, or the controller refuses.
            ServerError: Kafka does not answer, or no controller does.
        """
        query: rollouts.SteerRolloutQuery = call.body
        actor = _name_actor(call.key, query.actor)
        found = await self._find_rollout(call.path["rollout"])
        current = found.of_subject.current
        if current is None or not found.is_current:
            phase = found.newest.rollout.phase
            raise refuse(
                "conflict",
                f"{query.action}: rollout {found.rollout_id} has ended: {phase}",
                "start another one; GET /v1/admin/rollouts lists them",
            )
        if query.sequence is not None:
            current = structs.replace(current, sequence=query.sequence)
        action = RolloutAction(query.action.value)
        return await self._command_controller(
            commands.CommandRequest(found.subject, action, actor, query.reason, seen=current)
        )

    async def _find_rollout(self, rollout_id: str) -> _Found:
        known = await asyncio.to_thread(self._rollout_archive.read)
        for found in _list_found(known):
            if found.rollout_id == rollout_id:
                return found
        raise refuse(
            "not-found",
            f"no rollout is named {rollout_id[:128]!r}",
            "GET /v1/admin/rollouts lists those that there are",
        )

    async def _command_controller(self, request: commands.CommandRequest) -> rollouts.CommandAnswer:
        settings = self._parts.settings
        try:
            signed = commands.sign_command(settings.rollout, request)
            answer = await asyncio.to_thread(send_command, settings.kafka, signed)
        except commands.CommandRejectedError as error:
            raise refuse(
                "conflict", str(error), "look at the rollout as it is now, and ask again"
            ) from error
        return rollouts.CommandAnswer(
            command_id=answer.command_id, outcome=answer.reason, time=answer.time
        )


def _name_actor(key: ApiKey, named: str) -> str:
    """Who asks, for the history: nobody can sign with the name of another one's key.

    Raises:
        RequestError: nobody says who it is.
    """
    name = named.strip()
    if key == ANYONE:
        if not name:
            raise refuse(
                "invalid-field",
                "actor: is missing: this service asks for no keys, so it does not know who asks",
                "say your name: it stays in the history",
            )
        return name
    return f"{name} ({key.name})" if name and name != key.name else key.name


def _load_version(settings: Settings, version: int) -> str:
    """Load a version into Triton, checked; its address. Needs torch."""
    from deploy.jobs.train import load_candidate  # noqa: PLC0415

    return load_candidate(settings, version).address


def _load_apart(settings: Settings, version: int) -> str:
    """The same in a process of its own: torch takes memory, and the console goes on.

    Raises:
        RequestError: it cannot be loaded.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        try:
            return apart.submit(_load_version, settings, version).result()
        except BrokenProcessPool as error:
            raise refuse(
                "unavailable",
                f"start: version {version}: who was to load it was ended from outside",
                "look for the reason in the system's log, such as too little memory, and ask again",
            ) from error
        except ServerError:
            raise
        except HeadwaterError as error:
            raise refuse("conflict", str(error), "choose a version that is stored") from error
        except ModuleNotFoundError as error:
            raise refuse(
                "conflict",
                f"start: version {version}: cannot be loaded here: {error}",
                "install headwater[trainer] here, or start it where versions are trained: "
                f"headwater rollout start {version}",
            ) from error


def _list_found(known: Mapping[str, RolloutHistory]) -> Iterator[_Found]:
    """All rollouts, by subject."""
    for subject, of_subject in known.items():
        by_rollout: dict[str, list[RolloutStep]] = {}
        for step in of_subject.steps:
            by_rollout.setdefault(step.rollout.rollout_id, []).append(step)
        for steps in by_rollout.values():
            yield _Found(subject, steps, of_subject)


def _summarise(found: _Found) -> rollouts.RolloutSummary:
    newest, trial = found.newest, found.trial()
    phase = newest.rollout.phase
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
    )


def _describe(found: _Found) -> rollouts.RolloutDetails:
    newest, rules = found.newest, found.rules()
    decision = _describe_decision(found)
    outlook = _expect(found, rules)
    name = f"rollout {found.rollout_id},"
    return rollouts.RolloutDetails(
        summary=_summarise(found),
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


def _sample(found: _Found) -> rollouts.RolloutSample:
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


def _list_evidence(found: _Found) -> Iterator[rollouts.EvidencePoint]:
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


def _describe_decision(found: _Found) -> rollouts.DecisionFigures | None:
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


def _expect(found: _Found, rules: RolloutSettings | None) -> rollouts.OutlookFigures | str:
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
            rollouts.VerdictCase(case=name, effect=each.effect, verdict=each.phase, days=each.days)
            for name, each in cases.items()
        ],
        assumes=_ASSUMES,
    )

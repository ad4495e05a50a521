"""Rollouts: what the controller has written of them, and commands to it."""

import asyncio
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from headwater_client.admin import rollouts
from headwater_client.errors import HeadwaterError, ServerError
from msgspec import structs

from deploy.console import rollout_figures as figures
from deploy.console.parts import ConsoleOperations, ConsoleParts
from deploy.rollout import commands
from deploy.rollout.topic import RolloutArchive, send_command
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.rollout_messages import RolloutAction
from stream.api.keys import ANYONE, ApiKey
from stream.api.parts import ApiCall
from stream.api.problems import refuse

_NEWEST_REFUSED = 10


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
        found = sorted(figures.list_found(known), key=lambda each: each.steps[0].rollout.time)
        stable = self._parts.routes.stable
        refused = [answer for each in known.values() for answer in each.rejected]
        refused.sort(key=lambda answer: answer.time)
        return rollouts.RolloutsAnswer(
            live=stable.version.version if stable else None,
            rollouts=[figures.summarise(each) for each in reversed(found[-call.query.limit :])],
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
        return figures.describe(await self._find_rollout(call.path["rollout"]))

    async def sample_rollouts(self) -> rollouts.RolloutsSample:
        """The newest rollout of each subject, for whoever looks.

        Raises:
            ServerError: Kafka does not answer.
        """
        known = await asyncio.to_thread(self._rollout_archive.read)
        newest = {each.subject: each for each in figures.list_found(known)}
        return rollouts.RolloutsSample(
            rollouts=[figures.make_sample(each) for each in newest.values()]
        )

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

    async def _find_rollout(self, rollout_id: str) -> figures.FoundRollout:
        known = await asyncio.to_thread(self._rollout_archive.read)
        for found in figures.list_found(known):
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

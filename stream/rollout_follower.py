"""Follows the compacted topic `rollouts`: routes are always those of the newest rollout."""

import asyncio
import time
from functools import partial

import structlog
from confluent_kafka import Message
from headwater_client.topics import ROLLOUTS

from features.kafka import is_end, read_to_end, topic_consumer, watch_brokers
from features.model_server import keep_loaded
from features.rollout_messages import Rollout, RolloutLease, RolloutMessage
from features.rollouts import SubjectReaders, warn_if_unsigned
from features.schema import FeatureSchema, read_version
from features.settings import BrokerSettings
from stream import metrics
from stream.inference import model_servers
from stream.routing import BackgroundReads, Routes
from stream.settings import WorkerConfig
from stream.trials import PlacementTrials

log = structlog.get_logger()
_POLL_S = 0.2
_FETCH_WAIT_MS = 500
# The first recommendation waits so long for its model; then popular items answer meanwhile.
_FIRST_READ_S = 30.0


class RolloutFollower:
    """Reads `rollouts` from its beginning and keeps `routes` and `trials` up to date.

    Nothing that stands there, and no address that it names, ends the worker.

    Args:
        settings: where Kafka is, and the key that messages are signed with.
        routes: what is kept up to date.
        lease_s: how long a rollout is shown without a sign of life of its controller.

    Attributes:
        routes: as given.
        trials: of placements.
    """

    def __init__(self, settings: BrokerSettings, routes: Routes, lease_s: float) -> None:
        self.routes = routes
        self.trials = PlacementTrials()
        self._settings = settings
        self._lease_s = lease_s
        self._readers = SubjectReaders(settings, routes.model)
        self._started = asyncio.Event()
        self._reported: object = None
        # Only the topic's end is told that much later, once at the start; messages come at once.
        self._consumer = topic_consumer(
            settings, ROLLOUTS, {"fetch.wait.max.ms": str(_FETCH_WAIT_MS), **watch_brokers()}
        )

    async def start(self) -> None:
        """Read what is there, so that the first recommendation has its model.

        Raises:
            ServerError: the topic cannot be read.
        """
        if self._started.is_set():
            # Who starts again because something else was away: `run` has the consumer by now.
            return
        warn_if_unsigned(self._settings)
        await asyncio.to_thread(self._catch_up)
        self._started.set()

    def _catch_up(self) -> None:
        """Follow the newest rollout of each subject; those before are read, and not followed."""
        self._readers = SubjectReaders(self._settings, self.routes.model)
        newest: dict[str, Rollout] = {}
        leases: dict[str, RolloutLease] = {}
        for message in read_to_end(self._consumer, ROLLOUTS):
            match self._read(message):
                case Rollout() as rollout:
                    newest[rollout.model] = rollout
                case RolloutLease() as lease:
                    leases[lease.model] = lease
        # What was written a while ago has been running down since.
        for rollout in newest.values():
            self._follow(rollout, self._lease_s - _age_s(rollout.time))
        for lease in leases.values():
            self._renew(lease, self._lease_s - _age_s(lease.time))
        deadline = time.monotonic() + _FIRST_READ_S
        while self._is_waiting() and time.monotonic() < deadline:
            time.sleep(_POLL_S / 4)
        self._report()

    def _is_waiting(self) -> bool:
        self.routes.refresh()
        return self.routes.stable is None and self.routes.is_loading

    async def run(self) -> None:
        """Follow for ever, once `start` is done."""
        await self._started.wait()
        while True:
            await asyncio.to_thread(self._turn)

    def _turn(self) -> None:
        message = self._consumer.poll(_POLL_S)
        if message is not None and not is_end(message):
            self._take(message)
        self.routes.refresh()
        self._report()

    def _take(self, message: Message) -> None:
        if (failure := message.error()) is not None:
            log.warning("rollouts_unreadable", error=failure.str())
            return
        match self._read(message):
            case Rollout() as rollout:
                self._follow(rollout, self._lease_s)
            case RolloutLease() as lease:
                self._renew(lease, self._lease_s)

    def _read(self, message: Message) -> RolloutMessage | None:
        reader = self._readers.find(message)
        return reader.read(message) if reader else None

    def _renew(self, lease: RolloutLease, lease_s: float) -> None:
        if lease.model == self.routes.model:
            self.routes.renew(lease.rollout_id, lease_s)
        else:
            self.trials.renew(lease.model, lease.rollout_id, lease_s)

    def _follow(self, rollout: Rollout, lease_s: float) -> None:
        try:
            if rollout.model == self.routes.model:
                self.routes.follow(rollout, lease_s)
            else:
                self.trials.follow(rollout, lease_s)
        except ValueError as error:
            log.warning("rollout_ignored", rollout_id=rollout.rollout_id, reason=str(error))
            return
        log.info(
            "rollout",
            rollout_id=rollout.rollout_id,
            state=rollout.phase,
            versions={v.variant: (v.version, v.share) for v in rollout.versions},
        )

    def _report(self) -> None:
        """Say what has changed since the last time, and show it."""
        routes = self.routes
        now = routes.loaded, routes.problems, routes.lease_expired
        if now == self._reported:
            return
        loaded, problems, expired = self._reported = now
        metrics.ROUTED_VERSION.clear()
        for variant in (*problems, *loaded):
            metrics.ROUTED_VERSION.labels(variant).set(loaded.get(variant, 0))
        metrics.LEASE_EXPIRED.set(expired)
        if routes.is_loading:
            return
        if problems:
            log.warning("version_not_routed", problems=problems, answered_by=loaded)
        elif expired:
            log.warning(
                "rollout_not_watched",
                reason=f"no controller has renewed it for {self._lease_s:.0f} s: everyone gets the "
                "stable version: run one: headwater controller",
            )
        else:
            log.info("versions_routed", versions=loaded)


def make_follower(config: WorkerConfig) -> RolloutFollower:
    """Who follows `rollouts` as the settings say, for a process that answers with versions."""
    contract = FeatureSchema(config.features).contract
    read = partial(read_version, contract=contract, allowed=config.worker.model_addresses)
    routes = Routes(config.triton.model, load=BackgroundReads(read))
    return RolloutFollower(config.kafka, routes, config.worker.rollout_lease_s)


async def keep_routed(config: WorkerConfig, routes: Routes) -> None:
    """Keep what takes traffic loaded on every Triton, for ever."""
    allowed = config.worker.model_addresses
    with keep_loaded(model_servers(config.triton), lambda: routes.versions_to_keep, allowed):
        await asyncio.Event().wait()


def _age_s(time_ms: int) -> float:
    """How long ago something was written; never negative, whatever the clocks say."""
    return max(0.0, time.time() - time_ms / 1000)

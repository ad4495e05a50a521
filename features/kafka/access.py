"""Who may do what in Kafka: the rights of each role, as an authorizer is given them.

Rights are by Kafka's own kinds: an operation on a topic, a group or a transactional id. Who reads
or writes a topic sees that it is there (`Describe`) by that.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from confluent_kafka import KafkaError, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but not to its types
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from headwater_client import topics
from headwater_client.errors import SettingsError
from headwater_client.event_types import EVENT_TYPES

from features.kafka import admin
from features.settings import BrokerSettings
from features.topics import list_topics


class Role(StrEnum):
    """What logs in to Kafka, each by a login of its own."""

    APP = "app"
    """The shop's apps: they send events and items, and read recommendations."""
    WORKER = "worker"
    API = "api"
    CONSOLE = "console"
    CONTROLLER = "controller"
    TRAINER = "trainer"
    OPERATOR = "operator"
    """Who gives commands, and lets topics be made."""


class Resource(StrEnum):
    """What a right is about, in Kafka's words."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional-id"
    CLUSTER = "cluster"


@dataclass(frozen=True)
class Right:
    """Operations on something.

    Attributes:
        name: of the resource.
        is_prefix: whether it is all whose names begin so.
        operations: by Kafka's names: `Read`, `DescribeConfigs`.
    """

    resource: Resource
    name: str
    operations: tuple[str, ...]
    is_prefix: bool = False


_KINDS = {
    Resource.TOPIC: ResourceType.TOPIC,
    Resource.GROUP: ResourceType.GROUP,
    Resource.TRANSACTIONAL_ID: ResourceType.TRANSACTIONAL_ID,
    Resource.CLUSTER: ResourceType.BROKER,
}
_SERVICES = {Role.WORKER, Role.API, Role.CONSOLE, Role.CONTROLLER, Role.TRAINER, Role.OPERATOR}
_WATCHERS = {Role.CONSOLE, Role.OPERATOR}
_CLUSTER = "kafka-cluster"
# By these names Kafka fences whoever else writes transactions as the controller of a model, and as
# the console that writes the audit log.
CONTROLLER_NAME = "headwater-controller"
AUDIT_WRITER = "headwater-audit"
# Of apps, and of services; who reads the whole of a topic is alone in a group whose name begins
# with the topic's.
_APP_GROUPS = ("headwater-client-",)
_SERVICE_GROUPS = ("headwater-", f"{topics.ROLLOUTS}-", f"{topics.PLACEMENTS}-", f"{topics.AUDIT}-")


@dataclass(frozen=True)
class TopicAccess:
    """Who writes a topic, and who reads it."""

    writers: frozenset[Role]
    readers: frozenset[Role]


def _access(writers: set[Role], readers: set[Role]) -> TopicAccess:
    return TopicAccess(frozenset(writers), frozenset(readers))


_EVENTS = _access({Role.APP, Role.API}, _SERVICES)
_ACCESS = {
    topics.ITEMS: _access({Role.APP, Role.API}, _SERVICES),
    topics.PEOPLE: _access(
        {Role.APP, Role.API, Role.OPERATOR}, {Role.WORKER, Role.API, *_WATCHERS}
    ),
    topics.IDENTITIES: _access(
        {Role.APP, Role.API, Role.WORKER, Role.OPERATOR},
        {Role.WORKER, Role.API, Role.TRAINER, *_WATCHERS},
    ),
    topics.RECOMMENDATIONS: _access({Role.WORKER}, {Role.APP, Role.CONTROLLER, *_WATCHERS}),
    topics.SERVED: _access({Role.API}, {Role.CONTROLLER, *_WATCHERS}),
    topics.DEAD_LETTERS: _access({Role.WORKER}, {*_WATCHERS}),
    topics.ROLLOUTS: _access({Role.TRAINER, Role.CONTROLLER, Role.OPERATOR}, _SERVICES),
    topics.ROLLOUT_COMMANDS: _access(
        {Role.API, Role.CONSOLE, Role.TRAINER, Role.OPERATOR}, {Role.CONTROLLER, Role.OPERATOR}
    ),
    topics.PLACEMENTS: _access(
        {Role.API, Role.CONSOLE, Role.CONTROLLER, Role.OPERATOR}, _SERVICES - {Role.TRAINER}
    ),
    topics.AUDIT: _access({Role.CONSOLE}, {*_WATCHERS}),
}


def find_access(topic: str) -> TopicAccess:
    """Who may do what with a topic of Headwater."""
    return _EVENTS if topic in EVENT_TYPES.all_topics else _ACCESS[topic]


def list_rights(role: Role, worker_group: str, model: str) -> Iterator[Right]:
    """What a role may do; all else an authorizer refuses.

    Args:
        worker_group: `worker.group`.
        model: `triton.model`.
    """
    for topic in list_topics():
        operations = _list_operations(role, find_access(topic.name))
        if operations:
            yield Right(Resource.TOPIC, topic.name, operations)
    groups = _APP_GROUPS if role is Role.APP else _SERVICE_GROUPS
    yield from (Right(Resource.GROUP, name, ("Read",), is_prefix=True) for name in groups)
    if role in {Role.WORKER, *_WATCHERS}:
        yield Right(Resource.GROUP, worker_group, ("Read", "Describe"))
    if role is Role.CONTROLLER:
        name = f"{CONTROLLER_NAME}-{model}"
        yield Right(Resource.TRANSACTIONAL_ID, name, ("Write", "Describe"))
    if role is Role.CONSOLE:
        yield Right(Resource.TRANSACTIONAL_ID, AUDIT_WRITER, ("Write", "Describe"))
    if role is Role.OPERATOR:
        yield Right(Resource.CLUSTER, _CLUSTER, ("Create",))


def _list_operations(role: Role, access: TopicAccess) -> tuple[str, ...]:
    held = [
        ("Read", role in access.readers),
        ("Write", role in access.writers),
        # Each service looks at its start whether every topic is as it must be.
        ("Describe", role in _SERVICES),
        ("DescribeConfigs", role in _SERVICES),
    ]
    return tuple(operation for operation, is_held in held if is_held)


def write_commands(rights: Sequence[Right], principal: str, brokers: str) -> Iterator[str]:
    """The rights as commands of Kafka's own tool.

    Args:
        principal: who gets them: `User:headwater-worker`.
        brokers: `kafka.bootstrap_servers`.
    """
    for right in rights:
        named = "" if right.resource is Resource.CLUSTER else f" '{right.name}'"
        pattern = " --resource-pattern-type prefixed" if right.is_prefix else ""
        operations = "".join(f" --operation {operation}" for operation in right.operations)
        yield (
            f"kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal '{principal}'"
            f"{operations} --{right.resource}{named}{pattern}"
        )


def grant_rights(settings: BrokerSettings, rights: Sequence[Right], principal: str) -> None:
    """Give rights to whoever logs in as `principal`.

    Raises:
        SettingsError, ServerError: Kafka refuses it, or does not answer.
    """
    client = admin.connect(settings)
    bindings = [
        AclBinding(
            _KINDS[right.resource],
            right.name,
            ResourcePatternType.PREFIXED if right.is_prefix else ResourcePatternType.LITERAL,
            principal,
            "*",
            AclOperation[_to_constant(operation)],
            AclPermissionType.ALLOW,
        )
        for right in rights
        for operation in right.operations
    ]
    for future in client.create_acls(bindings, request_timeout=admin.TIMEOUT_S).values():
        admin.take_answer(future, ())


def check_rights(settings: BrokerSettings, role: Role) -> None:
    """Look whether this login may do with each topic what a role does with it.

    Raises:
        SettingsError: it may not: a line for each topic.
        ServerError: Kafka does not answer.
    """
    client = admin.connect(settings)
    names = [topic.name for topic in list_topics()]
    wanted = {name: _list_operations(role, find_access(name)) for name in names}
    futures = client.describe_topics(
        TopicCollection(names),
        include_authorized_operations=True,
        request_timeout=admin.TIMEOUT_S,
    )
    problems = []
    for name, future in futures.items():
        found = admin.take_answer(future, (KafkaError.TOPIC_AUTHORIZATION_FAILED,))
        # A broker that is too old to tell says none.
        held = None if found is None else found.authorized_operations
        if found is not None and held is None:
            continue
        allowed = {each.name for each in held or ()}
        if missing := [each for each in wanted[name] if _to_constant(each) not in allowed]:
            problems.append(f"topic {name}: this login has no right to {', '.join(missing)}")
    if problems:
        user = settings.sasl_username or "headwater-" + role
        remedy = f"give them: headwater acls {role} --principal User:{user}"
        raise SettingsError("\n".join(f"Kafka: {problem}: {remedy}" for problem in problems))


def _to_constant(operation: str) -> str:
    """`DescribeConfigs` as confluent-kafka has it.

    >>> _to_constant("DescribeConfigs")
    'DESCRIBE_CONFIGS'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()

"""A soak's faults are those of its seed and strike everybody; its checks see what is missing."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Thread

from bench.soak.checks import Answer, Findings, drop_repeats, list_near, list_unanswered
from bench.soak.plan import SERVERS, Fault, FaultKind, plan_faults
from bench.soak.proxy import FaultyProxy
from deploy.local.process import free_port
from tests.harness.oracle import Logged

SERVICES = ("worker-0", "worker-1", "trainer", "controller-0")


def plan(seed: int, faults: int = 100, events: int = 100_000) -> list[Fault]:
    return plan_faults(seed, events, faults, SERVICES, list(FaultKind))


def test_a_seed_names_its_faults_and_another_one_others() -> None:
    found = plan(1)
    assert found == plan(1) != plan(2)
    moments = [fault.at_event for fault in found]
    assert moments == sorted(moments)
    assert len(found) == 100
    assert moments[-1] <= 100_000


def test_every_kind_strikes_and_everybody_is_struck() -> None:
    found = plan(3)
    assert {fault.kind for fault in found} == set(FaultKind)
    struck = {fault.target for fault in found}
    assert struck >= {*SERVERS, *SERVICES, "topics", "workers", "purchases", "windows"}


def test_a_store_loses_its_rows_before_a_topic_is_made_anew() -> None:
    kinds = Counter(fault.kind for fault in plan(4))
    assert kinds[FaultKind.FLUSH] == kinds[FaultKind.RESTORE] == kinds[FaultKind.REMAKE] == 2
    first = {kind: [f.at_event for f in plan(4) if f.kind is kind] for kind in kinds}
    last_loss = max(*first[FaultKind.FLUSH], *first[FaultKind.RESTORE])
    assert last_loss <= min(first[FaultKind.REMAKE])


def test_what_cannot_be_done_here_is_left_out() -> None:
    able = set(FaultKind) - {FaultKind.CLOCK}
    found = plan_faults(1, 10_000, 40, SERVICES, able)
    assert len(found) == 40
    assert FaultKind.CLOCK not in {fault.kind for fault in found}


def event(number: int, user: str = "ann", topic: str = "clicks", ms: int = 0) -> Logged:
    return Logged(topic, 0, number, user, "lamp", f"{topic}{number}", ms or number * 1000)


def answer(event: Logged, ms: int = 0, variant: str = "stable") -> Answer:
    return Answer(event.event_id, event.user_id, ms, variant)


def test_an_event_without_answer_is_answered_by_a_later_one_of_its_batch() -> None:
    log = [event(number) for number in range(200)]
    assert list_unanswered(log, [answer(log[199])]) == log[:71]
    assert not list_unanswered(log, [answer(log[100]), answer(log[199])])
    # Another person's answer is none.
    bob = event(200, "bob")
    assert list_unanswered([*log, bob], [answer(bob)]) == log


def test_an_answer_to_a_purchase_read_with_it_stands_for_a_click() -> None:
    """Whenever that was sent: one topic may lag behind the other."""
    click, purchase = event(1), event(1, topic="purchases", ms=100_000)
    beside = event(2, "bob")
    log = [click, beside, purchase]
    assert not list_unanswered(log, [answer(beside, 7000), answer(purchase, 7100)])
    assert list_unanswered(log, [answer(beside, 7000), answer(purchase, 9000)]) == [click]
    assert list_unanswered(log, [answer(purchase, 7000)]) == [click, beside]


def test_an_event_is_read_between_those_beside_it_however_long_these_took() -> None:
    """As a model's first answers do: the events beside this one are of other micro-batches."""
    purchase = event(1, topic="purchases", ms=100)
    click, later = event(2, ms=200), event(3, "bob", topic="purchases", ms=300)
    log = [purchase, click, later]
    assert not list_unanswered(log, [answer(click, 1000), answer(later, 9000)])
    earlier = event(0, "bob", topic="purchases", ms=50)
    log = [earlier, *log]
    answers = [answer(earlier, 5000), answer(later, 9000)]
    assert not list_unanswered(log, [*answers, answer(click, 7000)])
    assert list_unanswered(log, [*answers, answer(click, 1000)]) == [purchase]


def test_who_took_over_may_have_answered_one_beside_it_much_later() -> None:
    """Whoever comes next cuts micro-batches elsewhere, and answers other events of these people."""
    click, purchase = event(3), event(1, topic="purchases", ms=100)
    people = ["bob", "eve", "", "eve", "bob"]
    beside = [event(at, name) for at, name in enumerate(people, 1) if name]
    log = [*beside, click, purchase]
    answers = [answer(beside[0], 5000), answer(beside[1], 90_000), answer(beside[2], 5000)]
    assert not list_unanswered(log, [*answers, answer(beside[3], 5000), answer(purchase, 5000)])
    assert click in list_unanswered(log, [*answers, answer(beside[3], 5000)])


def test_a_version_on_trial_may_answer_later_than_the_stable_one() -> None:
    """The people of a variant are compared with each other, however far it is behind."""
    log = [event(1, "bob"), event(2, "eve"), event(3), event(4, "bob"), event(5, "eve")]
    purchase = event(6, topic="purchases")
    stable = [answer(log[at], at) for at in (0, 3)]
    trial = [answer(log[at], 60_000 + at, "canary") for at in (1, 4)]
    read_with = answer(purchase, 60_002, "canary")
    assert not list_unanswered([*log, purchase], [*stable, *trial, read_with])
    of_before = answer(purchase, 2, "canary")
    assert list_unanswered([*log, purchase], [*stable, *trial, of_before]) == [log[2]]


def test_the_last_people_of_a_trial_are_answered_with_those_of_other_variants() -> None:
    """A trial ended with this micro-batch: none of its people comes behind it in the partition."""
    log = [event(1, "bob"), event(2, "eve"), event(3), event(4, "eve")]
    purchase = event(6, topic="purchases")
    stable = [answer(log[1], 30_600), answer(log[3], 30_800)]
    trial = [answer(log[0], 26_600, "baseline")]
    read_with = answer(purchase, 30_600, "baseline")
    assert not list_unanswered([*log, purchase], [*stable, *trial, read_with])
    later = answer(purchase, 40_000, "baseline")
    assert list_unanswered([*log, purchase], [*stable, *trial, later]) == [log[2]]


def test_of_events_of_one_id_the_first_counts() -> None:
    first, again = event(1), replace(event(7), event_id="clicks1")
    assert drop_repeats([again, first]) == [first]
    assert Findings.compare(3, 1) + Findings.compare(1, 2) == Findings(lost=2, double=1)


@contextmanager
def echo() -> Iterator[int]:
    """A server that says again what it is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    while told := connection.recv(100):
                        connection.sendall(told)

        thread = Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_proxy_passes_on_holds_and_cuts() -> None:
    port = free_port()
    with echo() as target, FaultyProxy(port, target).run() as proxy:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(5)
            client.sendall(b"one")
            assert client.recv(10) == b"one"
            client.settimeout(0.3)
            with proxy.hold(inwards=False):
                client.sendall(b"two")
                try:
                    held = client.recv(10)
                except TimeoutError:
                    held = None
                assert held is None
            client.settimeout(5)
            assert client.recv(10) == b"two"
            with proxy.delay(0.01, inwards=True):
                client.sendall(b"three")
                assert client.recv(10) == b"three"
            proxy.cut()
            with suppress(ConnectionResetError):
                assert client.recv(10) == b""
        with socket.create_connection(("127.0.0.1", port)) as again:
            again.settimeout(5)
            again.sendall(b"four")
            assert again.recv(10) == b"four"


def test_what_was_answered_near_an_event_is_listed_to_find_a_fault_by() -> None:
    click, beside = event(1), event(2, "bob")
    purchase, far = event(3, topic="purchases"), event(400, "bob", ms=2000)
    answers = [answer(purchase, 1500), answer(beside, 1200), answer(far, 1300), answer(far, 90_000)]
    assert list_near(click, [click, beside, purchase, far], answers) == [
        (200, "stable", "bob", "clicks/0 2"),
        (500, "stable", "ann", "purchases/0 3"),
    ]

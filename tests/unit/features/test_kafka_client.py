"""The client by which a process asks Kafka about itself."""

import gc
import weakref

import pytest
from headwater_client import ServerError

from features.kafka import admin
from features.settings import BrokerSettings

NOBODY = BrokerSettings(bootstrap_servers="127.0.0.1:1")


def ask(timeout_s: float, monkeypatch: pytest.MonkeyPatch) -> "weakref.ref[object]":
    """What is left of the client of a question that nobody answers in time."""
    monkeypatch.setattr(admin, "TIMEOUT_S", timeout_s)
    with admin.asking(NOBODY) as client:
        asked = weakref.ref(client)
        with pytest.raises(ServerError):
            admin.describe_topics(client, ["clicks"])
    del client
    gc.collect()
    return asked


def test_the_client_of_a_question_that_ran_out_of_time_stays_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # An answer that comes while it is being closed ends the process.
    first = ask(0.2, monkeypatch)
    assert first() is not None
    monkeypatch.setattr(admin, "_LATE_S", 0.0)
    ask(0.2, monkeypatch)
    assert first() is None


def test_a_client_that_was_answered_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with admin.asking(NOBODY) as client:
        asked = weakref.ref(client)
    del client
    gc.collect()
    assert asked() is None

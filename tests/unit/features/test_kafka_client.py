"""The client by which a process asks Kafka about itself."""

import gc
import os
import weakref

import pytest
from headwater_client import ServerError

from features.kafka import admin, describe_log
from features.settings import BrokerSettings

NOBODY = BrokerSettings(bootstrap_servers="127.0.0.1:1")


def test_the_client_of_a_question_that_was_not_answered_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A late answer to a client that is being closed ends the process.
    monkeypatch.setattr(admin, "TIMEOUT_S", 0.2)
    asked = weakref.ref(admin.shared_client(NOBODY))
    with pytest.raises(ServerError):
        describe_log(NOBODY)
    gc.collect()
    assert asked() is admin.shared_client(NOBODY.model_copy())


def test_a_child_of_a_fork_has_a_client_of_its_own() -> None:
    parents = admin.shared_client(NOBODY)
    child = os.fork()
    if child == 0:
        os._exit(admin.shared_client(NOBODY) is parents)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

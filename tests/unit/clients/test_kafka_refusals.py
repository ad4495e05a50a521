"""What Kafka refuses for good is named with its remedy, and is no reason to ask again."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException
from headwater_client.errors import ServerError, SettingsError
from headwater_client.kafka import unreachable


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (KafkaError._AUTHENTICATION, "check kafka.sasl_username"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "check kafka.sasl_username"),
        (KafkaError.UNSUPPORTED_SASL_MECHANISM, "check kafka.sasl_mechanism"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "give this login the right"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "give this login the right"),
        (KafkaError._SSL, "check kafka.security_protocol"),
    ],
)
def test_a_refusal_ends_with_its_remedy(code: int, remedy: str) -> None:
    error = unreachable(KafkaException(KafkaError(code)))
    assert isinstance(error, SettingsError)
    assert remedy in str(error)


@pytest.mark.parametrize("code", [KafkaError._TRANSPORT, KafkaError._TIMED_OUT])
def test_silence_is_waited_for(code: int) -> None:
    error = unreachable(KafkaException(KafkaError(code)))
    assert isinstance(error, ServerError)
    assert "check kafka.bootstrap_servers" in str(error)

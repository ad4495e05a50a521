"""Tokens for Kafka by OAuth 2.0, as aiokafka asks for them; librdkafka gets its own."""

import asyncio
from abc import abstractmethod

import structlog
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from headwater_client.errors import HeadwaterError, ServerError, SettingsError
from headwater_client.kafka import read_token_file
from requests import RequestException

from features.settings import BrokerSettings

# A token of which less than this is left is asked for anew.
_LEEWAY_S = 60
_ANSWER_S = 10.0
log = structlog.get_logger()


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """Tokens that may be missing for a moment: aiokafka then tries again, as for a broker."""

    async def token(self) -> str:
        """The token of now.

        Raises:
            KafkaConnectionError: there is none.
        """
        try:
            return await self.find()
        except HeadwaterError as error:
            log.warning("kafka_token_missing", reason=str(error))
            # Any other error would end tasks of aiokafka that nobody waits for.
            raise KafkaConnectionError(str(error)) from error

    @abstractmethod
    async def find(self) -> str:
        """The token of now.

        Raises:
            HeadwaterError: there is none.
        """


class TokenFile(_Tokens):
    """Tokens that somebody else keeps fresh in a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def find(self) -> str:
        """The token of now.

        Raises:
            SettingsError: the file cannot be read, or is empty.
        """
        return await asyncio.to_thread(read_token_file, self._path)


class TokenEndpoint(_Tokens):
    """Tokens of a token endpoint (RFC 6749, section 4.4), kept until they are about to expire."""

    def __init__(self, url: str, client_id: str, secret: str, scope: str | None) -> None:
        self._url = url
        self._session = OAuth2Session(
            client_id, secret, scope=scope, leeway=_LEEWAY_S, default_timeout=_ANSWER_S
        )
        self._asking = asyncio.Lock()

    async def find(self) -> str:
        """A token that is good for a minute at least.

        Raises:
            SettingsError: the endpoint refuses this client.
            ServerError: it does not answer.
        """
        async with self._asking:
            # Of one that does not say until when it is good nobody knows it.
            if not self._session.token or self._session.token.is_expired(_LEEWAY_S) is not False:
                await asyncio.to_thread(self._fetch)
            token = self._session.token.get("access_token")
        if not isinstance(token, str):
            raise SettingsError(f"kafka.sasl_token_url: {self._url}: gives no access_token")
        return token

    def _fetch(self) -> None:
        try:
            self._session.fetch_token(self._url, grant_type="client_credentials")
        except AuthlibBaseError as error:
            raise SettingsError(
                f"kafka.sasl_token_url: {self._url}: {error}: check kafka.sasl_username, "
                "kafka.sasl_password and kafka.sasl_token_scope"
            ) from error
        except RequestException as error:
            raise ServerError(f"kafka.sasl_token_url: {self._url}: {error}") from error


def make_token_provider(settings: BrokerSettings) -> AbstractTokenProvider:
    """What gives tokens by these settings, which have been checked."""
    if settings.sasl_token_file:
        return TokenFile(settings.sasl_token_file)
    password = settings.sasl_password
    return TokenEndpoint(
        settings.sasl_token_url or "",
        settings.sasl_username or "",
        password.get_secret_value() if password else "",
        settings.sasl_token_scope,
    )

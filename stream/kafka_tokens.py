"""Tokens for Kafka by OAuth 2.0, as aiokafka asks for them; librdkafka gets its own."""

import asyncio

from aiokafka.abc import AbstractTokenProvider
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from headwater_client.errors import ServerError, SettingsError
from headwater_client.kafka import read_token_file
from requests import RequestException

from features.settings import BrokerSettings

# A token of which less than this is left is asked for anew.
_LEEWAY_S = 60
_ANSWER_S = 10.0


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Tokens that somebody else keeps fresh in a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def token(self) -> str:
        """The token of now.

        Raises:
            SettingsError: the file cannot be read, or is empty.
        """
        return await asyncio.to_thread(read_token_file, self._path)


class TokenEndpoint(AbstractTokenProvider):  # type: ignore[misc]
    """Tokens of a token endpoint (RFC 6749, section 4.4), kept until they are about to expire."""

    def __init__(self, url: str, client_id: str, secret: str, scope: str | None) -> None:
        self._url = url
        self._session = OAuth2Session(
            client_id, secret, scope=scope, leeway=_LEEWAY_S, default_timeout=_ANSWER_S
        )
        self._asking = asyncio.Lock()

    async def token(self) -> str:
        """A token that is good for a minute at least.

        Raises:
            SettingsError: the endpoint refuses this client.
            ServerError: it does not answer.
        """
        async with self._asking:
            if not self._session.token or self._session.token.is_expired(_LEEWAY_S):
                await asyncio.to_thread(self._fetch)
            token: str = self._session.token["access_token"]
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

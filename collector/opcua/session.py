"""One connection to a server: a client object of asyncua for one attempt, with a session of our own inside.

asyncua's client gives the services; its reconnecting, its subscriptions and its publish loop are not used. They forget
tags that fail once, keep one Publish outstanding, go on for ever after an error, and drop in silence what cannot be
parsed. A new connection takes up the session that a lost one left at the server, where the server still has it.

Here are connecting, resuming and closing. Not here: when to try again (`opcua.share`), what is asked of a session
(`opcua.subscribing`, `opcua.publishing`), certificates and secrets (`opcua.security`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncua import Client, ua
from asyncua.client.ua_session import SessionState, UaSession
from asyncua.common.shortcuts import Shortcuts
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.ua.uaerrors import BadMessageNotAvailable

from collector.opcua.decode import Published, published, republished
from collector.opcua.failures import is_of_our_certificate, reason_of
from collector.opcua.security import ServerRefusedError, Settings, secure
from collector.times import micros

REQUEST_S = 8.0             # one answer
CLOSE_S = 2.0               # saying goodbye to a server that may be gone


class ForeignSessionError(ConnectionError):
    """The session that was taken up is not ours: its server has begun anew, and counts from one again."""


class ServerSession(UaSession):
    """A session whose publishing is asked for by `opcua.publishing`, not by a loop of asyncua, and read by `decode`."""

    def ensure_publish_loop(self) -> None:
        """Start no loop."""

    async def published(self, acknowledge: list[ua.SubscriptionAcknowledgement]) -> Published:
        """Ask for what is published, acknowledge what came before, and return the answer, however long it takes."""
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = acknowledge
        return published(bytes(await self._send_request(request, timeout=0)))

    async def published_again(self, subscription: int, sequence: int) -> Published | None:
        """Ask for a notification once more; None if the server does not have it any more.

        Raises
        ------
        UaStructParsingError
            If it cannot be read.
        """
        request = ua.RepublishRequest()
        request.Parameters.SubscriptionId = ua.IntegerId(subscription)
        request.Parameters.RetransmitSequenceNumber = ua.Counter(sequence)
        try:
            answer = republished(bytes(await self._send_request(request)), subscription)
        except BadMessageNotAvailable:
            return None
        ua.StatusCode(ua.UInt32(answer.result)).check()
        return answer if answer.sequence == sequence else None      # asyncua answers with an empty message

    async def set_publishing(self, subscription: int, *, enabled: bool) -> None:
        """Let a subscription tell what it has, or only that it is there."""
        [result] = await self.set_publishing_mode(ua.SetPublishingModeParameters(
            PublishingEnabled=enabled, SubscriptionIds=[ua.IntegerId(subscription)]))
        result.check()

    def leave(self) -> None:
        """Count as closed without a word to the server, which keeps the session until its time is up."""
        self._set_state(SessionState.CLOSED)


@dataclass(frozen=True)
class Former:
    """A session that a lost connection left at the server: what it takes to activate it again (part 4, 6.7)."""

    token: ua.NodeId
    nonce: bytes | None
    user_tokens: list[ua.UserTokenPolicy]


class _Client(Client):
    """A client that takes up a former session where it can, and shows no password to who listens."""

    former: Former | None = None
    resumed = False

    async def connect_socket(self) -> None:
        """Connect, and pass on why a server refuses a secure channel: asyncua loses that, and fails an assertion."""
        await super().connect_socket()
        protocol = self.uaclient.protocol
        assert protocol is not None
        take = protocol._process_received_message

        def check_and_take(msg: Any) -> None:
            security: Any = getattr(msg, "SecurityHeader", None)        # of ua.Message
            if security is not None and isinstance(security(), ua.AsymmetricAlgorithmHeader):
                protocol.check_answer(msg.body(), " to what asked for a secure channel")
            take(msg)

        protocol._process_received_message = check_and_take         # type: ignore[method-assign]

    def _try_load_persisted_session(self) -> bool:
        """Offer the former session; asyncua goes on to a new one if the server does not know it any more."""
        if self.former is None:
            return False
        self.uaclient.session.restore_authentication_token(self.former.token)
        self._server_nonce = self.former.nonce      # type: ignore[assignment]  # asyncua declares it None
        self._policy_ids = self.former.user_tokens
        return True

    async def _try_resume_persisted_session(self) -> bool:
        self.resumed = await super()._try_resume_persisted_session()
        return self.resumed

    def _add_user_auth(self, params: ua.ActivateSessionParameters, username: str | None, password: str | None) -> None:
        policy = self.server_policy(ua.UserTokenType.UserName)
        encrypted = policy.SecurityPolicyUri not in (None, "", SecurityPolicyNone.URI)
        if not encrypted and self.security_policy.Mode != ua.MessageSecurityMode.SignAndEncrypt:
            raise ServerRefusedError(
                "it wants the password unencrypted, which is not done (hint: security_mode: SignAndEncrypt)")
        super()._add_user_auth(params, username, password)


class Connection:
    """A server that is connected, with an active session.

    Parameters
    ----------
    client
        A client whose `connect` has succeeded.
    """

    def __init__(self, client: _Client) -> None:
        self._client = client

    @property
    def session(self) -> ServerSession:
        """Its session."""
        session = self._client.uaclient.session
        assert isinstance(session, ServerSession)
        return session

    @property
    def resumed(self) -> bool:
        """Whether the session is the former one, with its subscriptions."""
        return self._client.resumed

    @property
    def former(self) -> Former:
        """What it takes to activate its session again."""
        return Former(self.session.authentication_token, self._client._server_nonce, self._client._policy_ids)

    async def namespaces(self) -> list[str]:
        """Return the server's namespace URIs."""
        return list(await self._client.get_namespace_array())

    async def started_at(self) -> datetime | None:
        """Return since when the server runs, which tells a restart; None if it does not say."""
        node = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_StartTime))
        [answer] = await self.session.read_attributes([node], ua.AttributeIds.Value)
        started = answer.Value.Value if answer.Value is not None else None
        return started if isinstance(started, datetime) and micros(started) > 0 else None

    async def close(self) -> None:
        """Close session, channel and socket, so that the server keeps no session of ours; a dead one after a while.

        asyncua logs and swallows what fails here; only the limit is ours.
        """
        await _close(self._client)

    async def leave(self) -> Former:
        """Let a broken connection go; the session stays at the server, and is returned to be taken up again."""
        former = self.former
        self.session.leave()
        await _close(self._client)
        return former


async def connect(url: str, settings: Settings, former: Former | None = None) -> Connection:
    """Connect, and take up the former session or begin a new one.

    Parameters
    ----------
    url
        Where the server is reached.
    settings
        Who we are to it, and whom we trust.
    former
        A session that may still be there.

    Raises
    ------
    ServerRefusedError
        If the server is not trusted or does not trust us, or offers not what the settings ask for.
    OSError, TimeoutError, UaError
        If it is away or fails. The caller limits the whole: asyncua limits single steps only (its #1660).
    """
    client = _new_client(url, settings)
    try:
        await secure(client, settings)
        client.former = former
        await client.connect()
    except BaseException as error:
        await _close(client)
        if settings.own is not None and is_of_our_certificate(error):
            raise ServerRefusedError(
                f"the server refuses our certificate, {reason_of(error)} (hint: let it trust "
                f"{settings.server.cert_file}, which may lie among those that it has rejected)") from error
        raise
    return Connection(client)


def _new_client(url: str, settings: Settings) -> _Client:
    """Return a client for one attempt; asyncua's own watching only backs up ours, and is slow enough not to disturb."""
    client = _Client(url, timeout=REQUEST_S, watchdog_intervall=REQUEST_S)
    client.name = client.description = "symbiosis collector"
    client.application_uri = settings.application_uri
    client.session_timeout = round(settings.session_timeout_s * 1000)
    client.uaclient.session = ServerSession(client.uaclient)
    client.nodes = Shortcuts(client.uaclient.session)
    return client


async def _close(client: Client) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await client.disconnect()
    client.disconnect_socket()


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and await their end, so that none is left with an exception nobody looked at."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def ignore(_result: ua.PublishResult) -> None:
    """Take nothing from asyncua's dispatch."""


def quiet_library() -> None:
    """Keep asyncua's log to itself: it writes a traceback for each attempt; changes of state are said here."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)

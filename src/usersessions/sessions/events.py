"""What the log says of a session: that it began, that it ended, that it could not be made.

No line has its `meta` or its token; the fields of a line are also there for structured logs.
"""

from __future__ import annotations

import logging

from ..errors import ConnectRefused, DisconnectCode, StoreUnavailable
from ..live import AsyncSession, Session
from ..models import Disconnect
from ..operations import Admitted

__all__ = ["not_registered", "session_began", "session_ended"]

logger = logging.getLogger("usersessions.sessions")


def session_began(admitted: Admitted) -> None:
    """Say that the session of an admitted connection is there."""
    client, user = admitted.request.client, admitted.identity.user
    transport = admitted.request.transport
    logger.info(
        "client %s connected: user %r over %s",
        client,
        user,
        transport,
        extra={"client": client, "user": user, "transport": transport},
    )


def session_ended(session: AsyncSession | Session, disconnect: Disconnect, *, now: float) -> float:
    """Say that a session is gone, and give how many seconds it lived."""
    lived = max(0.0, now - session.connected_at)
    logger.info(
        "client %s ended: user %r, code %d, after %.1f s",
        session.client,
        session.user,
        disconnect.code,
        lived,
        extra={
            "client": session.client,
            "user": session.user,
            "code": disconnect.code,
            "lived": lived,
        },
    )
    return lived


def not_registered(client: str, error: StoreUnavailable) -> ConnectRefused:
    """Say that a session could not be made now, and give what its client is told: to come back."""
    logger.warning("client %s refused: %s", client, error)
    return ConnectRefused(DisconnectCode.INTERNAL_SERVER_ERROR)

"""Carrying out the commands of the server API: each gives its result as JSON.

A result that may lack something says so: it has a last member `"partial": true`.
"""

from __future__ import annotations

from dataclasses import asdict

from .commands import (
    BlockUserCommand,
    Command,
    DisconnectCommand,
    Info,
    InvalidateUserTokens,
    Refresh,
    RevokeTokenCommand,
    UnblockUserCommand,
    UserConnections,
)
from .flows import Flow
from .operations import Operations
from .registry import connections_json
from .stores.base import Closed, ListUser
from .strictjson import dumps

__all__ = ["closed_json", "execute"]


def execute(operations: Operations, command: Command, *, timeout: float) -> Flow[bytes]:
    """Carry out a command; one that ends connections waits for them at most `timeout` seconds.

    Raises:
        InvalidValue: if a parameter is outside of its bounds.
        StoreUnavailable: if the store does not answer in time.
    """
    if isinstance(command, UserConnections):
        # From prepared pieces to the reply; nothing is parsed on the way.
        entries = yield from ListUser(command.user)
        end = b',"partial":true}' if entries.partial else b"}"
        return b'{"connections":' + connections_json(entries.records) + end
    if isinstance(command, Info):
        nodes = yield from operations.info()
        return dumps({"nodes": [asdict(node) for node in nodes]})
    if isinstance(command, Refresh):
        yield from operations.refresh(
            command.user,
            client=command.client,
            session=command.session,
            expire_at=command.expire_at,
            expired=command.expired,
            timeout=timeout,
        )
        return b"{}"
    if isinstance(command, UnblockUserCommand):
        yield from operations.unblock_user(command.user)
        return b"{}"
    return closed_json((yield from _end(operations, command, timeout)))


def _end(
    operations: Operations,
    command: DisconnectCommand | BlockUserCommand | RevokeTokenCommand | InvalidateUserTokens,
    timeout: float,
) -> Flow[Closed]:
    if isinstance(command, DisconnectCommand):
        return (
            yield from operations.disconnect(
                command.user,
                client=command.client,
                session=command.session,
                whitelist=command.whitelist,
                label_filter=command.label_filter,
                code=command.disconnect.code,
                reason=command.disconnect.reason,
                revoke=command.revoke,
                timeout=timeout,
            )
        )
    if isinstance(command, BlockUserCommand):
        return (
            yield from operations.block_user(
                command.user, expire_at=command.expire_at, timeout=timeout
            )
        )
    if isinstance(command, RevokeTokenCommand):
        return (
            yield from operations.revoke_token(
                command.uid, expire_at=command.expire_at, timeout=timeout
            )
        )
    return (
        yield from operations.invalidate_user_tokens(
            command.user,
            issued_before=command.issued_before,
            expire_at=command.expire_at,
            timeout=timeout,
        )
    )


def closed_json(closed: Closed) -> bytes:
    """What became of the sessions that were told to end, as JSON.

    >>> closed_json(Closed(closed=("c1",)))
    b'{"closed":["c1"],"unconfirmed":[],"not_revocable":[]}'
    """
    return dumps(
        {
            "closed": list(closed.closed),
            "unconfirmed": list(closed.unconfirmed),
            "not_revocable": list(closed.not_revocable),
            **({"partial": True} if closed.partial else {}),
        }
    )

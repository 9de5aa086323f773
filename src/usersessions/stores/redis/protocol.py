"""Each request of a store as a flow of calls to Redis; no I/O.

A flow has one deadline for all of its calls, and raises `StoreUnavailable` once it has passed or
Redis refuses. Registering alone goes on without Redis.
"""

from __future__ import annotations

import time
from typing import Any

from ...errors import JSONError
from ...flows import Flow, Reply
from ...node import NodeInfo
from ...strictjson import loads
from ..base import (
    Allowed,
    BlockUser,
    CheckIdentity,
    DisconnectUser,
    Entries,
    InvalidateTokens,
    ListNodes,
    ListUser,
    Nodes,
    Rebind,
    RefreshUser,
    Register,
    RevokeToken,
    StoreRequest,
    UnblockUser,
)
from .ending import Ending
from .member import refusal
from .registering import Registering
from .replies import nodes, text

__all__ = ["Protocol"]


class Protocol(Registering, Ending):
    """Answers the requests of a store."""

    def answer(self, request: StoreRequest) -> Flow[Reply]:
        """Answer a request.

        Raises:
            StoreUnavailable: if Redis does not do it in time.
            InvalidValue: if a session is registered already.
        """
        until = time.monotonic() + self._timeout
        if isinstance(request, ListUser):
            return self._list(request, until)
        if isinstance(request, Register):
            return self.register(request)
        if isinstance(request, CheckIdentity):
            return self._check(request, until)
        if isinstance(request, Rebind):
            return self.rebind(request, until)
        if isinstance(request, (DisconnectUser, BlockUser, InvalidateTokens)):
            return self.end_user(request, until)
        if isinstance(request, RevokeToken):
            return self.revoke(request, until)
        if isinstance(request, RefreshUser):
            return self.refresh(request, until)
        if isinstance(request, UnblockUser):
            return self._unblock(request, until)
        if isinstance(request, ListNodes):
            return self._nodes(until)
        raise TypeError(f"not a request of this store: {type(request).__name__}")

    def _check(self, request: CheckIdentity, until: float) -> Flow[Reply]:
        calls = self._calls.check(request.user, request.token_id, request.issued_at)
        first, *others = (yield from self._ask(calls, until)).values
        if any(others):
            return refusal("revoked")
        verdict = text(first)
        return Allowed() if verdict == "ok" else refusal(verdict)

    def _list(self, request: ListUser, until: float) -> Flow[Entries]:
        user = request.user
        held, is_complete = yield from self._sessions(user, until)
        registry = self._node.registry
        with self._node.lock:
            own = registry.records(user)
            mine = set(self._leases.mine)
        records: dict[str, bytes] = {}
        seen: dict[str, float] = {}
        for one in held:
            # Of its own sessions, this process knows best.
            record = own.pop(one.client, None) if one.lease in mine else one.record
            if record is not None:
                records[one.client] = record
                if one.seen is not None:
                    seen[one.client] = one.seen
        records.update(own)
        seen.update(registry.seen(records))
        return Entries(records, seen, partial=not is_complete)

    def _nodes(self, until: float) -> Flow[Nodes]:
        values = (yield from self._ask([self._calls.nodes()], until)).values
        found = {}
        for lease, _, about in nodes(values[0]):
            info = _info(about)
            if info is not None:
                found[lease] = info
        with self._node.lock:
            for lease in self._leases.mine:
                if found.pop(lease, None) is not None:
                    found[self._leases.own] = self._node.info()
        return Nodes(tuple(sorted(found.values(), key=lambda info: (info.name, info.uid))))

    def _unblock(self, request: UnblockUser, until: float) -> Flow[Reply]:
        yield from self._ask([self._calls.unblock(request.user)], until)
        return Allowed()


def _info(about: bytes) -> NodeInfo | None:
    try:
        members: Any = loads(about)
        return NodeInfo(
            str(members["uid"]),
            str(members["name"]),
            str(members["version"]),
            int(members["num_clients"]),
            int(members["num_users"]),
            int(members["uptime"]),
        )
    except (JSONError, TypeError, ValueError, KeyError):
        return None

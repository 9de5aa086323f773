"""What stands in the log and in mailboxes: requests to every process, and their answers.

1. An entry is one JSON object: what is asked, by whom, and who has to answer.
2. What cannot be read is passed over: a newer version may have written it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from ...errors import JSONError
from ...models import Disconnect, check_time
from ...strictjson import JSON, dumps, loads
from ..base import (
    BlockUser,
    DisconnectUser,
    InvalidateTokens,
    RefreshUser,
    RevokeToken,
)

__all__ = ["Entry", "EntryId", "EvictClients", "Mail", "Order", "entry_id"]

T = TypeVar("T")

EntryId: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class EvictClients:
    """End sessions of a user that have to make room for others."""

    user: str
    clients: tuple[str, ...]


Order: TypeAlias = (
    "BlockUser | DisconnectUser | EvictClients | InvalidateTokens | RefreshUser | RevokeToken"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the log.

    Attributes:
        order: what has to be done; its `timeout` is not sent.
        command: the ID that answers carry.
        mail: the mailbox for answers; "" asks for none.
        leases: who has to answer in any case; None is everybody.
        revoked: tokens that go with sessions that are held elsewhere.
        spared: tokens that stay with such.
    """

    order: Order
    command: str = ""
    mail: str = ""
    leases: tuple[str, ...] | None = ()
    revoked: tuple[str, ...] = field(default=(), repr=False)
    spared: tuple[str, ...] = field(default=(), repr=False)

    def to_json(self) -> bytes:
        """As it stands in the log.

        >>> Entry(EvictClients("42", ("c1",))).to_json()
        b'{"evict":["42",["c1"]]}'
        """
        members: dict[str, JSON] = {}
        order = self.order
        if isinstance(order, DisconnectUser):
            members["disconnect"] = {
                "user": order.user,
                "code": order.disconnect.code,
                "reason": order.disconnect.reason,
                "client": order.client,
                "whitelist": [*sorted(order.whitelist)],
                "labels": dict(order.labels),
                "revoke": order.revoke,
                "spared_token": order.spared_token,
            }
        elif isinstance(order, BlockUser):
            members["block"] = [order.user]
        elif isinstance(order, InvalidateTokens):
            members["invalidate"] = [order.user, order.issued_before]
        elif isinstance(order, RevokeToken):
            members["revoke"] = [order.token_id]
        elif isinstance(order, RefreshUser):
            members["refresh"] = [order.user, order.client, order.expire_at]
        else:
            members["evict"] = [order.user, list(order.clients)]
        if self.command:
            members["command"] = self.command
            members["mail"] = self.mail
            members["leases"] = None if self.leases is None else list(self.leases)
        if self.revoked:
            members["revoked"] = list(self.revoked)
        if self.spared:
            members["spared"] = list(self.spared)
        return dumps(members)

    @classmethod
    def read(cls, data: bytes) -> Entry | None:
        """Read an entry; None if it cannot be read.

        >>> Entry.read(b'{"evict":["42",["c1"]]}').order, Entry.read(b"?")
        (EvictClients(user='42', clients=('c1',)), None)
        """
        try:
            members: Any = loads(data)
            leases = members.get("leases", [])
            return cls(
                _order(members),
                _text(members.get("command", "")),
                _text(members.get("mail", "")),
                None if leases is None else _texts(leases),
                _texts(members.get("revoked", [])),
                _texts(members.get("spared", [])),
            )
        except (JSONError, ValueError, TypeError, KeyError, AttributeError):
            return None


def _order(members: Mapping[str, Any]) -> Order:
    if "disconnect" in members:
        one = members["disconnect"]
        labels = one["labels"]
        return DisconnectUser(
            _text(one["user"]),
            Disconnect(one["code"], one["reason"]),
            client=_or_none(_text, one["client"]),
            whitelist=frozenset(_texts(one["whitelist"])),
            labels=dict(zip(labels, _texts([*labels.values()]), strict=True)),
            revoke=one["revoke"] is True,
            spared_token=_or_none(_text, one["spared_token"]),
            timeout=0,
        )
    if "block" in members:
        (user,) = _texts(members["block"])
        return BlockUser(user, None, timeout=0)
    if "invalidate" in members:
        user, before = members["invalidate"]
        return InvalidateTokens(_text(user), _moment(before), None, timeout=0)
    if "revoke" in members:
        (token_id,) = _texts(members["revoke"])
        return RevokeToken(token_id, None, timeout=0)
    if "refresh" in members:
        user, client, expire_at = members["refresh"]
        return RefreshUser(_text(user), _or_none(_text, client), _or_none(_moment, expire_at))
    user, clients = members["evict"]
    return EvictClients(_text(user), _texts(clients))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError("not a list")
    return tuple(map(_text, values))


def _moment(value: object) -> float:
    return check_time("a moment", value)


def _or_none(read: Callable[[object], T], value: object) -> T | None:
    return None if value is None else read(value)


@dataclass(frozen=True, slots=True)
class Mail:
    """What a process answers: which sessions it told, once, and then which of them are gone."""

    command: str
    leases: tuple[str, ...]
    told: tuple[str, ...] | None = None
    gone: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """As it stands in the mailbox.

        >>> Mail("7f", ("0a",), gone=("c1",)).to_json()
        b'{"command":"7f","leases":["0a"],"gone":["c1"]}'
        """
        members: dict[str, JSON] = {"command": self.command, "leases": list(self.leases)}
        if self.told is not None:
            members["told"] = list(self.told)
        if self.gone:
            members["gone"] = list(self.gone)
        return dumps(members)

    @classmethod
    def read(cls, data: bytes) -> Mail | None:
        """Read an answer; None if it cannot be read."""
        try:
            members: Any = loads(data)
            return cls(
                _text(members["command"]),
                _texts(members["leases"]),
                _or_none(_texts, members.get("told")),
                _texts(members.get("gone", [])),
            )
        except (JSONError, TypeError, KeyError, AttributeError):
            return None


def entry_id(text: bytes | str) -> EntryId:
    """The ID of an entry, so that a later one is greater.

    >>> entry_id(b"1700000000000-10") > entry_id("1700000000000-9")
    True
    """
    first, _, second = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(first), int(second or 0)

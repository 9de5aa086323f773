"""Which of a user's sessions have to end: decided by their facts alone, wherever they are held."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..models import FORCED, Disconnect
from ..node import INVALID
from ..records import Facts
from .base import BlockUser, DisconnectUser, InvalidateTokens

__all__ = ["Choice", "choose"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Sessions that have to end.

    Attributes:
        clients: which ones, in the order that they were given in.
        disconnect: what they are told.
        revoked: the tokens that are kept out with them, and until when each; None is not said.
        spared: the tokens that are kept in, whatever else is chosen.
        not_revocable: those whose login would be revoked, if it had a token ID.
    """

    clients: tuple[str, ...]
    disconnect: Disconnect
    revoked: Mapping[str, float | None] = field(default_factory=dict, repr=False)
    spared: frozenset[str] = field(default=frozenset(), repr=False)
    not_revocable: tuple[str, ...] = ()


def choose(
    request: DisconnectUser | BlockUser | InvalidateTokens,
    facts: Mapping[str, Facts],
    *,
    issued_before: float = 0.0,
    revoked: Collection[str] = (),
    spared: Collection[str] = (),
) -> Choice:
    """Choose among sessions of the user.

    Args:
        request: what has to be done.
        facts: the user's sessions that are to be looked at, by client ID.
        issued_before: the moment that `InvalidateTokens` means.
        revoked: tokens that `DisconnectUser` revokes because of sessions that are held elsewhere.
        spared: tokens that it spares because of such.

    >>> facts = {"c1": Facts(0, labels={"app": "web"}), "c2": Facts(0)}
    >>> choose(DisconnectUser("42", FORCED, labels={"app": "web"}, timeout=0), facts).clients
    ('c1',)
    """
    if isinstance(request, BlockUser):
        return Choice(tuple(facts), FORCED)
    if isinstance(request, InvalidateTokens):
        return Choice(
            tuple(
                client
                for client, one in facts.items()
                if one.issued_at is not None and one.issued_at < issued_before
            ),
            INVALID,
        )
    chosen = {
        client: one.token_id
        for client, one in facts.items()
        if request.client in (None, client)
        and client not in request.whitelist
        and request.labels.items() <= one.labels.items()
        and (one.token_id is None or one.token_id != request.spared_token)
    }
    if not request.revoke:
        return Choice(tuple(chosen), request.disconnect)
    kept = {
        *spared,
        *(one.token_id for client, one in facts.items() if client in request.whitelist),
    }
    kept.discard(None)
    gone = ({*chosen.values(), *revoked} - kept) - {None}
    # By all sessions of a token, not by the chosen alone: the last of its ends is its end.
    ends: dict[str, float | None] = {}
    for one in facts.values():
        if one.token_id is not None and one.token_id in gone:
            ends[one.token_id] = _later(ends.get(one.token_id, 0.0), one.token_expires)
    not_revocable = tuple(client for client, token_id in chosen.items() if token_id is None)
    return Choice(
        tuple(
            client
            for client, one in facts.items()
            if one.token_id in gone or client in not_revocable
        ),
        request.disconnect,
        ends,
        frozenset(one for one in kept if one is not None),
        not_revocable,
    )


def _later(one: float | None, other: float | None) -> float | None:
    # None is longer than any moment that an `exp` says.
    return None if one is None or other is None else max(one, other)

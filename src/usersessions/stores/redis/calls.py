"""The calls that are made to Redis, with their keys and arguments in the order of the scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from ...models import SessionLimit
from ...records import Facts, app_name_of
from ...refusals import KEPT_SECONDS
from ...strictjson import dumps
from .entries import Entry, EntryId, Mail
from .keys import ENDED_SECONDS, LOG_SECONDS, MAIL_SECONDS, SESSIONS_SECONDS, Keys
from .leases import Leases
from .line import Call
from .values import sealed

__all__ = ["Calls"]

_MAILS = 10_000


class Calls:
    """Makes calls; not safe to share between threads by itself.

    Args:
        keys: the names in Redis.
        leases: who this process is, and who else is alive.
        clock: tells this moment in seconds since the epoch.
        in_one_place: whether one server holds all keys, so that a script may use any of them.
    """

    def __init__(
        self, keys: Keys, leases: Leases, clock: Callable[[], float], *, in_one_place: bool
    ) -> None:
        self.keys = keys
        self.in_one_place = in_one_place
        self._leases = leases
        self._clock = clock

    # Sessions ---------------------------------------------------------------------------------

    def register(
        self,
        user: str,
        client: str,
        record: bytes,
        facts: Facts,
        *,
        is_new: bool,
        is_told: bool,
        limit: SessionLimit | None,
        age: float,
        unheard: float | None,
        rivals: Sequence[str],
        last: EntryId | None,
    ) -> Call:
        """Make a session visible, or write it again.

        Args:
            user: whose it is.
            client: its ID.
            record: its record.
            facts: what the record says.
            is_new: whether it has to be allowed.
            is_told: whether it was told to end.
            limit: how many the user may have.
            age: how many seconds ago it was registered.
            unheard: how many seconds ago its client was heard of; None is never.
            rivals: leases that have been in the way, and whether they are held is known now.
            last: the last entry of the log; None where the script sees it itself.
        """
        keys = self.keys
        names = [keys.sessions(user), keys.kept_out(user), keys.ended(user, client)]
        if self.in_one_place:
            names.append(keys.log)
            if facts.token_id is not None:
                names.append(keys.token(facts.token_id))
        held = [] if limit is None else self._leases.held()
        held += [lease for lease in rivals if self._leases.is_held(lease)]
        begin = b""
        if limit is not None and limit.per_app:
            name = app_name_of(record)
            begin = b"-" if name is None else b'{"app_name":%b,' % dumps(name)
        return Call(
            "register",
            tuple(names),
            (
                client,
                sealed(record),
                self._leases.own,
                self._mine,
                "new" if is_new else "again",
                _microseconds(age),
                "" if unheard is None else _microseconds(unheard),
                _written(last or (0, 0)),
                SESSIONS_SECONDS,
                _moment(facts.issued_at),
                0 if limit is None else limit.max_sessions,
                "" if limit is None else limit.policy,
                begin,
                " ".join(held),
                " ".join(filter(self._leases.is_lost, rivals)),
                "-" if is_told else "+",
            ),
        )

    def end(self, user: str, client: str, *, in_doubt: bool) -> Call:
        """Forget a session; one in doubt so that no late request brings it back."""
        names = (self.keys.sessions(user), self.keys.ended(user, client))
        mark = ENDED_SECONDS * 1000 if in_doubt else 0
        return Call("end", names, (client, self._mine, mark))

    def update(self, user: str, client: str, record: bytes) -> Call:
        """Give a session of this process another record."""
        return self._update(user, client, record, "", None, (0, 0))

    def rebind(
        self, user: str, client: str, record: bytes, facts: Facts, *, last: EntryId | None
    ) -> Call:
        """Give a session of this process the record of another token, unless that is kept out."""
        issued_at = _moment(facts.issued_at)
        return self._update(user, client, record, issued_at, facts.token_id, last or (0, 0))

    def _update(
        self,
        user: str,
        client: str,
        record: bytes,
        issued_at: str,
        token_id: str | None,
        last: EntryId,
    ) -> Call:
        names = [self.keys.sessions(user), self.keys.kept_out(user)]
        if self.in_one_place:
            names.append(self.keys.log)
            if token_id is not None:
                names.append(self.keys.token(token_id))
        arguments = (client, sealed(record), self._mine, issued_at, _written(last))
        return Call("update", tuple(names), arguments, session=(user, client))

    def seen(self, user: str, client: str, *, ago: float) -> Call:
        """Say when a client of this process was last heard of."""
        arguments = (client, self._mine, _microseconds(ago))
        return Call("seen", (self.keys.sessions(user),), arguments)

    def list_user(self, user: str) -> Call:
        """All of a user's sessions."""
        return Call("HGETALL", (self.keys.sessions(user),), is_script=False)

    def mark(self, user: str, clients: Sequence[str]) -> Call:
        """Mark sessions as told to end."""
        return Call("mark", (self.keys.sessions(user),), tuple(clients))

    def sweep(self, user: str, clients: Sequence[str], lost: Sequence[str]) -> Call:
        """Forget sessions whose lease is lost."""
        return Call("sweep", (self.keys.sessions(user),), (" ".join(lost), *clients))

    def touch(self, sessions: Sequence[tuple[str, str]]) -> list[Call]:
        """Keep users' sessions for longer; each answers the places of users who lost some.

        Args:
            sessions: users, each with the one of their sessions that is looked for.
        """
        named = [(self.keys.sessions(user), client) for user, client in sessions]
        groups = [named] if self.in_one_place and named else [[one] for one in named]
        return [
            Call(
                "touch",
                tuple(name for name, _ in group),
                (SESSIONS_SECONDS, *(client for _, client in group)),
            )
            for group in groups
        ]

    # Who is kept out --------------------------------------------------------------------------

    def check(self, user: str, token_id: str | None, issued_at: float | None) -> list[Call]:
        """Whether a user or their token is kept out."""
        names = [self.keys.kept_out(user)]
        if token_id is not None and self.in_one_place:
            names.append(self.keys.token(token_id))
        calls = [Call("check", tuple(names), (_moment(issued_at),))]
        return calls if self.in_one_place else [*calls, *self.is_revoked(token_id)]

    def is_revoked(self, token_id: str | None) -> list[Call]:
        """Whether a token is revoked, where no script can see that itself."""
        if token_id is None:
            return []
        return [Call("EXISTS", (self.keys.token(token_id),), is_script=False)]

    def block(self, user: str, until: float | None) -> Call:
        """Keep a user out."""
        return Call(
            "block", (self.keys.kept_out(user),), (_moment(math.inf if until is None else until),)
        )

    def unblock(self, user: str) -> Call:
        """Let a user in again."""
        return Call("HDEL", (self.keys.kept_out(user),), ("blocked",), is_script=False)

    def invalidate(self, user: str, before: float, until: float | None) -> Call:
        """Keep out a user's tokens that were issued before a moment."""
        ends = self._clock() + KEPT_SECONDS if until is None else until
        return Call("invalidate", (self.keys.kept_out(user),), (_moment(before), _moment(ends)))

    def revoke(self, token_id: str, until: float | None) -> Call:
        """Keep a token out."""
        ends = self._clock() + KEPT_SECONDS if until is None else until
        return Call("revoke", (self.keys.token(token_id),), (f"{ends * 1000:.0f}",))

    # Processes --------------------------------------------------------------------------------

    def renew(self, milliseconds: int, about: bytes, *, give_up: str) -> Call:
        """Take or renew the lease of this process."""
        names = (self.keys.leases, self.keys.about, self.keys.log)
        act = "renew" if self._leases.is_taken else "take"
        return Call("renew", names, (self._leases.own, milliseconds, about, act, give_up))

    def has_lease(self) -> Call:
        """Whether Redis still knows the lease of this process."""
        return Call("ZSCORE", (self.keys.leases,), (self._leases.own,), is_script=False)

    def leave(self, mailbox: str) -> Call:
        """Give up the lease of this process."""
        names = (self.keys.leases, self.keys.about, self.keys.mailbox(mailbox))
        return Call("leave", names, (self._leases.own,))

    def nodes(self, leases: Iterable[str] = ()) -> Call:
        """Who of these is alive; without any, who is."""
        return Call("nodes", (self.keys.leases, self.keys.about), tuple(leases))

    def last(self) -> Call:
        """The last entry of the log."""
        return Call("last", (self.keys.log,))

    def post(self, entry: Entry) -> Call:
        """Add an entry to the log."""
        return Call("post", (self.keys.log,), (entry.to_json(), LOG_SECONDS))

    def mail(self, mailbox: str, mail: Mail) -> Call:
        """Answer to the process of a mailbox."""
        return Call("mail", (self.keys.mailbox(mailbox),), (mail.to_json(), _MAILS, MAIL_SECONDS))

    @property
    def _mine(self) -> str:
        return " ".join(self._leases.mine)


def _written(entry: EntryId) -> str:
    return f"{entry[0]}-{entry[1]}"


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else repr(float(seconds))


def _microseconds(seconds: float) -> int:
    return max(0, int(seconds * 1e6))

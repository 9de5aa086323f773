"""`manage.py usersessions list USER` and `close USER`: sessions that the servers hold."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from .....errors import DisconnectCode, UserSessionsError
from .....printable import printable
from .....records import ConnectionInfo
from .....sessions import UserSessions
from .....stores.memory import MemoryStore
from ...conf import get_sessions

__all__ = ["Command"]


class Command(BaseCommand):
    """Lists or closes a user's sessions; it never shows their `meta`."""

    help = "Lists or closes the sessions of a user."

    def add_arguments(self, parser: CommandParser) -> None:
        """Say what the command takes."""
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        listing = actions.add_parser("list", help="list a user's sessions")
        closing = actions.add_parser("close", help="close a user's sessions")
        for action in (listing, closing):
            action.add_argument("user", metavar="USER", help="the user ID, as tokens have it")
        closing.add_argument("--client", metavar="ID", help="only this one")
        closing.add_argument(
            "--code",
            type=int,
            default=int(DisconnectCode.FORCE_DISCONNECT),
            help="3000 to 4999; from 3500 and from 4500 on, clients do not come back (%(default)s)",
        )
        closing.add_argument(
            "--reason",
            metavar="TEXT",
            help="for people, 123 bytes at most; the code's own if not given",
        )
        closing.add_argument("--revoke", action="store_true", help="revoke their tokens as well")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it.

        Raises:
            CommandError: if it cannot be done.
        """
        sessions = get_sessions()
        if isinstance(sessions.store, MemoryStore):
            raise CommandError(
                "sessions are in the memory of your server, where no other process can see them: "
                'set "STORE": "redis://..." in USERSESSIONS'
            )
        try:
            if options["action"] == "list":
                partial = self._list(sessions, options["user"])
            else:
                partial = self._close(sessions, options)
        except UserSessionsError as error:
            raise CommandError(printable(str(error))) from error
        if partial:
            self.stderr.write("There may be more: not every server could be asked.")

    def _list(self, sessions: UserSessions, user: str) -> bool:
        found = sessions.user_connections(user)
        for client, info in found.items():
            # Clients have chosen some of it.
            self.stdout.write(printable("  ".join([client, *_columns(info)])))
        return found.partial

    def _close(self, sessions: UserSessions, options: dict[str, Any]) -> bool:
        given = {name: options[name] for name in ("client", "code", "reason", "revoke")}
        ended = sessions.disconnect(options["user"], **given)
        if not (ended.closed or ended.unconfirmed):
            self.stdout.write("There is no such session.")
        for what in ("closed", "unconfirmed", "not_revocable"):
            for client in getattr(ended, what):
                self.stdout.write(printable(f"{client}  {what.replace('_', ' ')}"))
        return ended.partial


def _columns(info: ConnectionInfo) -> list[str]:
    since = datetime.fromtimestamp(info.connected_at, timezone.utc)
    shown = (info.app_name, info.app_version, info.device, info.remote_addr)
    return [f"{since:%Y-%m-%d %H:%M:%S} UTC", info.transport, *filter(None, shown)]

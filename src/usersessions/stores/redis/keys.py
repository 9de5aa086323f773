"""The names of everything in Redis, and how long each lives.

| name | what it is | how long it lives |
|---|---|---|
| `P:{u:USER}` | hash: client ID -> value, see `values` | with its last session; a day at most |
| `P:{u:USER}:out` | hash: what keeps the user out | as long as it does |
| `P:{u:USER}:end:CLIENT` | mark: no late request may bring this session back | five minutes |
| `P:{t:JTI}` | mark: this token is revoked | as long as it is |
| `P:{n}:leases` | sorted set: lease -> when it ends, in milliseconds | two leases |
| `P:{n}:about` | hash: lease -> what its process says of itself | two leases |
| `P:{n}:log` | stream: what every process has to do | entries an hour, the stream two |
| `P:{n}:mail:LEASE` | stream: what others answer to that process | two minutes after the last one |

`P` is the prefix. Lives are counted from the last time that a process renewed them. What stands in
braces decides which server of a Redis Cluster holds a key, so that one script finds all that it
needs in one place: all of a user, all of the processes.
"""

from __future__ import annotations

from ...errors import ConfigError

__all__ = ["ENDED_SECONDS", "LOG_SECONDS", "MAIL_SECONDS", "SESSIONS_SECONDS", "Keys"]

SESSIONS_SECONDS = 24 * 3600
ENDED_SECONDS = 300
LOG_SECONDS = 3600
MAIL_SECONDS = 120


class Keys:
    """The names under a prefix.

    Args:
        prefix: 1 to 64 letters, digits and characters of `_.:-`.

    Raises:
        ConfigError: if the prefix has other characters.

    >>> keys = Keys("app")
    >>> keys.sessions("42"), keys.sessions("a}b"), keys.log
    ('app:{u:42}', 'app:{u:a%7Db}', 'app:{n}:log')
    """

    def __init__(self, prefix: str) -> None:
        if not isinstance(prefix, str) or not 1 <= len(prefix) <= 64:
            raise ConfigError("prefix must be a string of 1 to 64 characters")
        if not all(one.isascii() and (one.isalnum() or one in "_.:-") for one in prefix):
            raise ConfigError("prefix must be made of letters, digits and the characters _ . : -")
        self._prefix = prefix
        self.leases = f"{prefix}:{{n}}:leases"
        self.about = f"{prefix}:{{n}}:about"
        self.log = f"{prefix}:{{n}}:log"

    def sessions(self, user: str) -> str:
        """A user's sessions."""
        return f"{self._prefix}:{{u:{_escaped(user)}}}"

    def kept_out(self, user: str) -> str:
        """What keeps a user out."""
        return f"{self.sessions(user)}:out"

    def ended(self, user: str, client: str) -> str:
        """The mark of a session that has ended."""
        return f"{self.sessions(user)}:end:{client}"

    def token(self, token_id: str) -> str:
        """The mark of a revoked token."""
        return f"{self._prefix}:{{t:{_escaped(token_id)}}}"

    def mailbox(self, lease: str) -> str:
        """What others answer to a process."""
        return f"{self._prefix}:{{n}}:mail:{lease}"


def _escaped(text: str) -> str:
    # The part that decides on the server ends with the first closing brace.
    return text.replace("%", "%25").replace("}", "%7D")

"""Close all sessions of a user, whichever servers hold them, from a script that holds none itself.

REDIS_URL=redis://localhost:6379 python examples/cluster/close.py USER
"""

from __future__ import annotations

import os
import sys
import time

from usersessions import RedisStore, UserSessions, UserSessionsError


def close(user: str, *, url: str) -> None:
    sessions = UserSessions(store=RedisStore(url))
    try:
        began = time.monotonic()
        ended = sessions.disconnect(user)
        took = time.monotonic() - began
    finally:
        sessions.close()
    print(f"closed {len(ended.closed)}, unconfirmed {len(ended.unconfirmed)}: {took * 1000:.0f} ms")


def main() -> None:
    if len(sys.argv) != 2 or "REDIS_URL" not in os.environ:
        sys.exit("usage: REDIS_URL=redis://localhost:6379 python close.py USER")
    try:
        close(sys.argv[1], url=os.environ["REDIS_URL"])
    except UserSessionsError as error:
        sys.exit(f"close.py: {error}")


if __name__ == "__main__":
    main()

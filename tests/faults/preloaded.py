"""A program that uses its store and then forks, as servers do that load the app first.

Every process says what it saw as a line of JSON: its role, its node, its client IDs, and what was
wrong. The first goes on until its standard input ends; the others end as programs do, with what is
done at exit.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from usersessions import RedisStore, UserSessions

CHILDREN = 4
ROUNDS = 25


def use(sessions: UserSessions, role: str) -> tuple[list[str], list[str]]:
    """Open sessions of a user of its own, and list them; the client IDs, and what was wrong."""
    clients, wrong = [], []
    for _ in range(ROUNDS):
        with sessions.connect(user=role, transport="sse") as session:
            clients.append(session.client)
            seen = list(sessions.user_connections(role))
            if seen != [session.client]:
                wrong.append(f"{role} saw {seen} instead of {session.client}")
    return clients, wrong


def say(sessions: UserSessions, role: str, clients: list[str], wrong: list[str]) -> None:
    """Write what a process saw."""
    node = sessions.operations.node.id
    os.write(1, json.dumps([role, node, clients, wrong]).encode() + b"\n")


def main() -> None:
    url, prefix, lease = sys.argv[1:]
    sessions = UserSessions(store=RedisStore(url, prefix=prefix, lease=float(lease)))
    with sessions.connect(user="first", transport="sse") as first:
        sessions.user_connections("first")
        seen: list[tuple[list[str], list[str]]] = []
        # The connections and the locks of the store are in use while the process is forked.
        busy = threading.Thread(target=lambda: seen.append(use(sessions, "parent")))
        busy.start()
        children = []
        for number in range(CHILDREN):
            child = os.fork()
            if not child:
                clients, wrong = use(sessions, f"child-{number}")
                if first.client not in sessions.user_connections("first"):
                    wrong.append("the session of the parent is not listed")
                say(sessions, f"child-{number}", clients, wrong)
                return
            children.append(child)
        busy.join()
        ends = [os.waitpid(child, 0)[1] for child in children]
        (clients, wrong), *_ = seen
        wrong += [f"a child ended with {end}" for end in ends if end]
        say(sessions, "parent", [first.client, *clients], wrong)
        sys.stdin.read()


if __name__ == "__main__":
    main()

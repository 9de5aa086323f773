"""What a user's hash holds of each session: one line of the store's own, then the record.

1. The line is `1S LEASE SINCE AT SEEN`: the version; the state, `+` open or `-` told to end; the
   lease of the process that holds the session; the last entry of the log before it was registered;
   when that was, and when the client was last heard of (0 is never), in microseconds by the
   server's clock.
2. The record stands behind its checksum, so that whoever reads it need not parse it to know that it
   is one: a list may join records without a look at them.
3. A value that is not of this form is nobody's to change: a newer version may have written it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from zlib import crc32

__all__ = ["Held", "read_values", "sealed"]

_CLIENT = re.compile(rb"[\w.:-]{1,255}")
_HEAD = re.compile(rb"1([+-]) ([0-9a-f]{1,64}) (\d+-\d+) (\d{1,20}) (\d{1,20})\n([0-9a-f]{8}) ")


@dataclass(frozen=True, slots=True)
class Held:
    """A session as Redis knows it; `seen` is in seconds since the epoch, None if never."""

    client: str
    is_open: bool
    lease: str
    at: int
    seen: float | None
    record: bytes = field(repr=False)


def read_values(values: Mapping[bytes, bytes]) -> tuple[list[Held], bool]:
    """The sessions of a user's hash, oldest first, and whether all of it could be read.

    >>> value = b"1+ 0a 5-0 1700000000000000 0\\n" + sealed(b"a record")
    >>> sessions, complete = read_values({b"c1": value, b"c2": b"garbage"})
    >>> sessions, complete
    ([Held(client='c1', is_open=True, lease='0a', at=1700000000000000, seen=None)], False)
    """
    held = [_read(client, value) for client, value in values.items()]
    known = [one for one in held if one is not None]
    known.sort(key=lambda one: one.at)
    return known, len(known) == len(held)


def sealed(record: bytes) -> bytes:
    """A record as it stands in a value: with a checksum before it.

    >>> sealed(b"a record")
    b'9c2878e2 a record'
    """
    return b"%08x %b" % (crc32(record), record)


def _read(client: bytes, value: bytes) -> Held | None:
    head = _HEAD.match(value)
    if head is None or not _CLIENT.fullmatch(client):
        return None
    state, lease, _, at, seen, checksum = head.groups()
    record = value[head.end() :]
    if int(checksum, 16) != crc32(record):
        return None
    heard = int(seen) / 1e6 if seen != b"0" else None
    return Held(client.decode(), state == b"+", lease.decode(), int(at), heard, record)

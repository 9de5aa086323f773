"""A short name for the device behind a user agent string.

The string is what the client says of itself: fit to help users recognise their own devices, and to
decide nothing.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["device_name"]


@lru_cache(maxsize=1024)
def device_name(user_agent: str | None) -> str | None:
    """A name such as "Firefox on Windows"; the string itself where that is not possible.

    It needs ua-parser, which `usersessions[devices]` installs; without it, and for clients that
    it does not know, the string is given as it is. None stays None.

    >>> device_name("curl/8.5.0")
    'curl'
    """
    if user_agent is None:
        return None
    try:
        from ua_parser import parse
    except ImportError:
        return user_agent
    found = parse(user_agent)
    names = [part.family for part in (found.user_agent, found.os) if part is not None]
    return " on ".join(names) or user_agent

"""A set of public keys at a URL: when to fetch it, and what to believe meanwhile. No I/O.

1. A key that is known and fresh is there at once; no look-up, no lock, no failure delays it.
2. A set is fresh for `ttl`. After that it is fetched again; if that fails, the old keys serve for
   `max_stale` more. While one flow fetches, the others go on with the old keys.
3. A token that names an unknown key starts a fetch, unless one has ended within `COOLDOWN`; so
   does a failure, after the same time. A fetch that all its flows gave up may be tried again after
   `ABANDONED`.
4. One fetch at a time: flows that need it meanwhile yield the same request.
5. The whole set is replaced or none of it: a bad answer, of any kind, changes no key.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from threading import Lock
from urllib.parse import urlsplit

from .errors import ConfigError, JSONError, KeysUnavailable, require
from .fetch import Fetch, Fetched, FetchFailed
from .flows import Flow
from .keys import Key, candidates, check_algorithms, keys_of_set
from .strictjson import loads

__all__ = ["ABANDONED", "COOLDOWN", "JWKS", "MAX_SET_BYTES", "NOT_FETCHED"]

COOLDOWN = 30.0
"""Seconds from the end of a fetch to the next, for an unknown key or after a failure."""

ABANDONED = 1.0
"""Seconds from a fetch that every flow gave up to the next."""

MAX_SET_BYTES = 256 * 1024
"""The largest key set that is read, in bytes."""

NOT_FETCHED = FetchFailed("the network is not used here")
"""The reply of a driver that has no network: nothing was tried, so nothing has failed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    keys: tuple[Key, ...] = ()
    fresh_until: float = -math.inf
    usable_until: float = -math.inf


class _Flight:
    """A fetch under way, and how many flows wait for it."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting = 0


class JWKS:
    """The keys of an issuer, at its JWK Set URL (RFC 7517, 5). Safe to share between threads.

    Args:
        url: where the set is: an https URL, or an http one on this very machine (loopback).
        algorithms: the only algorithms its keys are used with; never HS256, HS384 or HS512.
        ttl: how long a set is fresh, in seconds; `COOLDOWN` at least.
        max_stale: how much longer its keys are used while it cannot be fetched, in seconds.
        timeout: the longest a fetch may take, in seconds.
        insecure_allow_http: accept an http URL elsewhere. Whoever is on the way can then put their
            own keys in, and be any user; never use it outside of tests.
        clock: what tells seconds, from any start; not the wall clock, which jumps.

    Raises:
        ConfigError: if an argument cannot work.
        MissingExtraError: if `cryptography` or `httpx` is not installed.

    >>> JWKS("https://login.example/.well-known/jwks.json", algorithms=["RS256", "ES256"])
    JWKS('https://login.example/.well-known/jwks.json')
    """

    def __init__(
        self,
        url: str,
        *,
        algorithms: str | Iterable[str],
        ttl: float = 600.0,
        max_stale: float = 3600.0,
        timeout: float = 5.0,
        insecure_allow_http: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shown_url = _check_url(url, insecure_allow_http=insecure_allow_http)
        self.algorithms = check_algorithms(algorithms)
        if any(name.startswith("HS") for name in self.algorithms):
            raise ConfigError("a key set cannot hold HMAC secrets; give asymmetric algorithms")
        require("cryptography", extra="crypto")
        require("httpx", extra="httpx")
        self._ttl = _seconds("ttl", ttl, COOLDOWN)
        self._max_stale = _seconds("max_stale", max_stale, 0.0)
        self._fetch = Fetch(
            url,
            timeout=_seconds("timeout", timeout, 0.001),
            max_bytes=MAX_SET_BYTES,
            headers={"accept": "application/jwk-set+json, application/json"},
        )
        self._clock = clock
        self._lock = Lock()
        self._loaded = _Loaded()
        self._flight: _Flight | None = None
        self._next_fetch = -math.inf
        self._failing = False

    def keys_for(self, kid: str | None, *, algorithm: str) -> Flow[tuple[Key, ...]]:
        """The keys that may have signed a token with this `kid` (None: it has none) and `alg`.

        As a flow: it yields one `Fetch` if the set must be fetched, and nothing otherwise.

        Raises:
            KeysUnavailable: if there is no such key because the set could not be fetched.
        """
        loaded, now = self._loaded, self._clock()
        found = candidates(loaded.keys, kid=kid, algorithm=algorithm)
        if found and now < loaded.fresh_until:
            return found
        flight = self._board(can_do_without=bool(found) and now < loaded.usable_until)
        missed = False
        if flight is not None:
            reply: Fetched | FetchFailed = NOT_FETCHED
            pause = ABANDONED
            try:
                reply = yield from self._fetch
                pause = 0.0
            finally:
                missed = reply is NOT_FETCHED
                if missed:
                    self._leave(flight, pause)
            if not missed:
                self._land(flight, reply)
        loaded = self._loaded
        if self._clock() < loaded.usable_until:
            found = candidates(loaded.keys, kid=kid, algorithm=algorithm)
            if found or not (self._failing or missed):
                return found
        raise KeysUnavailable("the keys for this token cannot be fetched now; try again later")

    def _board(self, *, can_do_without: bool) -> _Flight | None:
        """The fetch to wait for; None if the answer must come from what there is."""
        with self._lock:
            if self._flight is None:
                if self._clock() < self._next_fetch:
                    return None
                self._flight = _Flight()
            elif can_do_without:
                return None
            self._flight.waiting += 1
            return self._flight

    def _leave(self, flight: _Flight, pause: float) -> None:
        """Wait no longer for a fetch; if nobody does, the next may start after `pause`."""
        with self._lock:
            flight.waiting -= 1
            if flight is self._flight and not flight.waiting:
                self._flight = None
                self._next_fetch = self._clock() + pause

    def _land(self, flight: _Flight, reply: Fetched | FetchFailed) -> None:
        with self._lock:
            if flight is not self._flight:
                return
            # Parsed under the lock, so that the flows that shared the fetch find its keys, and
            # only the first of them parses.
            keys, problem = self._read(reply)
            now = self._clock()
            self._flight = None
            self._next_fetch = now + COOLDOWN
            self._failing = bool(problem)
            if not problem:
                fresh_until = now + self._ttl
                self._loaded = _Loaded(keys, fresh_until, fresh_until + self._max_stale)
        if problem:
            _log.warning("key set %s not loaded: %s", self._shown_url, problem)

    def _read(self, reply: Fetched | FetchFailed) -> tuple[tuple[Key, ...], str]:
        if isinstance(reply, FetchFailed):
            return (), reply.why
        if reply.status != 200:
            return (), f"the answer's status is {reply.status}, not 200"
        if len(reply.body) > MAX_SET_BYTES:
            return (), f"the answer is over {MAX_SET_BYTES} bytes"
        try:
            keys = keys_of_set(loads(reply.body), algorithms=self.algorithms)
        except (JSONError, ConfigError) as error:
            return (), str(error)
        return keys, "" if keys else f"no key in it is usable with {', '.join(self.algorithms)}"

    def __repr__(self) -> str:
        return f"JWKS({self._shown_url!r})"


def _seconds(name: str, value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} must be a number of seconds")
    if not least <= value < math.inf:
        raise ConfigError(f"{name} must be finite, and {least:g} seconds at least")
    return value


def _check_url(url: object, *, insecure_allow_http: bool) -> str:
    """The URL as it may be shown: without credentials and without its query."""
    shown = host = scheme = ""
    if isinstance(url, str) and url.isascii() and url.isprintable() and " " not in url:
        try:
            parts = urlsplit(url)
            port = "" if parts.port is None else f":{parts.port}"
            scheme, host = parts.scheme, parts.hostname or ""
            shown = f"{scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"
        except ValueError:
            host = ""
    if not host or scheme not in ("http", "https"):
        raise ConfigError("the key set's URL must be an absolute https URL")
    if scheme == "http" and not insecure_allow_http and not _is_loopback(host):
        raise ConfigError(
            "the key set's URL must be https: over http, anyone on the way can put in their keys"
        )
    return shown


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False

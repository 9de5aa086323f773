"""A JWT becomes an identity. No network: what must be fetched is asked for by the flow.

1. A token is a JWS in compact form (RFC 7515, 7.1) of `MAX_TOKEN_BYTES` at most, in canonical
   base64url: no padding, no white space, no stray bits. Nothing is decoded before that is known.
2. The header chooses among configured keys, by `kid` and `alg`, and nothing else: `jwk`, `jku`,
   `x5u` and `x5c` are ignored, `crit`, `b64` and `enc` refused.
3. The signature is checked before the payload is read, and the payload is strict JSON.
4. Whatever the token, the only exceptions are `TokenError` and its subclasses, and no message,
   cause or context of them holds a part of the token.
"""

from __future__ import annotations

import string
import time
from binascii import a2b_base64
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn, Protocol

from .claims import ClaimRules
from .errors import ConfigError, InvalidValue, JSONError, KeysUnavailable, TokenError
from .fetch import FetchFailed
from .flows import Flow, Request, run
from .jwks import JWKS, NOT_FETCHED
from .keys import Key
from .models import Identity, check_id
from .strictjson import JSON, loads

__all__ = [
    "MAX_TOKEN_BYTES",
    "IssuerVerifiers",
    "SignatureVerifier",
    "TokenVerifier",
    "Verifier",
]

MAX_TOKEN_BYTES = 8192
"""The largest token that is looked at."""

_ALPHABET = (string.ascii_letters + string.digits + "-_").encode()
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
# By the length of a segment modulo 4: what pads it, and which last characters leave no stray bits.
_PADDING = (b"", b"", b"==", b"=")
_LAST = (_ALPHABET, b"", b"AQgw", b"AEIMQUYcgkosw048")

_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_REFUSED_HEADERS = {
    "crit": "the token's header has crit: no extension is supported (RFC 7515, 4.1.11)",
    "b64": "the token's header has b64, which a JWT must not use (RFC 7797, 7)",
    "enc": "the token is encrypted (JWE); give a signed one",
}
_MAX_HEADERS = 64


class Verifier(Protocol):
    """What turns a token into an identity: a `TokenVerifier`, or `IssuerVerifiers`."""

    def identify(self, token: str, *, now: float) -> Flow[Identity]:
        """The identity behind a token, as a flow, at `now` in seconds since the epoch."""
        ...

    def verify(self, token: str, *, now: float | None = None) -> Identity:
        """The identity behind a token, without any network."""
        ...


class _Signed(NamedTuple):
    signing_input: bytes
    algorithm: str
    kid: str | None
    signature: bytes

    def is_by(self, key: Key) -> bool:
        return key.verify(self.signing_input, algorithm=self.algorithm, signature=self.signature)


class SignatureVerifier:
    """Checks the form, header and signature of a token, and gives its payload unread.

    Args:
        keys: a `Key` or a `JWKS`, or several.

    Raises:
        ConfigError: if there is none, or something else among them.
    """

    __slots__ = ("_headers", "_keys", "_sets")

    def __init__(self, keys: Key | JWKS | Iterable[Key | JWKS]) -> None:
        sources = _listed([keys] if isinstance(keys, (Key, JWKS)) else keys)
        self._keys = tuple(source for source in sources if isinstance(source, Key))
        self._sets = tuple(source for source in sources if isinstance(source, JWKS))
        if not sources or len(self._keys) + len(self._sets) != len(sources):
            raise ConfigError("keys must be a Key or a JWKS, or several of them")
        # Issuers use the same few headers again and again. Only those of tokens whose signature
        # was good are kept, so nobody else can fill or steer this.
        self._headers: dict[bytes, tuple[str, str | None]] = {}

    def payload(self, token: object, *, now: float) -> Flow[bytes]:
        """The payload of a token whose signature is good at `now`, as a flow.

        Raises:
            KeysUnavailable: if the token's keys cannot be fetched.
            TokenError: if the token is anything but well signed with one of the keys.
        """
        signing_input, header, payload, encoded_signature = _take_apart(token)
        known = self._headers.get(header)
        algorithm, kid = known or _parse_header(header)
        signed = _Signed(signing_input, algorithm, kid, _decode(encoded_signature, "signature"))
        keys = [
            key
            for key in self._keys
            if key.fits(kid, algorithm=algorithm) and (key.until is None or now <= key.until)
        ]
        if not any(signed.is_by(key) for key in keys):
            yield from self._search_sets(signed, tried=bool(keys))
        claims = _decode(payload, "payload")
        if known is None:
            if len(self._headers) >= _MAX_HEADERS:
                self._headers.clear()
            self._headers[header] = algorithm, kid
        return claims

    def _search_sets(self, signed: _Signed, *, tried: bool) -> Flow[None]:
        """Return if a key of a set signed this, and raise if none did."""
        unavailable = ""
        # A key configured under the token's own kid is the one; no set can add to it.
        pinned = signed.kid is not None and any(key.kid == signed.kid for key in self._keys)
        for keys in () if pinned else self._sets:
            if signed.algorithm not in keys.algorithms:
                continue
            found: tuple[Key, ...] = ()
            try:
                found = yield from keys.keys_for(signed.kid, algorithm=signed.algorithm)
            except KeysUnavailable as error:
                unavailable = str(error)
            if any(signed.is_by(key) for key in found):
                return
            tried = tried or bool(found)
        if unavailable:
            raise KeysUnavailable(unavailable)
        if tried:
            raise TokenError("the token's signature does not match")
        raise TokenError("the token's alg and kid are of no key that is in use here")


class TokenVerifier:
    """Turns tokens into identities.

    Args:
        keys: a `Key` or a `JWKS`, or several. A token with a `kid` is verified with the keys of
            that `kid` and those without one; a token without, with all of them.
        issuer: the only `iss`, or several; None accepts any and none.
        audience: the `aud` that must be among the token's, or several of which one must be; None
            refuses a token that has an `aud` (RFC 7519, 4.1.3).
        leeway: how far the issuer's clock may be off, in seconds.
        user_claim: the name of the claim that is the user ID; a token without it is anonymous.
        meta_from_claim: members of `meta` to take from other claims, by path: `{"role":
            "user.role"}`; see `MetaFromClaim`.

    Raises:
        ConfigError: if an argument cannot work.

    >>> import jwt
    >>> secret = "a secret of thirty-two bytes or more"
    >>> verifier = TokenVerifier(Key(secret, algorithm="HS256"))
    >>> verifier.verify(jwt.encode({"sub": "42", "exp": 2000000000}, secret), now=1700000000)
    Identity(user='42', issued_at=None, expire_at=2000000000)
    """

    __slots__ = ("_rules", "_signatures")

    def __init__(
        self,
        keys: Key | JWKS | Iterable[Key | JWKS],
        *,
        issuer: str | Iterable[str] | None = None,
        audience: str | Iterable[str] | None = None,
        leeway: float = 0.0,
        user_claim: str = "sub",
        meta_from_claim: Mapping[str, str] | None = None,
    ) -> None:
        self._signatures = SignatureVerifier(keys)
        self._rules = ClaimRules(
            issuer=issuer,
            audience=audience,
            leeway=leeway,
            user_claim=user_claim,
            meta_from_claim=meta_from_claim,
        )

    @property
    def issuers(self) -> frozenset[str] | None:
        """The accepted `iss`; None if any is."""
        return self._rules.issuers

    def identify(self, token: str, *, now: float) -> Flow[Identity]:
        """The identity behind a token, as a flow, at `now` in seconds since the epoch.

        It yields a `Fetch` only if the token's keys must be fetched.

        Raises:
            TokenExpired: if the token was good until its `exp`.
            KeysUnavailable: if its keys cannot be fetched.
            TokenError: if it is refused for any other reason.
        """
        payload = yield from self._signatures.payload(token, now=now)
        return self._rules.identity(_object(payload, "payload"), now=now)

    def verify(self, token: str, *, now: float | None = None) -> Identity:
        """The identity behind a token, without any network.

        Args:
            token: the token.
            now: seconds since the epoch; None is this moment.

        Raises:
            TokenExpired: if the token was good until its `exp`.
            KeysUnavailable: if its keys would have to be fetched.
            TokenError: if it is refused for any other reason.
        """
        flow = self.identify(token, now=time.time() if now is None else now)
        return run(flow, _no_network)


class IssuerVerifiers:
    """Several issuers, each with keys and rules of its own.

    A token's `iss`, unverified, chooses the verifier; that one then verifies all of the token,
    `iss` included. No key of one issuer can so vouch for a token of another.

    Args:
        verifiers: one `TokenVerifier` or more, each with an `issuer`, no issuer twice.

    Raises:
        ConfigError: if there is none, one has no issuer, or an issuer stands twice.

    >>> key = Key("a secret of thirty-two bytes or more", algorithm="HS256")
    >>> verifiers = IssuerVerifiers([TokenVerifier(key, issuer="https://login.example")])
    """

    __slots__ = ("_by_issuer",)

    def __init__(self, verifiers: Iterable[TokenVerifier]) -> None:
        given = _listed(verifiers)
        if not given:
            raise ConfigError("verifiers must be one TokenVerifier or more")
        self._by_issuer: dict[str, TokenVerifier] = {}
        for verifier in given:
            if not isinstance(verifier, TokenVerifier) or verifier.issuers is None:
                raise ConfigError("each must be a TokenVerifier with an issuer, to be chosen by it")
            if not self._by_issuer.keys().isdisjoint(verifier.issuers):
                raise ConfigError("an issuer stands in two verifiers; which one is to decide?")
            self._by_issuer.update(dict.fromkeys(verifier.issuers, verifier))

    def identify(self, token: str, *, now: float) -> Flow[Identity]:
        """As `TokenVerifier.identify`, with the verifier of the token's issuer."""
        payload = _take_apart(token)[2]
        issuer = _object(_decode(payload, "payload"), "payload").get("iss")
        verifier = self._by_issuer.get(issuer) if isinstance(issuer, str) else None
        if verifier is None:
            raise TokenError("the token's iss is not an accepted issuer")
        return (yield from verifier.identify(token, now=now))

    def verify(self, token: str, *, now: float | None = None) -> Identity:
        """As `TokenVerifier.verify`, with the verifier of the token's issuer."""
        flow = self.identify(token, now=time.time() if now is None else now)
        return run(flow, _no_network)


def _listed(values: object) -> list[object]:
    return list(values) if isinstance(values, Iterable) else []


def _no_network(request: Request) -> FetchFailed:
    return NOT_FETCHED


def _take_apart(token: object) -> tuple[bytes, bytes, bytes, bytes]:
    """The signing input, and the three segments still encoded."""
    if not isinstance(token, str):
        raise TokenError(f"the token must be a string, not {type(token).__name__}")
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenError(f"the token is over {MAX_TOKEN_BYTES} bytes")
    data = token.encode("ascii", "replace")
    if data.translate(None, _ALPHABET) != b"..":
        _refuse_form(data)
    header, payload, signature = data.split(b".")
    return data[: -len(signature) - 1], header, payload, signature


def _refuse_form(data: bytes) -> NoReturn:
    dots = data.count(b".")
    if data.lstrip().startswith(b"{"):
        raise TokenError("the token is in JSON serialization; give the compact form")
    if dots == 4:
        raise TokenError("the token has five segments: it is encrypted (JWE); give a signed one")
    if dots != 2:
        raise TokenError(f"the token must have three segments, joined by dots, not {dots + 1}")
    raise TokenError("the token has a character that is not of base64url: no padding, no spaces")


def _decode(segment: bytes, name: str) -> bytes:
    beyond = len(segment) % 4
    if segment and segment[-1] not in _LAST[beyond]:
        raise TokenError(f"the token's {name} is not canonical base64url (RFC 4648, 3.5)")
    return a2b_base64(segment.translate(_TO_STANDARD) + _PADDING[beyond])


def _object(data: bytes, name: str) -> dict[str, JSON]:
    problem = "an object is wanted"
    try:
        value = loads(data)
        if isinstance(value, dict):
            return value
    except JSONError as error:
        problem = str(error)
    raise TokenError(f"the token's {name} is refused: {problem}")


def _parse_header(segment: bytes) -> tuple[str, str | None]:
    header = _object(_decode(segment, "header"), "header")
    for name, problem in _REFUSED_HEADERS.items():
        if name in header:
            raise TokenError(problem)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise TokenError("the token's header must have an alg, a string")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise TokenError("the token's typ must be JWT or at+jwt, or absent (RFC 8725, 3.11)")
    problem = ""
    try:
        return algorithm, check_id("kid", header["kid"]) if "kid" in header else None
    except InvalidValue as error:
        problem = str(error)
    raise TokenError(f"the token's header is refused: {problem}")

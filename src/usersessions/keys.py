"""Verification keys: each prepared once, each bound to the algorithms it may be used with.

1. A key is used with the algorithms it was made for and no other; `none` is never one of them.
2. Material is parsed and checked once, when the key is made; verifying parses nothing.
3. Private material is reduced to its public part at once.
4. No material appears in a `repr`, a message, or the cause or context of an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from jwt.algorithms import Algorithm, get_default_algorithms

from .errors import ConfigError, InvalidValue, require
from .models import check_id, check_time
from .strictjson import JSON

__all__ = ["ALGORITHMS", "Key", "candidates", "check_algorithms", "keys_of_set"]

ALGORITHMS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "HS256": ("oct", ()),
    "HS384": ("oct", ()),
    "HS512": ("oct", ()),
    "RS256": ("RSA", ()),
    "RS384": ("RSA", ()),
    "RS512": ("RSA", ()),
    "PS256": ("RSA", ()),
    "PS384": ("RSA", ()),
    "PS512": ("RSA", ()),
    "ES256": ("EC", ("P-256",)),
    "ES384": ("EC", ("P-384",)),
    "ES512": ("EC", ("P-521",)),
    "EdDSA": ("OKP", ("Ed25519", "Ed448")),
}
"""Every algorithm there is, with its JWK type and its curves (RFC 7518, 3; RFC 8037)."""

_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_RSA_BITS = range(2048, 16385)
_MAX_KEYS_OF_A_SET = 100

_PUBLIC_MEMBERS = {"oct": ("k",), "RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SSH = (b"ssh-", b"ecdsa-sha2-", b"sk-")


class Key:
    """A key that tokens are verified with.

    Args:
        material: an HMAC secret, or a public key or certificate in PEM, as str or bytes; or a JWK
            as a mapping (RFC 7517). Of a private key only the public part is kept. Of a
            certificate only the key is: its dates and its issuer are not checked.
        algorithm: the name of the one algorithm, or several names, that this key may be used with.
            A JWK with an `alg` of its own is bound to that one, which must be among these.
        kid: the key's ID, of 255 characters at most; a token that names another is not verified
            with this key. None is the JWK's own, or else no ID: then any token may be tried.
        until: the last moment this key is used, in seconds since the epoch; None is for ever. Give
            one to the previous key of a rotation.
        insecure_allow_short_secret: accept an HMAC secret shorter than its algorithm's hash. Such
            a secret can be guessed from a single token; never use it outside of tests.

    Raises:
        ConfigError: if the material is not a key that fits every algorithm: an HMAC secret under
            the size of the hash, so under 32, 48 or 64 bytes for HS256, HS384 or HS512 (RFC 7518,
            3.2); a PEM, SSH or DER key or a JWK as an HMAC secret; RSA under 2048 bits; another
            curve than the algorithm's; a JWK not meant for verifying (`use`, `key_ops`).
        MissingExtraError: if the algorithm is asymmetric and `cryptography` is not installed.

    >>> Key("a secret of thirty-two bytes or more", algorithm="HS256", kid="2030-01")
    Key(algorithm='HS256', kid='2030-01')
    """

    __slots__ = ("_prepared", "kid", "until")

    kid: str | None
    until: float | None

    def __init__(
        self,
        material: str | bytes | Mapping[str, object],
        *,
        algorithm: str | Iterable[str],
        kid: str | None = None,
        until: float | None = None,
        insecure_allow_short_secret: bool = False,
    ) -> None:
        names = check_algorithms(algorithm)
        if len({ALGORITHMS[name][0] for name in names}) > 1:
            raise ConfigError(
                "one key cannot serve algorithms of different kinds; make one of each"
            )
        kind = ALGORITHMS[names[0]][0]
        if kind != "oct":
            require("cryptography", extra="crypto")
        named: object = kid
        if isinstance(material, Mapping):
            names = _check_jwk(material, names, kind)
            named = material.get("kid") if kid is None else kid
            loaded = _of_jwk(material, names[0], kind)
        elif not isinstance(material, (str, bytes)):
            raise ConfigError(
                f"key material must be str, bytes or a JWK mapping, not {type(material).__name__}"
            )
        else:
            data = _encode(material)
            loaded = data if kind == "oct" else _of_pem(data)
        if isinstance(loaded, bytes):
            _check_secret(loaded, names, allow_short=insecure_allow_short_secret)
        self._prepared = {name: _prepare(loaded, name) for name in names}
        problem = ""
        try:
            self.kid = None if named is None else check_id("kid", named)
            self.until = None if until is None else check_time("until", until)
        except InvalidValue as error:
            problem = str(error)
        if problem:
            raise ConfigError(problem)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The only algorithms this key is used with."""
        return tuple(self._prepared)

    def fits(self, kid: str | None, *, algorithm: str) -> bool:
        """Whether a token with this `kid` (None: it has none) and `alg` may be of this key."""
        return algorithm in self._prepared and (kid is None or self.kid is None or self.kid == kid)

    def verify(self, signing_input: bytes, *, algorithm: str, signature: bytes) -> bool:
        """Whether `signature` is this key's for these bytes; `algorithm` is one of its own."""
        implementation, prepared = self._prepared[algorithm]
        return implementation.verify(signing_input, prepared, signature)

    def __repr__(self) -> str:
        return f"Key(algorithm={'/'.join(self._prepared)!r}, kid={self.kid!r})"


def candidates(keys: Iterable[Key], *, kid: str | None, algorithm: str) -> tuple[Key, ...]:
    """The keys that may have signed a token with this `kid` and `alg`.

    >>> key = Key("a secret of thirty-two bytes or more", algorithm="HS256", kid="a")
    >>> candidates([key], kid="a", algorithm="HS256"), candidates([key], kid="b", algorithm="HS256")
    ((Key(algorithm='HS256', kid='a'),), ())
    """
    return tuple(key for key in keys if key.fits(kid, algorithm=algorithm))


def check_algorithms(algorithm: str | Iterable[str]) -> tuple[str, ...]:
    """Give the names of one or several algorithms as a tuple, each once.

    Raises:
        ConfigError: if there is none, or one that is not in `ALGORITHMS`.

    >>> check_algorithms(["RS256", "ES256"])
    ('RS256', 'ES256')
    """
    given: list[object] = [algorithm] if isinstance(algorithm, str) else _listed(algorithm)
    names = tuple(name for name in ALGORITHMS if name in given)
    if not given or any(name not in names for name in given):
        # The names given are not repeated: a secret may have been put in their place.
        raise ConfigError(f"algorithm must be one or more of {', '.join(ALGORITHMS)}")
    return names


def keys_of_set(document: JSON, *, algorithms: Iterable[str]) -> tuple[Key, ...]:
    """The keys of a JWK Set (RFC 7517, 5) that can verify with any of these algorithms.

    What cannot is skipped, as the RFC asks: keys of other kinds or uses, broken or weak ones, and
    symmetric keys always, since whoever can read the set could sign with them.

    Raises:
        ConfigError: if it is not a JWK Set, or has over 100 entries.

    >>> keys_of_set({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}, algorithms=["ES256"])
    ()
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ConfigError('a JWK Set must be an object with a list named "keys"')
    if len(entries) > _MAX_KEYS_OF_A_SET:
        raise ConfigError(f"a JWK Set must not have over {_MAX_KEYS_OF_A_SET} keys")
    names = check_algorithms(algorithms)
    keys = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("kty") == "oct":
            continue
        fitting = [name for name in names if _suits(name, entry)]
        if fitting:
            try:
                keys.append(Key(entry, algorithm=fitting))
            except ConfigError:
                continue
    return tuple(keys)


def _suits(name: str, jwk: Mapping[str, object]) -> bool:
    kind, curves = ALGORITHMS[name]
    return jwk.get("kty") == kind and (not curves or jwk.get("crv") in curves)


def _listed(values: object) -> list[object]:
    return list(values) if isinstance(values, Iterable) else []


def _encode(material: str | bytes) -> bytes:
    if isinstance(material, bytes):
        return material
    with suppress(UnicodeEncodeError):
        return material.encode()
    raise ConfigError("key material holds a lone surrogate, which is not a character; give bytes")


def _check_secret(secret: bytes, names: tuple[str, ...], *, allow_short: bool) -> None:
    if b"-----BEGIN" in secret or secret.startswith(_SSH):
        raise ConfigError(
            "this is an asymmetric key, not an HMAC secret: whoever knows the public key could "
            "sign with it; use an algorithm such as RS256, ES256 or EdDSA"
        )
    name = max(names)
    if len(secret) < (1 if allow_short else _SECRET_BYTES[name]):
        raise ConfigError(
            f"{name} needs a secret of {_SECRET_BYTES[name]} bytes at least (RFC 7518, 3.2), this "
            f"one has {len(secret)}; make one with secrets.token_urlsafe({_SECRET_BYTES[name]})"
        )


def _check_jwk(jwk: Mapping[str, object], names: tuple[str, ...], kind: str) -> tuple[str, ...]:
    if jwk.get("kty") != kind:
        raise ConfigError(f"{names[0]} needs a JWK whose kty is {kind}")
    if jwk.get("use", "sig") != "sig":
        raise ConfigError('the JWK is not for signatures: its use is not "sig" (RFC 7517, 4.2)')
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ConfigError('the JWK is not for verifying: no "verify" in key_ops (RFC 7517, 4.3)')
    if "alg" not in jwk:
        return names
    bound = tuple(name for name in names if name == jwk["alg"])
    if not bound:
        raise ConfigError(f"the JWK is for another alg than {'/'.join(names)} (RFC 7517, 4.4)")
    return bound


def _of_jwk(jwk: Mapping[str, object], name: str, kind: str) -> object:
    members: dict[str, object] = {"kty": kind}
    for member in _PUBLIC_MEMBERS[kind]:
        value = jwk.get(member)
        if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
            raise ConfigError(f"the JWK's {member} must be a string of base64url without padding")
        members[member] = value
    # Whatever a broken key raises may show the key: here, and in the two functions below.
    with suppress(Exception):
        return get_default_algorithms()[name].from_jwk(members)
    raise ConfigError(f"the JWK is not {_wanted(name)}")


def _of_pem(data: bytes) -> object:
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509 import load_pem_x509_certificate

    with suppress(Exception):
        if b"-----BEGIN CERTIFICATE-----" in data:
            return load_pem_x509_certificate(data).public_key()
        if b"PRIVATE KEY-----" in data:
            return serialization.load_pem_private_key(data, password=None).public_key()
        return serialization.load_pem_public_key(data)
    raise ConfigError(
        "the key material cannot be read: give a public key or a certificate in PEM, "
        "a private key in PEM without a password, or a JWK"
    )


def _prepare(loaded: object, name: str) -> tuple[Algorithm, object]:
    algorithm = get_default_algorithms()[name]
    prepared: object = None
    with suppress(Exception):
        prepared = algorithm.prepare_key(loaded)
    if prepared is None:
        raise ConfigError(f"the key material is not {_wanted(name)}, which {name} needs")
    if ALGORITHMS[name][0] == "RSA" and getattr(prepared, "key_size", 0) not in _RSA_BITS:
        raise ConfigError(
            f"an RSA key must have from {_RSA_BITS[0]} to {_RSA_BITS[-1]} bits (RFC 7518, 3.3)"
        )
    return algorithm, prepared


def _wanted(name: str) -> str:
    kind, curves = ALGORITHMS[name]
    if kind == "oct":
        return "a plain secret"
    return f"a valid {kind} key" + (f" on {' or '.join(curves)}" if curves else "")

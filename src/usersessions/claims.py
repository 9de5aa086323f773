"""What the claims of a verified token must be, and the identity they make.

No claim value appears in an error: only names, kinds and bounds do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from .errors import ConfigError, InvalidValue, TokenError, TokenExpired
from .models import MAX_TIME, Identity, check_id, check_time
from .strictjson import JSON

__all__ = ["ClaimRules", "MetaFromClaim"]


class MetaFromClaim:
    r"""Members of `meta` taken from other claims.

    Args:
        paths: for each member of `meta`, the path of the claim it is taken from: names joined by
            dots, each a member of the object before it. `\.` is a dot within a name and `\\` a
            backslash.

    Raises:
        ConfigError: if a member's name or a step of a path is empty, is not a string, or holds a
            backslash before anything else than a dot or a backslash.

    >>> MetaFromClaim({"role": "user.role"}).apply({"user": {"role": "admin"}})
    {'role': 'admin'}
    """

    __slots__ = ("_paths",)

    def __init__(self, paths: Mapping[str, str]) -> None:
        if not isinstance(paths, Mapping):
            raise ConfigError("meta_from_claim must be a mapping of member names to claim paths")
        self._paths = {_name("meta_from_claim", name): _path(path) for name, path in paths.items()}

    def apply(self, claims: Mapping[str, JSON]) -> JSON:
        """The `meta` of these claims: the claim `meta`, with the members found set in it.

        Raises:
            TokenError: if there are members to set, and the claim `meta` is not an object.
        """
        meta = claims.get("meta")
        members: dict[str, JSON] = {}
        for name, path in self._paths.items():
            value: JSON | Mapping[str, JSON] = claims
            for step in path:
                if not isinstance(value, Mapping) or step not in value:
                    break
                value = value[step]
            else:
                members[name] = value  # type: ignore[assignment]  # every path has a step
        if not members:
            return meta
        if meta is not None and not isinstance(meta, dict):
            raise TokenError("the token's meta must be an object to be joined with other claims")
        return {**(meta or {}), **members}


class ClaimRules:
    """The rules that claims are held to (RFC 7519, 4.1), and how they become an identity.

    Args:
        issuer: the only `iss`, or several; None accepts any and none.
        audience: the `aud` that must be among the token's, or several of which one must be; None
            refuses a token that has an `aud` (RFC 7519, 4.1.3).
        leeway: how far the issuer's clock may be off, in seconds.
        user_claim: the name of the claim that is the user ID; a token without it is anonymous.
        meta_from_claim: members of `meta` to take from other claims, as for `MetaFromClaim`.

    Raises:
        ConfigError: if an argument cannot work.

    >>> ClaimRules(leeway=5).identity({"sub": "42", "exp": 100}, now=104.0)
    Identity(user='42', issued_at=None, expire_at=100)
    """

    __slots__ = ("_audiences", "_leeway", "_meta", "_user_claim", "issuers")

    issuers: frozenset[str] | None

    def __init__(
        self,
        *,
        issuer: str | Iterable[str] | None = None,
        audience: str | Iterable[str] | None = None,
        leeway: float = 0.0,
        user_claim: str = "sub",
        meta_from_claim: Mapping[str, str] | None = None,
    ) -> None:
        self.issuers = None if issuer is None else _names("issuer", issuer)
        self._audiences = None if audience is None else _names("audience", audience)
        self._leeway = _leeway(leeway)
        self._user_claim = _name("user_claim", user_claim)
        self._meta = MetaFromClaim(meta_from_claim) if meta_from_claim is not None else None

    def identity(self, claims: Mapping[str, JSON], *, now: float) -> Identity:
        """The identity that claims give, at `now`, in seconds since the epoch.

        `expire_at` is the claim of that name where there is one (0 is never), or else `exp`.

        Raises:
            TokenExpired: if `exp` has passed.
            TokenError: if the claims break any other rule.
        """
        problem = ""
        try:
            return self._identity(claims, now)
        except InvalidValue as error:
            problem = str(error)
        raise TokenError(f"the token's claims are refused: {problem}")

    def _identity(self, claims: Mapping[str, JSON], now: float) -> Identity:
        expires = token_expires = issued = None
        if "exp" in claims:
            expires = check_time("exp", claims["exp"])
            token_expires = min(expires + self._leeway, MAX_TIME)
            if now >= token_expires:
                raise TokenExpired("the token has expired")
        if "nbf" in claims and check_time("nbf", claims["nbf"]) > now + self._leeway:
            raise TokenError("the token is not valid yet: its nbf is in the future")
        if "iat" in claims:
            issued = check_time("iat", claims["iat"])
            if issued > now + self._leeway:
                raise TokenError("the token was issued in the future: check the clocks, or leeway")
        if "iss" in claims or self.issuers is not None:
            self._check_issuer(claims)
        if "aud" in claims or self._audiences is not None:
            self._check_audience(claims)
        if "expire_at" in claims:
            expires = check_time("expire_at", claims["expire_at"])
            if expires < 0:
                raise TokenError("the token's expire_at is negative; 0 is a connection without end")
            expires = expires or None
        return Identity(
            claims.get(self._user_claim, ""),  # type: ignore[arg-type]  # checked by the record
            meta=claims.get("meta") if self._meta is None else self._meta.apply(claims),
            info=claims.get("info"),
            token_id=check_id("jti", claims["jti"]) if "jti" in claims else None,
            issued_at=issued,
            token_expires=token_expires,
            expire_at=expires,
        )

    def _check_issuer(self, claims: Mapping[str, JSON]) -> None:
        if "iss" not in claims:
            raise TokenError("the token has no iss, and an issuer is required")
        issuer = claims["iss"]
        if not isinstance(issuer, str):
            raise TokenError("the token's iss must be a string")
        if self.issuers is not None and issuer not in self.issuers:
            raise TokenError("the token's iss is not an accepted issuer")

    def _check_audience(self, claims: Mapping[str, JSON]) -> None:
        if "aud" not in claims:
            raise TokenError("the token has no aud, and an audience is required")
        claim = claims["aud"]
        audiences = claim if isinstance(claim, list) else [claim]
        if not all(isinstance(audience, str) for audience in audiences):
            raise TokenError("the token's aud must be a string or a list of strings")
        if self._audiences is None:
            raise TokenError("the token has an aud, and no audience is configured")
        if self._audiences.isdisjoint(audiences):
            raise TokenError("the token is for another audience")


def _name(what: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{what}: a name must be a string that is not empty")
    return value


def _leeway(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError("leeway must be a number of seconds")
    if not 0 <= value < math.inf:
        raise ConfigError("leeway must be finite and not negative")
    return value


def _names(what: str, value: object) -> frozenset[str]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, Iterable) or isinstance(given, (bytes, Mapping)):
        raise ConfigError(f"{what} must be a string, or several")
    names = frozenset(_name(what, name) for name in given)
    if not names:
        raise ConfigError(f"{what} must name one at least; None leaves it out")
    return names


def _path(path: object) -> tuple[str, ...]:
    steps = [""]
    characters = iter(_name("meta_from_claim", path))
    for character in characters:
        if character == ".":
            steps.append("")
            continue
        if character == "\\":
            character = next(characters, "")
            if character not in (".", "\\"):
                raise ConfigError(r"meta_from_claim: in a path, \ must stand before . or \ only")
        steps[-1] += character
    return tuple(_name("meta_from_claim", step) for step in steps)

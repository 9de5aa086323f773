"""`Settings`: each setting, and what they make."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeGuard, get_args

from ..errors import ConfigError
from ..http.app import UserSessionsApp
from ..jwks import JWKS
from ..keys import Key
from ..models import LimitPolicy, SessionLimit
from ..proxy import HttpConnectProxy
from ..sessions import AsyncUserSessions
from ..stores.memory import MemoryStore
from ..strictjson import dumps
from ..tokens import TokenVerifier

if TYPE_CHECKING:
    from ..stores.redis import RedisStore

__all__ = ["HMAC_ALGORITHM", "LOG_LEVELS", "Kind", "Settings"]

HMAC_ALGORITHM: Final = "HS256"
"""The algorithm that tokens are signed with by an HMAC secret from the settings."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
"""What `log_level` may be."""


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        wanted: how an error names it.
        accepts: whether a value is one.
        form: how it is written in an environment variable.
    """

    wanted: str
    accepts: Callable[[object], bool]
    form: Literal["text", "list", "json"] = "json"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: object) -> TypeGuard[float]:
    # Within what JSON numbers hold exactly, which keeps out NaN and infinity as well.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 2**53


def _is_integer(value: object) -> TypeGuard[int]:
    return _is_number(value) and isinstance(value, int)


_TEXT = Kind("a string that is not empty", _is_text, "text")
_LEVEL = Kind(f"one of {', '.join(LOG_LEVELS)}", lambda value: value in LOG_LEVELS, "text")
_POLICY = Kind(
    f"one of {', '.join(get_args(LimitPolicy))}",
    lambda value: value in get_args(LimitPolicy),
    "text",
)
_MEMORY = "memory"
_STORE = Kind(
    "memory, or the URL of a Redis",
    lambda value: value == _MEMORY or (isinstance(value, str) and "://" in value),
    "text",
)
_NUMBER = Kind("a number", _is_number)
_INTEGER = Kind("a whole number", _is_integer)
_COUNT = Kind("a whole number, 1 at least", lambda value: _is_integer(value) and value >= 1)
_AGE = Kind("a number, 0 at least", lambda value: _is_number(value) and value >= 0)
_PORT = Kind(
    "a whole number from 0 to 65535",
    lambda value: _is_integer(value) and value in range(65536),
)
_BOOLEAN = Kind("true or false", lambda value: isinstance(value, bool))
_TEXTS = Kind(
    "a list of strings",
    lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "list",
)
_TEXT_MAP = Kind(
    "an object of strings",
    lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
)


def _setting(
    kind: Kind, meaning: str, default: object = None, *, secret: bool = False, needs: str = ""
) -> Any:
    # A mapping is mutable, so the dataclass wants it made anew.
    metadata = {"kind": kind, "meaning": meaning, "needs": needs}
    if kind is _TEXT_MAP:
        return field(default_factory=dict, repr=not secret, metadata=metadata)
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """All settings of the server, as `load` reads them.

    `usersessions serve --help` lists what each means.

    Raises:
        ConfigError: if a setting is there without the other that it needs.

    >>> settings = Settings(token_hmac_secret_key="a secret of thirty-two bytes or more")
    >>> settings.port, settings.ping_interval
    (8000, 25)
    >>> "a secret" in repr(settings)
    False
    """

    token_hmac_secret_key: str | None = _setting(
        _TEXT, f"verifies tokens by {HMAC_ALGORITHM}; 32 bytes or more", secret=True
    )
    token_hmac_previous_secret_key: str | None = _setting(
        _TEXT, "the secret before that one, still good during a rotation", secret=True
    )
    token_hmac_previous_secret_key_until: float | None = _setting(
        _NUMBER,
        "the last second it is good, since the epoch; for ever if unset",
        needs="token_hmac_previous_secret_key",
    )
    token_public_key: str | None = _setting(
        _TEXT, "verifies tokens; in PEM", needs="token_public_key_algorithm"
    )
    token_public_key_algorithm: str | None = _setting(
        _TEXT,
        "the one algorithm of that key, such as RS256, ES256, EdDSA",
        needs="token_public_key",
    )
    token_jwks_url: str | None = _setting(
        _TEXT, "where the key set of the issuer is", secret=True, needs="token_jwks_algorithms"
    )
    token_jwks_algorithms: tuple[str, ...] = _setting(
        _TEXTS, "the algorithms that its keys may be used with", (), needs="token_jwks_url"
    )
    token_issuer: str | None = _setting(_TEXT, "the iss that tokens must have")
    token_audience: str | None = _setting(_TEXT, "the aud that tokens must have")
    token_user_claim: str = _setting(_TEXT, "the claim that is the user ID", "sub")
    token_leeway: float = _setting(_NUMBER, "seconds that the issuer's clock may be off", 0.0)
    meta_from_claim: Mapping[str, str] = _setting(
        _TEXT_MAP, 'members of meta from other claims: {"role": "user.role"}'
    )
    api_key: str | None = _setting(_TEXT, "who has it may use the server API", secret=True)
    api_keys: tuple[str, ...] = _setting(_TEXTS, "more of them, for a rotation", (), secret=True)
    connect_proxy_url: str | None = _setting(
        _TEXT, "the backend that decides on clients without a token", secret=True
    )
    connect_proxy_timeout: float = _setting(_NUMBER, "seconds that it has to answer", 1.0)
    connect_proxy_headers: tuple[str, ...] = _setting(
        _TEXTS, "the client's headers that are sent to it", (), needs="connect_proxy_url"
    )
    allow_anonymous: bool = _setting(_BOOLEAN, "let in clients without a user ID", False)
    allowed_origins: tuple[str, ...] = _setting(
        _TEXTS, "origins whose pages may connect without a token", ()
    )
    max_sessions: int | None = _setting(
        _COUNT, "how many sessions a user may have at once; any number if unset"
    )
    session_limit_policy: LimitPolicy = _setting(  # noqa: RUF009 - a field, as all of them
        _POLICY,
        "what happens when there is one more: it is refused, or another one is ended",
        "reject",
        needs="max_sessions",
    )
    session_limit_per_app: bool = _setting(
        _BOOLEAN, "count the sessions of each app name by themselves", False, needs="max_sessions"
    )
    end_others_min_age: float = _setting(
        _AGE, "seconds since its login before a session may end the user's others", 0.0
    )
    store: str = _setting(
        _STORE,
        "where sessions are: in this process alone, or shared by all that use the same Redis",
        _MEMORY,
        secret=True,
    )
    store_prefix: str = _setting(
        _TEXT,
        "what all keys in that Redis begin with; one for each app",
        "usersessions",
        needs="store",
    )
    ping_interval: int = _setting(_INTEGER, "seconds of silence before a ping, 1 to 3600", 25)
    trusted_hops: int = _setting(
        _INTEGER, "proxies of yours in front, each of which adds to X-Forwarded-For", 0
    )
    host: str = _setting(_TEXT, "the name or address to listen on", "localhost")
    port: int = _setting(_PORT, "the port to listen on; 0 lets the system choose", 8000)
    log_level: str = _setting(_LEVEL, _LEVEL.wanted, "info")

    def __post_init__(self) -> None:
        unset = {each.name for each in fields(self) if getattr(self, each.name) == each.default}
        for each in fields(self):
            other = each.metadata["needs"]
            if other in unset and each.name not in unset:
                raise ConfigError(f"{each.name} is set, and needs {other} to be set, too")

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """What each setting means, by name, with its default where it has one.

        >>> Settings.meanings()["port"]
        'the port to listen on; 0 lets the system choose (8000)'
        """
        return {
            each.name: each.metadata["meaning"]
            + (
                f" ({dumps(each.default).decode()})"
                if isinstance(each.default, (str, float, int))
                else ""
            )
            for each in fields(cls)
        }

    def verifier(self) -> TokenVerifier | None:
        """What verifies the tokens; None where no key is set.

        Raises:
            ConfigError: if a key or a rule cannot work.
            MissingExtraError: if a key needs an extra that is not installed.
        """
        keys = self._keys()
        if not keys:
            return None
        return TokenVerifier(
            keys,
            issuer=self.token_issuer,
            audience=self.token_audience,
            leeway=self.token_leeway,
            user_claim=self.token_user_claim,
            meta_from_claim=self.meta_from_claim or None,
        )

    def sessions(self) -> AsyncUserSessions:
        """The sessions of a server with these settings.

        Raises:
            ConfigError: if a setting cannot work, or none says who may connect.
            MissingExtraError: if a setting needs an extra that is not installed.
        """
        given = self.session_arguments()
        if given["verifier"] is None and given["connect_proxy"] is None:
            raise ConfigError(
                "no setting says who may connect: make a config file with `usersessions genconfig`,"
                " or set token_hmac_secret_key, token_public_key, token_jwks_url or"
                " connect_proxy_url"
            )
        return AsyncUserSessions(**given)

    def app(self) -> UserSessionsApp:
        """The server as an ASGI app.

        Raises:
            ConfigError: if a setting cannot work, or none says who may connect.
            MissingExtraError: if a setting needs an extra that is not installed.
        """
        return UserSessionsApp(self.sessions(), **self.endpoint_arguments())

    def session_arguments(self) -> dict[str, Any]:
        """What `UserSessions` and `AsyncUserSessions` alike take; both see what is in its store.

        Raises:
            ConfigError: if a setting cannot work.
            MissingExtraError: if a setting needs an extra that is not installed.
        """
        proxy = None
        if self.connect_proxy_url is not None:
            proxy = HttpConnectProxy(
                self.connect_proxy_url,
                timeout=self.connect_proxy_timeout,
                headers=self.connect_proxy_headers,
            )
        return {
            "verifier": self.verifier(),
            "connect_proxy": proxy,
            "store": self._store(),
            "allow_anonymous": self.allow_anonymous,
            "limit": self._limit(),
            "end_others_min_age": self.end_others_min_age,
        }

    def endpoint_arguments(self) -> dict[str, Any]:
        """What `UserSessionsApp` and `UserSessionsWSGI` alike take beside the sessions."""
        return {
            "api_keys": [*([] if self.api_key is None else [self.api_key]), *self.api_keys],
            "ping_interval": self.ping_interval,
            "allowed_origins": self.allowed_origins,
            "trusted_hops": self.trusted_hops,
        }

    def _store(self) -> MemoryStore | RedisStore:
        if self.store == _MEMORY:
            return MemoryStore()
        # Only here is redis needed, which is an extra.
        from ..stores.redis import RedisStore

        with _naming("store"):
            return RedisStore(self.store, prefix=self.store_prefix)

    def _limit(self) -> SessionLimit | None:
        if self.max_sessions is None:
            return None
        return SessionLimit(
            self.max_sessions,
            policy=self.session_limit_policy,
            per_app=self.session_limit_per_app,
        )

    def _keys(self) -> list[Key | JWKS]:
        keys: list[Key | JWKS] = []
        if self.token_hmac_secret_key is not None:
            with _naming("token_hmac_secret_key"):
                keys.append(Key(self.token_hmac_secret_key, algorithm=HMAC_ALGORITHM))
        if self.token_hmac_previous_secret_key is not None:
            with _naming("token_hmac_previous_secret_key"):
                until = self.token_hmac_previous_secret_key_until
                previous = self.token_hmac_previous_secret_key
                keys.append(Key(previous, algorithm=HMAC_ALGORITHM, until=until))
        if self.token_public_key is not None:
            with _naming("token_public_key"):
                algorithm = self.token_public_key_algorithm or ""
                keys.append(Key(self.token_public_key, algorithm=algorithm))
        if self.token_jwks_url is not None:
            with _naming("token_jwks_url"):
                keys.append(JWKS(self.token_jwks_url, algorithms=self.token_jwks_algorithms))
        return keys


@contextmanager
def _naming(name: str) -> Generator[None, None, None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error

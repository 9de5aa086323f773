"""The settings of the server: a JSON or TOML file, and environment variables, which win.

1. A setting is one field of `Settings`: its name, kind, default and meaning are said there once,
   and drive the file, the environment and the help.
2. A name that is no setting is refused, and so is a value of another kind: a typo never leaves a
   check undone.
3. No value appears in an error or a `repr` of a secret.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard, get_args

from .errors import ConfigError, JSONError, require
from .http.app import UserSessionsApp
from .jwks import JWKS
from .keys import Key
from .models import LimitPolicy, SessionLimit
from .proxy import HttpConnectProxy
from .sessions import AsyncUserSessions
from .strictjson import dumps, loads
from .tokens import TokenVerifier

__all__ = ["ENVIRONMENT_PREFIX", "HMAC_ALGORITHM", "LOG_LEVELS", "Settings", "load"]

ENVIRONMENT_PREFIX: Final = "USERSESSIONS_"
"""What stands before the name of a setting, in upper case, to name its environment variable."""

HMAC_ALGORITHM: Final = "HS256"
"""The algorithm that tokens are signed with by an HMAC secret from the settings."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
"""What `log_level` may be."""


class _Kind(NamedTuple):
    """A kind of value: how an error names it, and whether a value is one."""

    wanted: str
    accepts: Callable[[object], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: object) -> TypeGuard[float]:
    # Within what JSON numbers hold exactly, which keeps out NaN and infinity as well.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 2**53


def _is_integer(value: object) -> TypeGuard[int]:
    return _is_number(value) and isinstance(value, int)


_TEXT = _Kind("a string that is not empty", _is_text)
_LEVEL = _Kind(f"one of {', '.join(LOG_LEVELS)}", lambda value: value in LOG_LEVELS)
_POLICY = _Kind(
    f"one of {', '.join(get_args(LimitPolicy))}", lambda value: value in get_args(LimitPolicy)
)
_NUMBER = _Kind("a number", _is_number)
_INTEGER = _Kind("a whole number", _is_integer)
_COUNT = _Kind("a whole number, 1 at least", lambda value: _is_integer(value) and value >= 1)
_AGE = _Kind("a number, 0 at least", lambda value: _is_number(value) and value >= 0)
_PORT = _Kind(
    "a whole number from 0 to 65535",
    lambda value: _is_integer(value) and value in range(65536),
)
_BOOLEAN = _Kind("true or false", lambda value: isinstance(value, bool))
_TEXTS = _Kind(
    "a list of strings", lambda value: isinstance(value, list) and all(map(_is_text, value))
)
_TEXT_MAP = _Kind(
    "an object of strings",
    lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
)


def _setting(
    kind: _Kind, meaning: str, default: object = None, *, secret: bool = False, needs: str = ""
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
    ping_interval: int = _setting(_INTEGER, "seconds of silence before a ping, 1 to 3600", 25)
    trusted_hops: int = _setting(
        _INTEGER, "proxies of yours in front, each of which adds to X-Forwarded-For", 0
    )
    host: str = _setting(_TEXT, "the name or address to listen on", "localhost")
    port: int = _setting(_PORT, "the port to listen on; 0 lets the system choose", 8000)
    log_level: str = _setting(_LEVEL, _LEVEL.wanted, "info")

    def __post_init__(self) -> None:
        for each in fields(self):
            other = each.metadata["needs"]
            if other and getattr(self, each.name) != each.default and not getattr(self, other):
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
        verifier = self.verifier()
        proxy = None
        if self.connect_proxy_url is not None:
            proxy = HttpConnectProxy(
                self.connect_proxy_url,
                timeout=self.connect_proxy_timeout,
                headers=self.connect_proxy_headers,
            )
        if verifier is None and proxy is None:
            raise ConfigError(
                "no setting says who may connect: make a config file with `usersessions genconfig`,"
                " or set token_hmac_secret_key, token_public_key, token_jwks_url or"
                " connect_proxy_url"
            )
        return AsyncUserSessions(
            verifier,
            connect_proxy=proxy,
            allow_anonymous=self.allow_anonymous,
            limit=self._limit(),
            end_others_min_age=self.end_others_min_age,
        )

    def app(self) -> UserSessionsApp:
        """The server as an ASGI app.

        Raises:
            ConfigError: if a setting cannot work, or none says who may connect.
            MissingExtraError: if a setting needs an extra that is not installed.
        """
        return UserSessionsApp(
            self.sessions(),
            api_keys=[*([] if self.api_key is None else [self.api_key]), *self.api_keys],
            ping_interval=self.ping_interval,
            allowed_origins=self.allowed_origins,
            trusted_hops=self.trusted_hops,
        )

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


_FIELDS: Final[Mapping[str, Field[object]]] = {each.name: each for each in fields(Settings)}


def load(
    path: str | os.PathLike[str] | None, *, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read the settings from a file and from environment variables, which win.

    In a variable, `USERSESSIONS_` and the name in upper case, a string stands as it is, and all
    else as JSON; a list may also be separated by commas. Other variables of that prefix are left
    alone, as platforms set some of their own, unless their name looks like a misspelled setting.

    Args:
        path: a `.json` or `.toml` file, in UTF-8; None reads the environment alone.
        environ: the variables; None is those of this process.

    Raises:
        ConfigError: if the file cannot be read, a name is no setting, or a value is of another
            kind than its setting.
        MissingExtraError: if a TOML file is to be read by Python 3.10 without the extra `serve`.

    >>> load(None, environ={"USERSESSIONS_PORT": "9000", "USERSESSIONS_API_KEYS": "a,b"}).api_keys
    ('a', 'b')
    >>> load(None, environ={"USERSESSIONS_PROT": "9000"})
    Traceback (most recent call last):
    usersessions.errors.ConfigError: USERSESSIONS_PROT is no setting; did you mean port?
    """
    values: dict[str, object] = {}
    if path is not None:
        source = os.fsdecode(path)
        for name, value in _read(Path(source)).items():
            if name not in _FIELDS:
                hint = _suggestion(name) or "; `usersessions serve --help` lists them all"
                raise ConfigError(f"{source}: {name!r} is no setting{hint}")
            values[name] = _checked(f"{source}: {name}", _FIELDS[name], value)
    for variable, text in (os.environ if environ is None else environ).items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable[len(ENVIRONMENT_PREFIX) :].lower()
        if name in _FIELDS:
            values[name] = _checked(variable, _FIELDS[name], _parsed(_FIELDS[name], text))
        elif hint := _suggestion(name):
            raise ConfigError(f"{variable} is no setting{hint}")
    return Settings(**values)  # type: ignore[arg-type]  # each was checked by its field's kind


def _read(path: Path) -> Mapping[str, object]:
    if path.suffix not in (".json", ".toml"):
        raise ConfigError(f"{path}: the name of a config file must end in .json or .toml")
    toml = None
    if path.suffix == ".toml":
        toml = require("tomllib" if sys.version_info >= (3, 11) else "tomli", extra="serve")
    problem = ""
    parsed: object = None
    try:
        data = path.read_bytes()
        parsed = loads(data) if toml is None else toml.loads(data.decode())
    except OSError as error:
        problem = error.strerror or type(error).__name__
    except JSONError as error:
        problem = str(error)
    except (RecursionError, ValueError) as error:
        problem = f"not valid TOML: {error}"
    if problem:
        # Raised out here, since the errors above may hold the whole text of the file.
        raise ConfigError(f"{path}: {problem}")
    if not isinstance(parsed, dict):
        raise ConfigError(f"{path}: the settings must be one JSON object")
    return parsed


def _parsed(setting: Field[object], text: str) -> object:
    kind = setting.metadata["kind"]
    if kind in (_TEXT, _LEVEL, _POLICY):
        return text
    if kind is _TEXTS and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return loads(text)
    except JSONError:
        # As a string it is of no kind that is asked for here, and is refused as such.
        return text


def _checked(where: str, setting: Field[object], value: object) -> object:
    kind: _Kind = setting.metadata["kind"]
    if not kind.accepts(value):
        raise ConfigError(f"{where} must be {kind.wanted}")
    return tuple(value) if isinstance(value, list) else value


def _suggestion(name: str) -> str:
    close = get_close_matches(name, _FIELDS, n=1)
    return f"; did you mean {close[0]}?" if close else ""

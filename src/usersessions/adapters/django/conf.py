"""`USERSESSIONS` in the settings, and what it makes.

1. The names are those of `usersessions.config.Settings` in upper case. Three more, `CALLABLES`, are
   functions of the app, or the dotted paths to them.
2. A plain function runs in a thread and never on an event loop, as Django's ORM demands; an async
   one is awaited, by the sync face through asgiref.
3. A thread in which a plain function ran gives back its obsolete database connections, as it does
   after a request: it may go on to hold a stream for hours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django import conf
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import close_old_connections
from django.utils.module_loading import import_string

from ...callbacks import is_async
from ...config import of_framework
from ...errors import ConfigError, UserSessionsError
from ...http.app import UserSessionsApp
from ...http.wsgi import UserSessionsWSGI
from ...sessions import AsyncUserSessions, UserSessions

__all__ = ["CALLABLES", "Configured", "configured", "get_async_sessions", "get_sessions"]

CALLABLES = ("CONNECT_PROXY", "ON_CONNECT", "ON_DISCONNECT")
"""The settings that are functions: the arguments of the same names of either face."""

_NAME = "USERSESSIONS"


@dataclass(frozen=True)
class Configured:
    """What the settings make: two faces over one store, and what serves them.

    >>> made = Configured.of({"TOKEN_HMAC_SECRET_KEY": "a secret of thirty-two bytes or more"})
    >>> made.sessions.store is made.async_sessions.store
    True
    """

    sessions: UserSessions
    async_sessions: AsyncUserSessions
    wsgi: UserSessionsWSGI
    asgi: UserSessionsApp

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Configured:
        """Make it.

        Args:
            given: what `USERSESSIONS` is.

        Raises:
            ConfigError: if a setting cannot work, or none says who may connect.
            MissingExtraError: if a setting needs an extra that is not installed.
        """
        if not isinstance(given, Mapping):
            raise ConfigError(f"{_NAME} must be a dict")
        functions = {
            name.lower(): _function(name, given[name]) for name in CALLABLES & given.keys()
        }
        named = {name: value for name, value in given.items() if name not in CALLABLES}
        read = of_framework(named, where=_NAME, others=CALLABLES)
        arguments = read.session_arguments()
        if arguments["connect_proxy"] is not None and "connect_proxy" in functions:
            raise ConfigError("set one of CONNECT_PROXY and CONNECT_PROXY_URL, not both")
        who = (arguments["verifier"], arguments["connect_proxy"], functions.get("connect_proxy"))
        if who == (None, None, None):
            raise ConfigError(
                "no setting says who may connect: set TOKEN_HMAC_SECRET_KEY, TOKEN_PUBLIC_KEY, "
                "TOKEN_JWKS_URL, CONNECT_PROXY or CONNECT_PROXY_URL"
            )
        sync = {name: _sync(function) for name, function in functions.items()}
        awaited = {name: _async(function) for name, function in functions.items()}
        sessions = UserSessions(**{**arguments, **sync})
        async_sessions = AsyncUserSessions(**{**arguments, **awaited})
        serving = read.endpoint_arguments()
        return cls(
            sessions,
            async_sessions,
            UserSessionsWSGI(sessions, **serving),
            UserSessionsApp(async_sessions, **serving),
        )


def configured() -> Configured:
    """What the settings of this process make, once; from any thread.

    Raises:
        ImproperlyConfigured: if they cannot work.
    """
    with _making:
        return _configured()


def get_sessions() -> UserSessions:
    """The sessions, for views and other code that block.

    Call it where you use it rather than while a module is imported, as for `get_user_model`.

    Raises:
        ImproperlyConfigured: if the settings cannot work.

    >>> def kick_out(request, user):
    ...     get_sessions().block_user(user)
    """
    return configured().sessions


def get_async_sessions() -> AsyncUserSessions:
    """The same sessions, for async views.

    Raises:
        ImproperlyConfigured: if the settings cannot work.

    >>> async def devices(request):
    ...     return await get_async_sessions().user_connections("42")
    """
    return configured().async_sessions


# It may be entered again: to make the faces imports functions of the app, which may ask for them.
_making = threading.RLock()


@cache
def _configured() -> Configured:
    if not hasattr(conf.settings, _NAME):
        raise ImproperlyConfigured(f"{_NAME} is not set: it says who may connect, to begin with")
    try:
        return Configured.of(getattr(conf.settings, _NAME))
    except UserSessionsError as error:
        text = str(error)
        named = text if text.startswith(_NAME) else f"{_NAME}: {text}"
        raise ImproperlyConfigured(named) from error


def _forget(*, setting: str, **options: Any) -> None:
    if setting == _NAME:
        _configured.cache_clear()


# Django tells of settings that a test changes.
setting_changed.connect(_forget, dispatch_uid=__name__)


def _function(name: str, value: object) -> Callable[..., Any]:
    if isinstance(value, str):
        try:
            value = import_string(value)
        except ImportError as error:
            raise ConfigError(f"{name}: {error}") from error
    if not callable(value) or isinstance(value, type):
        raise ConfigError(f"{name} must be a function, or the dotted path to one")
    return value


def _sync(function: Callable[..., Any]) -> Callable[..., Any]:
    called = async_to_sync(function) if is_async(function) else function

    @wraps(function, updated=())
    def call(*arguments: Any) -> Any:
        try:
            return called(*arguments)
        finally:
            close_old_connections()

    return call


def _async(function: Callable[..., Any]) -> Callable[..., Any]:
    if is_async(function):
        return function
    return sync_to_async(_sync(function), thread_sensitive=False)

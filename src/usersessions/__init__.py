"""The active sessions of your users, in any Python web app.

Who is connected as user 42, from which app, with which private metadata; and close one of them,
all, or all but this one.
"""

from .errors import (
    CommandError,
    ConfigError,
    ConnectRefused,
    DisconnectCode,
    ErrorCode,
    InvalidValue,
    JSONError,
    KeysUnavailable,
    MissingExtraError,
    NoSuchSession,
    SessionTooYoung,
    StoreUnavailable,
    TokenError,
    TokenExpired,
    TokenRevoked,
    UserSessionsError,
)
from .jwks import JWKS
from .keys import Key
from .live import AsyncSession, Session
from .models import ConnectRequest, Disconnect, Identity, SessionLimit
from .node import NodeInfo
from .proxy import ConnectProxy, HttpConnectProxy
from .records import ConnectionInfo, Connections, OwnList, OwnSession
from .sessions import AsyncOwnSessions, AsyncUserSessions, OwnSessions, UserSessions
from .stores.base import Closed
from .stores.memory import MemoryStore
from .stores.redis import RedisStore
from .tokens import IssuerVerifiers, TokenVerifier, Verifier
from .version import __version__

__all__ = [
    "JWKS",
    "AsyncOwnSessions",
    "AsyncSession",
    "AsyncUserSessions",
    "Closed",
    "CommandError",
    "ConfigError",
    "ConnectProxy",
    "ConnectRefused",
    "ConnectRequest",
    "ConnectionInfo",
    "Connections",
    "Disconnect",
    "DisconnectCode",
    "ErrorCode",
    "HttpConnectProxy",
    "Identity",
    "InvalidValue",
    "IssuerVerifiers",
    "JSONError",
    "Key",
    "KeysUnavailable",
    "MemoryStore",
    "MissingExtraError",
    "NoSuchSession",
    "NodeInfo",
    "OwnList",
    "OwnSession",
    "OwnSessions",
    "RedisStore",
    "Session",
    "SessionLimit",
    "SessionTooYoung",
    "StoreUnavailable",
    "TokenError",
    "TokenExpired",
    "TokenRevoked",
    "TokenVerifier",
    "UserSessions",
    "UserSessionsError",
    "Verifier",
    "__version__",
]

"""What an app holds: `UserSessions` where calls block, `AsyncUserSessions` where they are awaited.

The two have the same methods, and a test holds them to it; the logic is in `operations.py`.
"""

from .aio import AsyncUserSessions
from .aio_own import AsyncOwnSessions
from .blocking import UserSessions
from .blocking_own import OwnSessions

__all__ = ["AsyncOwnSessions", "AsyncUserSessions", "OwnSessions", "UserSessions"]

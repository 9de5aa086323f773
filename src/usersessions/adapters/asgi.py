"""Plain ASGI: an app to serve or mount, and a lifespan for the app around it.

from usersessions import AsyncUserSessions, Key, TokenVerifier
from usersessions.adapters.asgi import UserSessionsApp

sessions = AsyncUserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")))
app = UserSessionsApp(sessions, api_keys=[API_KEY])
"""

from ..http.app import UserSessionsApp
from ..http.lifespan import lifespan

__all__ = ["UserSessionsApp", "lifespan"]

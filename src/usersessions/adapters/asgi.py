"""Plain ASGI: an app to serve or mount, a lifespan for the app around it, its own WebSockets.

from usersessions import AsyncUserSessions, Key, TokenVerifier
from usersessions.adapters.asgi import UserSessionsApp

sessions = AsyncUserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")))
app = UserSessionsApp(sessions, api_keys=[API_KEY])
"""

from ..http.app import UserSessionsApp
from ..http.event_streams import TrackEventStreams
from ..http.lifespan import lifespan
from ..http.tracking import TrackWebSockets, session_of

__all__ = ["TrackEventStreams", "TrackWebSockets", "UserSessionsApp", "lifespan", "session_of"]

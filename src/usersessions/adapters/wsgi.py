"""Plain WSGI: an app to serve or mount, and what has it stop with its server.

from usersessions import Key, TokenVerifier, UserSessions
from usersessions.adapters.wsgi import UserSessionsWSGI, end_with_server

sessions = UserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")))
app = UserSessionsWSGI(sessions, api_keys=[API_KEY])
end_with_server(sessions)
"""

from ..http.lifespan import end_with_server
from ..http.wsgi import UserSessionsWSGI

__all__ = ["UserSessionsWSGI", "end_with_server"]

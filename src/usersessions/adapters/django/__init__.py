"""Django, with WSGI and ASGI: an app to put into `INSTALLED_APPS`, set up by `USERSESSIONS`.

1. What the settings say is made once in a process, when it is first asked for: a sync face, an
   async one, and what serves them, all over one store.
2. To be in `INSTALLED_APPS` starts nothing: no thread, no signal handler, no connection. A server
   begins and ends where the project's `wsgi.py` or `asgi.py` says so; commands load neither.
3. Nothing is imported here that needs Django's apps to be loaded.
"""

from ...errors import require

require("django", extra="django")
from ...http.lifespan import end_with_server  # noqa: E402 - checked above
from .asgi import with_usersessions  # noqa: E402
from .conf import get_async_sessions, get_sessions  # noqa: E402
from .decorators import token_required  # noqa: E402

__all__ = [
    "end_with_server",
    "get_async_sessions",
    "get_sessions",
    "token_required",
    "with_usersessions",
]

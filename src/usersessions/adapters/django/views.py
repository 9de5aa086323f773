"""The one view behind all paths: a request of Django in, a response of Django out.

1. It is known who asks by a token or an API key alone, so that it needs no CSRF token, no login and
   no transaction around it. The connect proxy may read cookies, and then origins are checked.
2. A stream holds its thread, but no database connection: one that persists is closed as well, be it
   the middleware's or that of whoever says who connects.
3. Under ASGI, a stream is no business of Django's handler: see `asgi`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

from django.core.handlers.wsgi import WSGIRequest
from django.db import connections
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from .conf import configured

__all__ = ["serve"]

_NEEDS_ASGI = (
    "streams are served by asgi.py here: application = with_usersessions(get_asgi_application())\n"
)


@csrf_exempt
@non_atomic_requests
def serve(request: HttpRequest, path: str, **names: str) -> HttpResponseBase:
    """Answer a request.

    Args:
        request: the request.
        path: the path that it matched, as routers write it.
        names: what stands in that path.
    """
    environ = _environ(request)
    response, body = configured().wsgi.respond(environ, path.format(**names))
    status, headers = response.status, dict(response.headers)
    if isinstance(body, list):
        return HttpResponse(b"".join(body), status=status, headers=headers)
    if not isinstance(request, WSGIRequest):
        return HttpResponse(_NEEDS_ASGI, status=501, content_type="text/plain; charset=utf-8")
    return StreamingHttpResponse(_disconnected(body), status=status, headers=headers)


# For LoginRequiredMiddleware, from Django 5.1 on.
serve.login_required = False  # type: ignore[attr-defined]


def _disconnected(body: Any) -> Generator[bytes, None, None]:
    """The frames of a stream, each of which leaves its thread without a database connection."""
    with closing(body):
        for frame in body:
            for connection in connections.all(initialized_only=True):
                # In a block there is more to come, such as the rest of a test of the project's.
                if not connection.in_atomic_block:
                    connection.close()
            yield frame


def _environ(request: HttpRequest) -> dict[str, Any]:
    environ: dict[str, Any]
    if isinstance(request, WSGIRequest):
        # The very one that the server logs. What a middleware has read, Django gives again.
        environ = request.environ
        if request._read_started:  # type: ignore[attr-defined]
            environ["wsgi.input"] = request
    else:
        request.scope["query_string"] = b""  # type: ignore[attr-defined]  # an ASGIRequest
        environ = {
            **request.META,
            "wsgi.input": request,
            # All of the body is there, also where nothing said its length.
            "wsgi.input_terminated": True,
            # That other processes serve as well is what Django always says here.
            "wsgi.multiprocess": False,
        }
    return environ

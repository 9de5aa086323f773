"""Flask: an extension, for its views and for the WebSockets of flask-sock."""

from ...errors import require

require("flask", extra="flask")
require("flask_sock", extra="flask")
from ...http.lifespan import end_with_server  # noqa: E402 - checked above
from .extension import FlaskSessions  # noqa: E402

__all__ = ["FlaskSessions", "end_with_server"]

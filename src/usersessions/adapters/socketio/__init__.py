"""python-socketio: each connected socket is a session, named by its sid."""

from ...errors import require

require("socketio", extra="socketio")
from .admission import Identify  # noqa: E402 - checked above
from .tracking import DISCONNECT_EVENT, Tracking, track  # noqa: E402

__all__ = ["DISCONNECT_EVENT", "Identify", "Tracking", "track"]

"""aiohttp: an app of `aiohttp.web` that serves it all, its own WebSockets, its own endpoints."""

from ...errors import require

require("aiohttp", extra="aiohttp")
from .serving import setup  # noqa: E402 - checked above
from .tracking import current_identity, track  # noqa: E402

__all__ = ["current_identity", "setup", "track"]

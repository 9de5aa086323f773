"""Django Channels; the project is in `channels_project`."""

from __future__ import annotations

from dataclasses import replace

from .shared import daphne, uvicorn

TARGETS = {
    "channels": uvicorn("channels_project:mounted", "/rt"),
    "channels, daphne": replace(
        daphne("channels_project:application"),
        # It stumbles over requests that have just ended, before it says something.
        ended="",
    ),
}

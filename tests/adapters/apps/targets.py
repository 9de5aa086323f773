"""Where the same is served: every app, on every server that there is for it."""

from __future__ import annotations

from . import aiohttp, channels, django, fastapi, flask, plain, starlette, wsgi
from .shared import Target

WITHOUT_LOSSES: dict[str, Target] = wsgi.WITHOUT_LOSSES
"""Tried with requests alone."""

TARGETS: dict[str, Target] = {
    **plain.TARGETS,
    **wsgi.TARGETS,
    **starlette.TARGETS,
    **fastapi.TARGETS,
    **flask.TARGETS,
    **aiohttp.TARGETS,
    **channels.TARGETS,
    **django.TARGETS,
}

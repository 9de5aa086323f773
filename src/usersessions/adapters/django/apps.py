"""The app for `INSTALLED_APPS`, and the check of its settings."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from .conf import configured
from .logins import note_logins

__all__ = ["UserSessionsConfig", "check_settings"]


class UserSessionsConfig(AppConfig):
    """The app; it has no models."""

    name = "usersessions.adapters.django"
    label = "usersessions"
    verbose_name = "User sessions"

    def ready(self) -> None:
        """Have `manage.py check` look at the settings, and logins noted as they begin."""
        register(check_settings)
        note_logins()


def check_settings(**options: Any) -> list[CheckMessage]:
    """Give one error, `usersessions.E001`, if the settings cannot work."""
    try:
        configured()
    except ImproperlyConfigured as error:
        hint = "`usersessions serve --help` lists the settings; here they are in upper case."
        return [Error(str(error), hint=hint, id="usersessions.E001")]
    return []

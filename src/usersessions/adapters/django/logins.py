"""The logins of `django.contrib.auth`, each known by a note in its session, as a token by its ID.

1. The note is made as a login begins, and goes with the session at its end. It stays the same
   where Django gives the session another key, and nobody gets in with what it says.
2. A login without a note, since it is older than the note or another program made it, is known by
   its user alone: there is no way to keep it out by itself.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from django.contrib.auth import SESSION_KEY
from django.contrib.auth.signals import user_logged_in

from ...models import Identity

__all__ = ["login_of", "note_logins"]

_NOTE = "usersessions"


def note_logins() -> None:
    """Have each login noted in its session from now on; to say it again changes nothing."""
    user_logged_in.connect(_note, dispatch_uid=__name__)


def login_of(user: Any, session: Any) -> Identity:
    """The identity of a user who is logged in.

    Args:
        user: the user.
        session: the Django session of the login; None where there is none.
    """
    note = session.get(_NOTE) if _is_login_of(user, session) else None
    if note is None:
        return Identity(str(user.pk))
    return Identity(str(user.pk), token_id=note["id"], issued_at=note["at"])


def _note(sender: object, request: Any, user: Any, **options: Any) -> None:
    session: Any = getattr(request, "session", None)
    if _is_login_of(user, session):
        session[_NOTE] = {"id": secrets.token_urlsafe(16), "at": time.time()}


def _is_login_of(user: Any, session: Any) -> bool:
    # Something else may say who it is, such as a token, beside the session of another user.
    return session is not None and session.get(SESSION_KEY) == str(user.pk)

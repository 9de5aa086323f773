"""Django REST framework: its views guarded by the tokens that streams are opened with."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed
from rest_framework.request import Request

from ...http.authentication import NO_TOKEN, Refusal, authenticate
from ...http.wsgi import read_headers
from ...models import Identity
from .conf import get_sessions

__all__ = ["BearerAuthentication"]


class BearerAuthentication(BaseAuthentication):
    """Authenticates by bearer token.

    `request.auth` is the `Identity` of the token, and `request.user` the Django user whose primary
    key is the token's user ID. Without such a user, or where they are not active, the token is
    refused. If your users are elsewhere, override `user`.

    >>> class ByToken(BearerAuthentication):
    ...     def user(self, identity):
    ...         return identity
    """

    def authenticate(self, request: Request) -> tuple[Any, Identity] | None:
        """Say who asks; None where there is no bearer token, for the next class to say.

        Raises:
            AuthenticationFailed: if the token is refused.
            APIException: with status 503, if nobody can say now whether it is good.
        """
        sessions = get_sessions()
        who = sessions.run(authenticate(sessions.operations, read_headers(request.META)))
        if who is NO_TOKEN:
            return None
        if isinstance(who, Refusal):
            if who.status == 401:
                raise AuthenticationFailed(who.message)
            refused = APIException(who.message)
            refused.status_code = who.status
            raise refused
        return self.user(who), who

    def user(self, identity: Identity) -> Any:
        """What `request.user` is.

        Raises:
            AuthenticationFailed: if there is no such user.
        """
        model = get_user_model()
        try:
            user = model._default_manager.get(pk=identity.user)
        except (model.DoesNotExist, ValueError, ValidationError):
            user = None
        # A field may read other spellings of a key as well, such as "042"; here users are strings.
        if user is None or str(user.pk) != identity.user or not user.is_active:
            raise AuthenticationFailed("the token's user is not known here, or not active")
        return user

    def authenticate_header(self, request: Request) -> str:
        """What `WWW-Authenticate` says in a 401."""
        return NO_TOKEN.headers["www-authenticate"]

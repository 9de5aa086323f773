"""Who opens a connection that the app itself serves, such as a WebSocket: read from its handshake.

1. The app says who it is, where it has authenticated already; else a token does: as a bearer token,
   or, since browsers cannot set headers on a WebSocket, as the query parameter `access_token`
   (RFC 6750, 2.3); else the connect proxy.
2. Where it is not a token that says who connects, a foreign page may have had a browser send its
   cookies along: the origin is checked. That a token came as well, which says nothing then, is no
   reason not to.
3. The app says from which of its apps, where it knows; else the client does, in the query
   parameters `app_name` and `app_version`. What it may not say is its fault, and not the app's.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import unquote_plus

from ..errors import ConnectRefused, DisconnectCode, InvalidValue
from ..flows import Flow
from ..models import ConnectRequest, Identity, check_id
from ..operations import Admitted, Operations
from .authentication import bearer
from .base import Request
from .connection import check_origin, remote_address
from .endpoints import checked_hops, checked_origins

__all__ = ["Handshakes", "identity_of", "without_token"]

_PARAMETER = "access_token"


class Handshakes:
    """Decides on connections of the app's own.

    Args:
        operations: what carries it out.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`.

    Raises:
        ConfigError: if a value is outside of its bounds.
    """

    def __init__(
        self,
        operations: Operations,
        *,
        allowed_origins: Collection[str] = (),
        trusted_hops: int = 0,
    ) -> None:
        self._operations = operations
        self._allowed_origins = checked_origins(allowed_origins)
        self._trusted_hops = checked_hops(trusted_hops)

    def admit(
        self,
        request: Request,
        *,
        transport: str,
        peer: str | None,
        who: Identity | str | None = None,
        app_name: str | None = None,
        app_version: str | None = None,
    ) -> Flow[Admitted]:
        """Say who opens a connection.

        Args:
            request: the handshake; its body is not looked at.
            transport: how the connection is made, as lists show it.
            peer: the other end of the TCP connection.
            who: whom the app has authenticated: their identity, or their user ID; None asks the
                token, and without one the connect proxy.
            app_name: the client's app name; None is what the client says.
            app_version: the client's app version; None is what the client says.

        Raises:
            ConnectRefused: if they may not, or say what cannot be.
            InvalidValue: if a value of the app's is outside of its bounds.
        """
        client, headers = self._operations.node.client_ids.draw(), request.headers
        token = None if who is not None else bearer(headers) or request.parameter(_PARAMETER)
        if token is None:
            check_origin(headers, self._allowed_origins, client=client)
        asked = ConnectRequest(
            client,
            transport,
            token=token,
            name=_said(request, "app_name") if app_name is None else app_name,
            version=_said(request, "app_version") if app_version is None else app_version,
            headers=headers,
            remote_addr=remote_address(peer, headers, trusted_hops=self._trusted_hops),
            user_agent=headers.get("user-agent"),
        )
        return (yield from self._operations.admit(asked, identity=identity_of(who)))


def identity_of(who: object) -> Identity | None:
    """The identity of whom the app has authenticated; a string is a user ID.

    Raises:
        InvalidValue: if it is something else, or outside of its bounds.

    >>> identity_of("42") == Identity("42")
    True
    """
    if isinstance(who, str):
        return Identity(who)
    if who is not None and not isinstance(who, Identity):
        raise InvalidValue(
            "`who`, or what `identify` gives, must be an Identity or a user ID as a string, "
            f"not {type(who).__name__}: for example str(user.id)"
        )
    return who


def _said(request: Request, name: str) -> str | None:
    value = request.parameter(name)
    try:
        return None if value is None else check_id(name, value)
    except InvalidValue as error:
        raise ConnectRefused(DisconnectCode.BAD_REQUEST) from error


def without_token(query: str) -> str:
    """A query string without its token, for logs; undecoded, as it came.

    >>> without_token("room=5&access_token=e30.e30.c2ln")
    'room=5'
    """
    kept = [pair for pair in query.split("&") if unquote_plus(pair.partition("=")[0]) != _PARAMETER]
    return "&".join(kept)

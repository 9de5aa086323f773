"""What decides on connections without a token, and the rules that all of them keep.

1. What comes out is an `Identity` or a `ConnectRefused`, whatever the app's callable or backend
   does.
2. What comes in has the bounds that a token's claims have.
3. A decision that fails costs the client 3004, and leaves one line in the log.
4. Deciding is a flow: `Fetch` and `Call` are answered outside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..flows import Flow
from ..models import ConnectRequest, Identity

__all__ = ["ConnectProxy"]


class ConnectProxy(ABC):
    """Decides on connections without a token."""

    @abstractmethod
    def decide(self, request: ConnectRequest) -> Flow[Identity]:
        """Say who is behind a connection.

        Raises:
            ConnectRefused: if the connection may not be made.
        """

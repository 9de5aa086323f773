"""Who decides on a connection without a token: the app's own callable, or its HTTP backend."""

from .backend import ERROR_DISCONNECTS, MAX_ANSWER_BYTES, HttpConnectProxy
from .base import ConnectProxy
from .callables import (
    Call,
    CallableProxy,
    Called,
    CallFailed,
    ConnectCallable,
    as_proxy,
    call_awaited,
    call_blocking,
    check_blocking,
)

__all__ = [
    "ERROR_DISCONNECTS",
    "MAX_ANSWER_BYTES",
    "Call",
    "CallFailed",
    "CallableProxy",
    "Called",
    "ConnectCallable",
    "ConnectProxy",
    "HttpConnectProxy",
    "as_proxy",
    "call_awaited",
    "call_blocking",
    "check_blocking",
]

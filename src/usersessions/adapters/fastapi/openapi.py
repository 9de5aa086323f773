"""What the API documentation shows: each operation, its parameters, results and errors.

Nothing here reads or checks a request. The parameters of the server API are those of its commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args

from fastapi import Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, TypeAdapter

from ...commands import Command, Info, Refresh, UnblockUserCommand, UserConnections
from ...http.connection import HTTP_STREAM, SSE
from ...node import NodeInfo
from ...records import OwnSession

__all__ = ["BEARER", "Operation", "operations"]

T = TypeVar("T")

BEARER = HTTPBearer(auto_error=False, description="The connection token of a user.")
_KEY = APIKeyHeader(
    name="X-API-Key",
    scheme_name="ServerAPIKey",
    auto_error=False,
    description="A key of the server API; `Authorization: apikey KEY` serves as well.",
)


class ErrorDetail(BaseModel):
    """An error: its code, and what it means."""

    code: int
    message: str


class ErrorReply(BaseModel):
    """Why something was not done."""

    error: ErrorDetail


class Reply(BaseModel, Generic[T]):
    """What became of a command."""

    result: T


class Connection(BaseModel):
    """A connection as your server may see it; what is unset is absent."""

    app_name: str | None = None
    app_version: str | None = None
    transport: str
    protocol: str
    meta: Any = None


class ConnectionsResult(BaseModel):
    """A user's connections by client ID, oldest first; partial if there may be more."""

    connections: dict[str, Connection]
    partial: bool | None = None


class ClosedResult(BaseModel):
    """What became of the connections that were told to end, by client ID."""

    closed: list[str]
    unconfirmed: list[str]
    not_revocable: list[str]
    partial: bool | None = None


class NodesResult(BaseModel):
    """The processes that share the store."""

    nodes: list[NodeInfo]


class OwnSessionsResult(BaseModel):
    """The caller's own sessions, oldest first; partial if there may be more."""

    sessions: list[OwnSession]
    partial: bool | None = None


class Nothing(BaseModel):
    """There is nothing to say."""


class EventStream(Response):
    """The response of an SSE stream."""

    media_type = SSE.media_type


class ConnectRequest(BaseModel):
    """Who connects."""

    token: str | None = None
    data: Any = None
    name: str | None = None
    version: str | None = None
    headers: dict[str, str] | None = None


@dataclass(frozen=True)
class Operation:
    """A verb of a path, and how it is documented: what `add_api_route` takes."""

    path: str
    verb: str
    documentation: dict[str, Any]


_RESULTS: dict[type, type[BaseModel]] = {
    UserConnections: ConnectionsResult,
    Info: NodesResult,
    Refresh: Nothing,
    UnblockUserCommand: Nothing,
}

_FOR_SERVERS: dict[str, Any] = {"tags": ["server API"], "dependencies": [Security(_KEY)]}
_KEYLESS = {401: {"description": "No key, or a wrong one"}}
_FOR_USERS: dict[str, Any] = {"tags": ["own sessions"], "dependencies": [Security(BEARER)]}
_FOR_STREAMS: dict[str, Any] = {
    "tags": ["streams"],
    "description": "A `connect` frame, then pings, at the end a `disconnect` frame.",
}


def operations() -> Iterator[Operation]:
    """What is documented, in the order in which it is matched."""
    for command in get_args(Command):
        yield _operation(
            f"/api/{command.method}",
            "POST",
            command.method,
            _FOR_SERVERS,
            description=_first_sentence(command).partition(": ")[2].capitalize(),
            responses={
                200: _json(_reply(_RESULTS.get(command, ClosedResult))),
                **_KEYLESS,
                **_refused("command"),
            },
            openapi_extra=_body(command),
        )
    yield _operation(
        "/api",
        "POST",
        "commands",
        _FOR_SERVERS,
        description='`{"method": M, "params": {...}}`, one or more; each is answered with a line.',
        responses={200: _json(_reply(Any)), **_KEYLESS, **_refused("command")},
    )
    errors = {status: _json(ErrorReply) for status in (400, 401, 403, 404, 503)}
    for path, verb, name, result in (
        ("/sessions", "GET", "list_own_sessions", OwnSessionsResult),
        ("/sessions", "DELETE", "end_other_own_sessions", ClosedResult),
        ("/sessions/{client}", "DELETE", "end_own_session", ClosedResult),
    ):
        responses = {200: _json(result), **errors}
        yield _operation(path, verb, name, _FOR_USERS, responses=responses)
    for transport, verb, asked in (
        (HTTP_STREAM, "POST", _body(ConnectRequest)),
        (SSE, "POST", _body(ConnectRequest)),
        (SSE, "GET", _IN_QUERY),
    ):
        yield _operation(
            f"/connection/{transport.name}",
            verb,
            transport.name,
            _FOR_STREAMS,
            response_class=EventStream if transport is SSE else JSONResponse,
            responses={200: {"description": "The stream"}, **_refused("connect request")},
            openapi_extra=asked,
        )


_IN_QUERY = {
    "parameters": [
        {
            "name": "cf_connect",
            "in": "query",
            "description": "The connect request as JSON, for browsers, which can only GET.",
            "schema": {"type": "string"},
        }
    ]
}


def _operation(
    path: str, verb: str, name: str, shared: Mapping[str, Any], **documentation: Any
) -> Operation:
    return Operation(path, verb, {"name": name, **shared, **documentation})


def _reply(result: Any) -> Any:
    return Reply[result] | ErrorReply


def _json(model: Any) -> dict[str, Any]:
    return {"model": model}


def _refused(what: str) -> dict[int, dict[str, Any]]:
    return {
        400: {"description": f"What came is no {what}"},
        413: {"description": f"The {what} is too long"},
    }


def _body(parameters: type) -> dict[str, Any]:
    schema = TypeAdapter(parameters).json_schema()
    # References point to where FastAPI puts the schemas of what it reads itself.
    definitions = schema.pop("$defs", {})
    for name, member in schema.get("properties", {}).items():
        if "$ref" in member:
            definition = definitions[member["$ref"].rpartition("/")[2]]
            definition["description"] = definition["description"].partition("\n")[0]
            schema["properties"][name] = definition
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _first_sentence(documented: type) -> str:
    return (documented.__doc__ or "").partition("\n")[0]

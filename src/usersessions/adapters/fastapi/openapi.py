"""What the API documentation shows: each operation, its parameters, results and errors.

Nothing here reads or checks a request. The parameters of the server API are those of its commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args

from fastapi import Response, Security
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, TypeAdapter

from ...commands import Command, Info, Refresh, UnblockUserCommand, UserConnections
from ...http.connection import HTTP_STREAM, SSE
from ...node import NodeInfo
from ...records import OwnSession

__all__ = ["BEARER", "Operation", "operations"]

T = TypeVar("T")


class _Bearer(HTTPBearer):
    """What is documented of a bearer token. FastAPI's own takes no WebSocket."""

    async def __call__(self, request: HTTPConnection) -> None:
        pass


BEARER = _Bearer(scheme_name="HTTPBearer", description="The connection token of a user.")
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


class AnyCommand(BaseModel):
    """A command, by its name."""

    method: str
    params: dict[str, Any] = {}


class Batch(BaseModel):
    """Commands, each an object of one method and its parameters."""

    commands: list[dict[str, Any]]


class BatchReply(BaseModel):
    """What became of each, in the same order: an object of its method, or of `error`."""

    replies: list[dict[str, Any]]


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
    for path, name, taken, reply, description in (
        ("/api", "commands", AnyCommand, _reply(Any), "One command or more, each on a line."),
        ("/api/batch", "batch", Batch, BatchReply | ErrorReply, "Several commands in an array."),
    ):
        yield _operation(
            path,
            "POST",
            name,
            _FOR_SERVERS,
            description=f"{description} One that fails does not stop the next.",
            responses={200: _json(reply), **_KEYLESS, **_refused("command")},
            openapi_extra=_body(taken),
        )
    errors = {status: _json(ErrorReply) for status in (400, 401, 403, 404, 503)}
    for path, verb, name, parameter, result in (
        ("/sessions", "GET", "list_own_sessions", _CURRENT, OwnSessionsResult),
        ("/sessions", "DELETE", "end_other_own_sessions", _CURRENT, ClosedResult),
        ("/sessions/{client}", "DELETE", "end_own_session", _CLIENT, ClosedResult),
    ):
        responses = {200: _json(result), **errors}
        yield _operation(path, verb, name, _FOR_USERS, responses=responses, openapi_extra=parameter)
    for transport, verb, asked in (
        (HTTP_STREAM, "POST", _body(ConnectRequest)),
        (SSE, "POST", _body(ConnectRequest)),
        (SSE, "GET", _CF_CONNECT),
    ):
        yield _operation(
            f"/connection/{transport.name}",
            verb,
            transport.name,
            _FOR_STREAMS,
            response_class=EventStream if transport is SSE else JSONResponse,
            responses={
                200: {"description": "The stream"},
                **_refused("connect request", verb=verb),
            },
            openapi_extra=asked,
        )


def _parameter(place: str, name: str, description: str) -> dict[str, Any]:
    parameter = {"in": place, "name": name, "description": description, "schema": _STRING}
    return {"parameters": [{**parameter, "required": place == "path"}]}


_STRING = {"type": "string"}
_CLIENT = _parameter("path", "client", "The client ID of the session to end.")
_CURRENT = _parameter("query", "current", "The client ID of the session that asks.")
_CF_CONNECT = _parameter("query", "cf_connect", "The connect request as JSON, for browsers.")


def _operation(
    path: str, verb: str, name: str, shared: Mapping[str, Any], **documentation: Any
) -> Operation:
    return Operation(path, verb, {"name": name, **shared, **documentation})


def _reply(result: Any) -> Any:
    return Reply[result] | ErrorReply


def _json(model: Any) -> dict[str, Any]:
    return {"model": model}


def _refused(what: str, *, verb: str = "POST") -> dict[int, dict[str, Any]]:
    refused = {400: {"description": f"What came is no {what}"}}
    if verb == "POST":
        refused[408] = {"description": f"The {what} did not come in time"}
        refused[413] = {"description": f"The {what} is too long"}
        refused[415] = {"description": f"The {what} has a content encoding"}
    return refused


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

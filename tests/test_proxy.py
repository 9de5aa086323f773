"""The connect proxy: whatever a backend or callable does, an identity or a clean refusal."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.backends import (
    Behaviour,
    answers,
    backend,
    drips,
    resets,
    says,
    stays_silent,
    unused_port,
)
from usersessions.errors import ConfigError, ConnectRefused, DisconnectCode, InvalidValue
from usersessions.fetch import Fetch, Fetched, FetchFailed
from usersessions.fetchers import BlockingFetcher
from usersessions.flows import Reply, Request, arun, run
from usersessions.models import ConnectRequest, Disconnect, Identity
from usersessions.proxy import (
    Call,
    CallableProxy,
    Called,
    CallFailed,
    ConnectCallable,
    ConnectProxy,
    HttpConnectProxy,
    as_proxy,
    call_awaited,
    call_blocking,
    check_blocking,
)

URL = "https://app.example/connect"
REQUEST = ConnectRequest("c1", "uni_sse", token="token-secret", data={"d": "data-secret"})


def asked(proxy: HttpConnectProxy, request: ConnectRequest = REQUEST) -> Fetch:
    """What the proxy would send."""
    sent = next(proxy.decide(request))
    assert isinstance(sent, Fetch)
    return sent


def decided(reply: Reply, proxy: ConnectProxy | None = None) -> Identity:
    """What the proxy makes of a reply."""
    return run((proxy or HttpConnectProxy(URL)).decide(REQUEST), lambda _: reply)


def refused(reply: Reply) -> ConnectRefused:
    with pytest.raises(ConnectRefused) as caught:
        decided(reply)
    return caught.value


def result(**members: object) -> Fetched:
    return Fetched(200, json.dumps({"result": members}).encode())


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    assert {record.name for record in caplog.records} <= {"usersessions.proxy"}
    return [(record.levelname, record.getMessage()) for record in caplog.records]


# The question ------------------------------------------------------------------------------------


def test_the_backend_is_asked_with_what_is_known_of_the_connection() -> None:
    sent = asked(HttpConnectProxy(URL))
    assert (sent.url, sent.timeout, sent.max_bytes) == (URL, 1.0, 65536)
    assert sent.headers == {"content-type": "application/json"}
    assert json.loads(sent.body or b"") == {
        "client": "c1",
        "transport": "uni_sse",
        "protocol": "json",
        "encoding": "json",
        "data": {"d": "data-secret"},
    }


def test_name_version_and_data_are_sent_when_they_are_set() -> None:
    request = ConnectRequest("c1", "sse", name="web", version="1.2", data=False)
    members = json.loads(asked(HttpConnectProxy(URL, timeout=2), request).body or b"")
    assert (members["name"], members["version"], members["data"]) == ("web", "1.2", False)
    request = ConnectRequest("c1", "sse", name="", version="", data=None)
    assert not {"name", "version", "data"} & set(
        json.loads(asked(HttpConnectProxy(URL), request).body or b"")
    )


def test_only_the_named_headers_are_forwarded() -> None:
    proxy = HttpConnectProxy(URL, headers=["Cookie", "X-Tab", "x-tab", "X-Absent"])
    headers = {"cookie": "sid=1", "x-tab": " \tcaf\xe9 a\tb ", "authorization": "Bearer x"}
    sent = asked(proxy, ConnectRequest("c1", "sse", headers=headers))
    assert sent.headers == {
        "content-type": "application/json",
        "cookie": "sid=1",
        "x-tab": "caf\xe9 a\tb",
    }


@pytest.mark.parametrize(
    "value", ["a\r\nX-Admin: 1", "a\nb", "\0", "\x7f", "snow ☃", "\ud800", 1, ["a"]]
)
def test_a_header_that_cannot_be_forwarded_refuses_the_connection(value: Any) -> None:
    proxy = HttpConnectProxy(URL, headers=["cookie"])
    with pytest.raises(ConnectRefused) as caught:
        asked(proxy, ConnectRequest("c1", "sse", headers={"cookie": value}))
    assert caught.value.code == DisconnectCode.BAD_REQUEST


def test_data_without_a_json_form_refuses_the_connection() -> None:
    with pytest.raises(ConnectRefused) as caught:
        asked(HttpConnectProxy(URL), ConnectRequest("c1", "sse", data=float("nan")))
    assert caught.value.code == DisconnectCode.BAD_REQUEST


# The answer --------------------------------------------------------------------------------------


def test_a_result_is_an_identity() -> None:
    identity = decided(
        result(
            user="42",
            meta={"plan": "pro"},
            labels={"team": "a"},
            info={"name": "Ann"},
            data=[1],
            expire_at=2000000000,
            unknown=True,
        )
    )
    assert identity == Identity(
        "42",
        meta={"plan": "pro"},
        labels={"team": "a"},
        info={"name": "Ann"},
        data=[1],
        expire_at=2000000000,
    )


@pytest.mark.parametrize("members", [{}, {"user": ""}, {"expire_at": 0}])
def test_a_result_without_user_is_the_anonymous_user(members: dict[str, object]) -> None:
    assert decided(result(**members)) == Identity("")


def test_members_that_are_null_are_absent(caplog: pytest.LogCaptureFixture) -> None:
    absent = dict.fromkeys(["meta", "labels", "info", "data", "expire_at"])
    whole = {"result": {"user": "42", **absent}, "error": None, "disconnect": None}
    assert decided(Fetched(200, json.dumps(whole).encode())) == Identity("42")
    assert logged(caplog) == []


def test_a_disconnect_refuses_with_its_code_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    refusal = refused(Fetched(200, b'{"disconnect": {"code": 4501, "reason": "banned"}}'))
    assert (refusal.code, refusal.reason) == (4501, "banned")
    refusal = refused(Fetched(200, b'{"disconnect": {"code": 3000}}'))
    assert (refusal.code, refusal.reason) == (3000, "")
    assert logged(caplog) == []


@pytest.mark.parametrize(
    ("code", "disconnect"),
    [
        (101, DisconnectCode.PERMISSION_DENIED),
        (103, DisconnectCode.PERMISSION_DENIED),
        (106, DisconnectCode.CONNECTION_LIMIT),
        (107, DisconnectCode.BAD_REQUEST),
        (109, DisconnectCode.CONNECTION_EXPIRED),
        (110, DisconnectCode.CONNECTION_EXPIRED),
    ],
)
def test_an_error_refuses_with_the_disconnect_of_its_code(
    code: int, disconnect: DisconnectCode, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = refused(Fetched(200, b'{"error": {"code": %d, "message": "m"}}' % code))
    assert (refusal.code, refusal.reason) == (disconnect, disconnect.reason)
    assert logged(caplog) == []


@pytest.mark.parametrize("code", [100, 111, 1000, 2**32 - 1, 0])
def test_any_other_error_is_3004_and_logged(code: int, caplog: pytest.LogCaptureFixture) -> None:
    refusal = refused(Fetched(200, b'{"error": {"code": %d, "message": "secret"}}' % code))
    assert (refusal.code, refusal.reason) == (3004, "internal server error")
    assert logged(caplog) == [("WARNING", f"the connect proxy's backend answered error {code}")]


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (FetchFailed("timed out"), "failed: timed out"),
        (Fetched(500, b'{"result": {}}'), "answered HTTP 500"),
        (Fetched(302, b""), "answered HTTP 302"),
        (Fetched(204, b""), "answered HTTP 204"),
    ],
)
def test_a_failing_backend_is_3004_and_one_line_says_why(
    reply: Reply, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert refused(reply).code == 3004
    assert logged(caplog) == [("WARNING", f"the connect proxy's backend {what}")]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "the text is empty"),
        (b"<html>secret</html>", "Expecting value at line 1, column 1"),
        (b"\xff\xfe", "the text is not UTF-8"),
        ('{"result": {}}'.encode("utf-16"), "the text is not UTF-8"),
        (b'{"result": {}} {}', "there is more after the first value"),
        (b'{"result": {}, "result": {"user": "1"}}', "a member name stands twice"),
        (b'{"result": {"user": "1", "meta": NaN}}', "NaN and Infinity are not JSON"),
        (b'{"result": {"user": "\\ud800"}}', "a lone surrogate is not a character"),
        (b'{"result": {"meta": ' + b"[" * 20_000 + b"]" * 20_000 + b"}}", "nesting is deeper"),
        (b'{"result": {"expire_at": ' + b"9" * 5000 + b"}}", "a number has too many digits"),
        (b"[]", "the answer must be an object"),
        (b'"secret"', "the answer must be an object"),
        (b"{}", "the answer must have one of result, error and disconnect"),
        (b'{"result": null}', "the answer must have one of"),
        (b'{"result": {}, "error": {"code": 100}}', "the answer must have one of"),
        (b'{"result": {}, "disconnect": {"code": 3000}}', "the answer must have one of"),
        (b'{"result": "secret"}', "result must be an object"),
        (b'{"error": ["secret"]}', "error must be an object"),
        (b'{"disconnect": 3000}', "disconnect must be an object"),
        (b'{"result": {"user": 42}}', "user must be a string, not int"),
        (b'{"result": {"user": null}}', "user must be a string, not NoneType"),
        (b'{"result": {"user": "%s"}}' % (b"secret" * 50), "user is longer than 255 characters"),
        (b'{"result": {"meta": "%s"}}' % (b"s" * 9000), "meta is over 8192 bytes"),
        (b'{"result": {"data": "%s"}}' % (b"s" * 9000), "data is over 8192 bytes"),
        (b'{"result": {"info": "%s"}}' % (b"s" * 9000), "info is over 8192 bytes"),
        (b'{"result": {"labels": ["secret"]}}', "labels must be an object"),
        (b'{"result": {"labels": {"secret": 1}}}', "label must be a string, not int"),
        (b'{"result": {"expire_at": "secret"}}', "expire_at must be a number of seconds"),
        (b'{"result": {"expire_at": true}}', "expire_at must be a number of seconds"),
        (b'{"result": {"expire_at": false}}', "expire_at must be a number of seconds"),
        (b'{"result": {"expire_at": 1e300}}', "expire_at is out of range"),
        (b'{"disconnect": {}}', "disconnect code must be an integer"),
        (b'{"disconnect": {"code": "secret"}}', "disconnect code must be an integer"),
        (b'{"disconnect": {"code": true}}', "disconnect code must be an integer"),
        (b'{"disconnect": {"code": 1000}}', "disconnect code must be from 3000 to 4999"),
        (b'{"disconnect": {"code": 4500, "reason": 1}}', "reason must be a string, not int"),
        (
            b'{"disconnect": {"code": 4500, "reason": "%s"}}' % (b"s" * 124),
            "disconnect reason is over 123 bytes",
        ),
        (b'{"error": {}}', "error code must be an integer"),
        (b'{"error": {"code": true}}', "error code must be an integer"),
        (b'{"error": {"code": "secret"}}', "error code must be an integer"),
        (b'{"error": {"code": -1}}', "error code must be an integer"),
        (b'{"error": {"code": 4294967296}}', "error code must be an integer"),
    ],
)
def test_a_lying_backend_is_3004_and_one_line_says_what_it_lied_about(
    body: bytes, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = refused(Fetched(200, body))
    assert (refusal.code, refusal.reason) == (3004, "internal server error")
    ((level, message),) = logged(caplog)
    assert level == "WARNING"
    assert message.startswith("the connect proxy's backend gave an unusable answer: ")
    assert problem in message
    assert "secret" not in message + repr(refusal.__cause__)


def test_a_proxy_wants_the_reply_of_a_fetch() -> None:
    with pytest.raises(TypeError):
        decided(Called(Identity("42")))


# Real backends -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behave", "what"),
    [
        (stays_silent, "failed: timed out"),
        (drips(b"HTTP/1.1 200 OK\r\n", b"X-Drop: 1\r\n"), "failed: timed out"),
        (drips(b'HTTP/1.1 200 OK\r\n\r\n{"result": {}}', b" "), "failed: timed out"),
        (resets, "failed: the connection broke"),
        (says(b"secret\r\n\r\n"), "failed: answered with broken or incomplete HTTP"),
        (
            says(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"result": {}}'),
            "failed: answered with broken or incomplete HTTP",
        ),
        (answers(b"secret" * 2_000_000), "failed: answered over 65536 bytes"),
        (answers(b"secret", status="500 Internal Server Error"), "answered HTTP 500"),
        (answers(status="302 Found", headers={"Location": "/secret"}), "answered HTTP 302"),
        (
            answers(b"<html>secret</html>", headers={"Content-Type": "text/html"}),
            "gave an unusable answer: not valid JSON: Expecting value at line 1, column 1",
        ),
    ],
    ids=[
        "silence",
        "dripping headers",
        "dripping body",
        "reset",
        "garbage",
        "cut",
        "12 MB",
        "500",
        "302",
        "html",
    ],
)
def test_whatever_a_real_backend_does_the_client_is_refused_cleanly(
    behave: Behaviour, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fetcher = BlockingFetcher()
    with backend(behave) as server:
        url = server.url.replace("//", "//ann:url-secret@")
        # Only where time has to be up is it short, as machines may be busy.
        timeout = 0.3 if "timed out" in what else 30.0
        proxy = HttpConnectProxy(url, timeout=timeout, headers=["cookie"])
        request = ConnectRequest("c1", "sse", token="token-secret", headers={"cookie": "secret"})
        with pytest.raises(ConnectRefused) as caught:
            run(proxy.decide(request), fetches(fetcher))
        fetcher.close()
    assert caught.value.code == 3004
    assert logged(caplog) == [("WARNING", f"the connect proxy's backend {what}")]
    assert "secret" not in caplog.text + repr(proxy) + str(caught.value)


def test_a_backend_that_is_down_is_3004(caplog: pytest.LogCaptureFixture) -> None:
    fetcher = BlockingFetcher()
    proxy = HttpConnectProxy(f"http://127.0.0.1:{unused_port()}/")
    with pytest.raises(ConnectRefused) as caught:
        run(proxy.decide(REQUEST), fetches(fetcher))
    fetcher.close()
    assert caught.value.code == 3004
    assert logged(caplog) == [("WARNING", "the connect proxy's backend failed: connection refused")]


def test_a_real_backend_sees_the_question_and_decides() -> None:
    fetcher = BlockingFetcher()
    with backend(answers(b'{"result": {"user": "42"}}')) as server:
        proxy = HttpConnectProxy(server.url, timeout=5.0, headers=["Cookie"])
        request = ConnectRequest("c1", "sse", token="t", headers={"cookie": "sid=\xe9", "x": "y"})
        assert run(proxy.decide(request), fetches(fetcher)) == Identity("42")
        fetcher.close()
    (received,) = server.received
    assert (received.method, received.headers["content-type"]) == ("POST", "application/json")
    assert received.headers["cookie"] == "sid=\xe9"
    assert "x" not in received.headers
    assert json.loads(received.body) == {
        "client": "c1",
        "transport": "sse",
        "protocol": "json",
        "encoding": "json",
    }


def fetches(fetcher: BlockingFetcher) -> Callable[[Request], Reply]:
    def answer(request: Request) -> Reply:
        assert isinstance(request, Fetch)
        return fetcher.fetch(request)

    return answer


# Settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "app.example/secret",
        "ftp://app.example/secret",
        "https:///secret",
        "https://app.example:99999/secret",
        "https://app.example:0/secret",
        "https://[::1/secret",
        "https://app.example/secret\r\nX: 1",
        "https://app.example/a secret",
        "https://äpp.example/secret",
        b"https://app.example/secret",
        None,
    ],
)
def test_a_url_that_cannot_work_is_refused_without_showing_it(url: Any) -> None:
    with pytest.raises(ConfigError, match="must look like https://host/path") as caught:
        HttpConnectProxy(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "1", None])
def test_a_timeout_is_a_finite_number_above_0(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout must be a number of seconds above 0"):
        HttpConnectProxy(URL, timeout=timeout)


@pytest.mark.parametrize("name", ["", "a b", "a:", "cookie\n", "ü", "X: secret", 1, None])
def test_a_header_name_must_be_one(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"headers\[1\] is not a header name"):
        HttpConnectProxy(URL, headers=["ok", name])


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Content-Type", "TRANSFER-ENCODING", "connection", "TE"]
)
def test_a_header_of_the_clients_own_exchange_is_not_forwarded(name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot forward '{name}'"):
        HttpConnectProxy(URL, headers=[name])


def test_a_string_is_no_list_of_headers() -> None:
    with pytest.raises(ConfigError, match="must be a list of names"):
        HttpConnectProxy(URL, headers="cookie")


def test_authorization_comes_from_the_url_or_from_the_client_not_from_both() -> None:
    HttpConnectProxy(URL, headers=["Authorization"])
    HttpConnectProxy("https://ann:secret@app.example/", headers=["cookie"])
    with pytest.raises(ConfigError, match="drop one of the two"):
        HttpConnectProxy("https://ann:secret@app.example/", headers=["Authorization"])


# Callables ---------------------------------------------------------------------------------------


class AppError(Exception):
    """An exception of the app's own."""


IDENTITY = Identity("42", meta={"plan": "pro"})
FULL = Disconnect(4000, "full")


def returning(value: Any) -> ConnectCallable:
    def decide(request: ConnectRequest) -> Any:
        assert request is REQUEST
        return value

    return decide


def raising(error: BaseException) -> ConnectCallable:
    def decide(request: ConnectRequest) -> Identity:
        raise error

    return decide


def awaited(plain: ConnectCallable) -> ConnectCallable:
    async def decide(request: ConnectRequest) -> Any:
        return plain(request)

    return decide


class Decider:
    """An object that is an async callable."""

    async def __call__(self, request: ConnectRequest) -> Identity:
        return IDENTITY


class Plain:
    """An object that is a plain callable."""

    def __call__(self, request: ConnectRequest) -> Identity:
        return IDENTITY


async def two_arguments(extra: int, request: ConnectRequest) -> Identity:
    return Identity(str(extra))


def decide_blocking(decide: ConnectCallable) -> Identity:
    def answer(request: Request) -> Reply:
        assert isinstance(request, Call)
        return call_blocking(request)

    return run(as_proxy(decide).decide(REQUEST), answer)


def decide_awaited(decide: ConnectCallable) -> Identity:
    async def answer(request: Request) -> Reply:
        assert isinstance(request, Call)
        return await call_awaited(request)

    return asyncio.run(arun(as_proxy(decide).decide(REQUEST), answer))


def decide_async(decide: ConnectCallable) -> Identity:
    return decide_awaited(awaited(decide))


faces = pytest.mark.parametrize("decide", [decide_blocking, decide_awaited, decide_async])


@faces
def test_a_callable_may_return_an_identity(decide: Callable[[ConnectCallable], Identity]) -> None:
    assert decide(returning(IDENTITY)) is IDENTITY


@faces
def test_a_callable_may_refuse_with_a_disconnect(
    decide: Callable[[ConnectCallable], Identity], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConnectRefused) as caught:
        decide(returning(FULL))
    assert (caught.value.code, caught.value.reason) == (4000, "full")
    assert logged(caplog) == []


@faces
def test_a_callable_may_raise_connect_refused(
    decide: Callable[[ConnectCallable], Identity], caplog: pytest.LogCaptureFixture
) -> None:
    refusal = ConnectRefused(DisconnectCode.PERMISSION_DENIED)
    with pytest.raises(ConnectRefused) as caught:
        decide(raising(refusal))
    assert caught.value is refusal
    assert logged(caplog) == []


@faces
@pytest.mark.parametrize("error", [AppError("boom"), InvalidValue("x"), KeyError("k")])
def test_a_callable_that_errs_is_3004_and_logged_with_its_traceback(
    decide: Callable[[ConnectCallable], Identity],
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ConnectRefused) as caught:
        decide(raising(error))
    assert caught.value.code == 3004
    assert caught.value.__cause__ is error
    name = type(error).__name__
    assert logged(caplog) == [("ERROR", f"the connect proxy's callable raised {name}")]
    assert "in decide" in caplog.text
    assert "token-secret" not in caplog.text
    assert "data-secret" not in caplog.text


@faces
@pytest.mark.parametrize("error", [StopIteration("s"), StopAsyncIteration("s")])
def test_an_exception_that_ends_iterators_ends_nothing_here(
    decide: Callable[[ConnectCallable], Identity], error: Exception
) -> None:
    with pytest.raises(ConnectRefused) as caught:
        decide(raising(error))
    assert caught.value.code == 3004


@faces
@pytest.mark.parametrize(
    ("value", "kind"), [(None, "NoneType"), ("42", "str"), ({"user": "42"}, "dict")]
)
def test_a_callable_that_returns_something_else_is_3004_and_logged(
    decide: Callable[[ConnectCallable], Identity],
    value: object,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ConnectRefused) as caught:
        decide(returning(value))
    assert caught.value.code == 3004
    message = f"the connect proxy's callable returned {kind}, not an Identity or a Disconnect"
    assert logged(caplog) == [("ERROR", message)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(1)])
def test_what_ends_a_program_or_a_task_passes_through(error: BaseException) -> None:
    with pytest.raises(type(error)):
        call_blocking(Call(raising(error), REQUEST))
    with pytest.raises(type(error)):
        # Without an event loop, which would make more of it than the exception.
        call_awaited(Call(awaited(raising(error)), REQUEST)).send(None)


def test_a_cancellation_inside_of_a_thread_passes_through() -> None:
    with pytest.raises(asyncio.CancelledError):
        decide_awaited(raising(asyncio.CancelledError()))


@pytest.mark.parametrize(
    "decide",
    [
        awaited(returning(IDENTITY)),
        returning(IDENTITY),
        Decider(),
        Plain(),
        functools.partial(awaited(returning(IDENTITY))),
        functools.partial(functools.partial(Decider())),
        lambda request: Decider()(request),
    ],
    ids=["async", "plain", "async object", "plain object", "partial", "partials", "lambda"],
)
def test_any_kind_of_callable_can_be_awaited(decide: ConnectCallable) -> None:
    assert decide_awaited(decide) == IDENTITY


def test_a_partial_keeps_its_arguments() -> None:
    assert decide_awaited(functools.partial(two_arguments, 7)) == Identity("7")


@pytest.mark.anyio
async def test_a_plain_callable_runs_in_a_thread_with_the_callers_context() -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    tenant.set("acme")
    threads = []

    def decide(request: ConnectRequest) -> Identity:
        threads.append(threading.current_thread())
        return Identity(tenant.get())

    assert await call_awaited(Call(decide, REQUEST)) == Called(Identity("acme"))
    assert threads != [threading.current_thread()]


@pytest.mark.anyio
async def test_an_async_callable_runs_on_the_callers_event_loop() -> None:
    async def decide(request: ConnectRequest) -> Identity:
        return Identity(str(id(asyncio.get_running_loop())))

    assert await call_awaited(Call(decide, REQUEST)) == Called(
        Identity(str(id(asyncio.get_running_loop())))
    )


@pytest.mark.anyio
async def test_cancelling_a_connect_cancels_the_async_callable() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def decide(request: ConnectRequest) -> Identity:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()
        return IDENTITY

    task = asyncio.create_task(call_awaited(Call(decide, REQUEST)))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_a_blocking_caller_cannot_await_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Later:
        def __await__(self) -> Any:
            raise NotImplementedError

    later: list[Callable[[ConnectRequest], Awaitable[Identity]]] = [
        Decider().__call__,
        lambda request: Later(),
    ]
    for decide in later:
        with pytest.raises(ConnectRefused) as caught:
            decide_blocking(decide)
        assert caught.value.code == 3004
    message = "the connect proxy's callable returned an awaitable, which UserSessions cannot await"
    assert logged(caplog) == [("ERROR", message)] * 2


@pytest.mark.parametrize("decide", [Decider(), awaited(returning(IDENTITY)), Decider().__call__])
def test_an_async_callable_is_refused_where_nobody_can_await_it(decide: ConnectCallable) -> None:
    with pytest.raises(ConfigError, match=r"UserSessions cannot await: .* use AsyncUserSessions"):
        check_blocking(as_proxy(decide))


def test_what_does_not_need_awaiting_may_be_asked_by_blocking_callers() -> None:
    for proxy in (as_proxy(Plain()), HttpConnectProxy(URL), None):
        check_blocking(proxy)


def test_a_proxy_is_taken_as_it_is() -> None:
    proxy = HttpConnectProxy(URL)
    assert as_proxy(proxy) is proxy


@pytest.mark.parametrize("thing", [HttpConnectProxy, Plain, Identity])
def test_a_class_in_place_of_an_instance_is_refused(thing: Any) -> None:
    with pytest.raises(ConfigError, match=f"an instance, not the class {thing.__name__}"):
        as_proxy(thing)


@pytest.mark.parametrize("thing", [None, URL, 42, Identity("42")])
def test_what_cannot_be_asked_is_no_proxy(thing: Any) -> None:
    with pytest.raises(ConfigError, match=f"takes a ConnectRequest, not {type(thing).__name__}"):
        as_proxy(thing)


def test_a_call_wants_its_own_kind_of_reply() -> None:
    with pytest.raises(TypeError, match="expected the reply of a call, got FetchFailed"):
        decided(FetchFailed("x"), CallableProxy(returning(IDENTITY)))


def test_no_repr_shows_what_is_secret() -> None:
    shown = repr(Call(returning(IDENTITY), REQUEST)) + repr(CallFailed("x", AppError("secret")))
    assert "secret" not in shown + repr(Called(Identity("42", meta="secret")))

"""What the page on deploying says of proxies and servers is what they do."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import hypercorn
import uvicorn

from tests.pages import blocks
from tests.servers import python
from tests.test_docs_tables import read, table
from usersessions.config import Settings
from usersessions.http.base import MAX_BODY_BYTES
from usersessions.http.blocking import UNSEEN_PING_INTERVAL
from usersessions.http.silence import ASK_AFTER, ASK_EVERY, ASK_TIMES, MAX_UNACKNOWLEDGED

PAGE = "deploy.md"


# Proxies --------------------------------------------------------------------------------------


def nginx() -> str:
    """The configuration that is shown."""
    (shown,) = (block.code for block in blocks(read(PAGE)) if block.language == "nginx")
    return shown


def mapped(value: str, *, by: str) -> str:
    """What a `map` of nginx's makes of a value; `by` is its head."""
    (rules,) = re.findall(
        rf"^map {re.escape(by)} \{{\n(.*?)^\}}", nginx(), re.DOTALL | re.MULTILINE
    )
    results = dict(re.findall(r"^ +(\S+) (\S+);$", rules, re.MULTILINE))
    default = results.pop("default")
    for pattern, result in results.items():
        if pattern.startswith("~*"):
            if re.search(pattern[2:], value, re.IGNORECASE):
                return str(result)
        elif pattern.strip('"') == value:
            return str(result)
    return str(default).strip('"')


def test_what_nginx_needs_is_in_its_configuration() -> None:
    shown = nginx()
    root, api = re.findall(r"^    location (.*?)^    \}", shown, re.DOTALL | re.MULTILINE)
    for line in (
        "proxy_set_header Host $http_host;",
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        "proxy_set_header Upgrade $upgrade;",
        "proxy_set_header Connection $connection_upgrade;",
        "proxy_http_version 1.1;",
    ):
        assert line in root
    timeout = re.search(r"proxy_read_timeout (\d+)s;", root)
    assert timeout and int(timeout[1]) > Settings().ping_interval
    matched = re.match(r"~ (\S+) \{\s*return 404;", api)
    assert matched
    paths = ["/api", "/api/disconnect", "/apidocs", "/sessions"]
    assert [bool(re.search(matched[1], path)) for path in paths] == [True, True, False, False]
    log_format = re.search(r"log_format paths '(.*)';", shown)
    assert log_format and re.search(r"access_log \S+ paths;", shown)
    assert not re.search(r"\$(request|request_uri|args|query_string)\b", log_format[1])


def test_nginx_lets_clients_upgrade_to_websockets_and_to_nothing_else() -> None:
    websocket, nothing = ("websocket", "upgrade"), ("", "close")
    for asked, passed_on in {
        "websocket": websocket,
        "WebSocket": websocket,
        **dict.fromkeys(["", "h2c", "websocket, h2c", "h2c,websocket", "TLS/1.0"], nothing),
    }.items():
        upgrade = mapped(asked, by="$http_upgrade $upgrade")
        assert (upgrade, mapped(upgrade, by="$upgrade $connection_upgrade")) == passed_on
    # What the client itself sends goes into the map, and nowhere else.
    assert nginx().count("$http_upgrade") == 1


# Servers --------------------------------------------------------------------------------------


def daphne() -> dict[str, Any]:
    """What daphne does unless it is told otherwise; importing it here would install a reactor."""
    code = (
        "import inspect, json; from daphne.server import Server\n"
        "parameters = inspect.signature(Server.__init__).parameters.values()\n"
        "known = {one.name: one.default for one in parameters if isinstance(one.default, int)}\n"
        "print(json.dumps(known))"
    )
    found = subprocess.run(
        python("-c", code), check=True, capture_output=True, text=True, timeout=60
    )
    defaults: dict[str, Any] = json.loads(found.stdout)
    return defaults


def test_the_limits_of_websocket_messages_are_those_of_the_servers() -> None:
    heading = "The size of WebSocket messages"
    limit = 70000
    assert MAX_BODY_BYTES < limit < 2 * MAX_BODY_BYTES
    assert f"a connect request, which is {MAX_BODY_BYTES} bytes at most" in read(PAGE)

    sizes = (
        uvicorn.Config("app:app").ws_max_size,
        hypercorn.Config().websocket_max_message_size,
        # Before 4.2.2, daphne has no limit.
        daphne().get("websocket_max_message_size", 1 << 20),
    )
    options = (
        f"`--ws-max-size {limit}`",
        f"`websocket_max_message_size = {limit}`",
        f"`--websocket-max-message-size {limit}`",
    )
    assert [(size, option.partition(",")[0]) for _, size, option in table(PAGE, heading)] == [
        (f"{size >> 20} MiB", option) for size, option in zip(sizes, options, strict=True)
    ]
    command = python("-m", "uvicorn", "--help")
    assert "--ws-max-size" in subprocess.check_output(command, text=True, timeout=60)


def test_how_long_a_client_that_vanished_is_listed_follows_from_what_the_system_is_told() -> None:
    rows = {row[0]: row[1] for row in table(PAGE, "Clients that vanish")}
    text = read(PAGE)
    asked = ASK_AFTER + ASK_EVERY * ASK_TIMES
    assert f"may stay unacknowledged for {MAX_UNACKNOWLEDGED} s. On what is tracked" in text
    assert f"of yours it may be {asked} s" in text
    assert f"from the {ASK_AFTER}th second on, and four times" in text and ASK_TIMES == 4
    # Something may be sent just before the system would have given the connection up.
    slowest = max(Settings().ping_interval + MAX_UNACKNOWLEDGED, 2 * asked)
    assert rows["streams, and all that is tracked of yours"] == f"{slowest} s"
    # It looks when a ping is due, and the bound is over before the second one.
    assert rows["streams on gunicorn's gevent workers"] == f"{2 * UNSEEN_PING_INTERVAL} s"

    config, defaults = uvicorn.Config("app:app"), daphne()
    assert config.ws_ping_interval and config.ws_ping_timeout
    by_uvicorn = config.ws_ping_interval + config.ws_ping_timeout
    # It looks every 2 s whether a ping is due.
    by_daphne = defaults["ping_interval"] + 2 + defaults["ping_timeout"]
    (by_hand,) = (found for name, found in rows.items() if "sessions.connect" in name)
    assert f"uvicorn pings, and waits {by_uvicorn:g} s; daphne {by_daphne} s" in by_hand
    _, websocket, polling = next(row for row in socketio_pings() if row[0].endswith("the defaults"))
    (by_socketio,) = (found for name, found in rows.items() if "python-socketio" in name)
    assert by_socketio == f"{websocket}; polling {polling}"


def socketio_pings() -> list[tuple[str, ...]]:
    """The rows of the second table of the page on Socket.IO that is on how a socket ends."""
    text = read("frameworks/socketio.md")
    (rows,) = re.findall(
        r"^\| \| WebSocket \| polling.*\n\|[-|]*\n((?:\|.*\n)+)", text, re.MULTILINE
    )
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows.splitlines()]

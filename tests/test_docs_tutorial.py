"""The commands of the tutorial, as they stand there, give the answers that stand under them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import quote

from websockets.sync.client import connect

import usersessions
from tests.conftest import Serve
from tests.servers import python, until

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"
SERVER = "http://localhost:8000"

# What differs from one walk to the next, and how it is written for a comparison.
_VARIES = {
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "CLIENT",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(,\d+)?": "TIME",
    r"in (1h0m0s|59m5\ds)": "in an hour",
    r"eyJ[\w.-]+": "TOKEN",
    r"localhost:\d+": "HOST",
    r'"ttl":\d+': '"ttl":TTL',
    rf'"version":"{re.escape(usersessions.__version__)}"': '"version":"VERSION"',
}


def steps() -> dict[int, list[str]]:
    """The blocks of each step, in order."""
    parts = re.split(r"^## (\d)\. .*\n", TUTORIAL.read_text(), flags=re.MULTILINE)[1:]
    return {
        int(number): re.findall(r"^```\w+\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)
        for number, part in zip(parts[::2], parts[1::2], strict=True)
    }


def settled(text: str) -> str:
    for pattern, name in _VARIES.items():
        text = re.sub(pattern, name, text)
    return text.strip()


@dataclass(frozen=True)
class Walk:
    """A user on the walk: where, with which environment, and what stands for the placeholders."""

    folder: Path
    env: dict[str, str]
    known: dict[str, str] = field(default_factory=dict)

    def filled(self, command: str) -> str:
        command = command.replace("\\\n", " ")  # a shell joins such lines, shlex does not
        for placeholder, value in self.known.items():
            command = command.replace(placeholder, value)
        return command

    def run(self, command: str) -> str:
        """Run a command of `usersessions` to its good end; what it prints."""
        name, *arguments = shlex.split(self.filled(command))
        assert name == "usersessions"
        return subprocess.run(
            python("-m", name, *arguments),
            cwd=self.folder,
            env={**os.environ, **self.env},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    def request(self, command: str) -> urllib.request.Request:
        """The request that a `curl` makes."""
        name, *words = shlex.split(self.filled(command))
        assert name == "curl"
        headers: dict[str, str] = {}
        url, data = "", ""
        while words:
            word = words.pop(0)
            if word == "--header":
                header, _, value = words.pop(0).partition(": ")
                headers[header] = value
            elif word in ("--data", "--data-urlencode"):
                data = words.pop(0)
            elif word in ("-X", "--request"):
                assert words.pop(0) == "POST"
            elif word not in ("-N", "--get"):
                url = word
        if "--get" in command:
            parameter, _, value = data.partition("=")
            return urllib.request.Request(f"{url}?{parameter}={quote(value)}")
        return urllib.request.Request(url, data.encode(), headers)

    def ask(self, command: str) -> str:
        """What a `curl` of the API prints."""
        with urllib.request.urlopen(self.request(command), timeout=30) as response:
            return str(response.read().decode())

    @contextmanager
    def terminal(self, command: str) -> Iterator[HTTPResponse]:
        """A `curl` of a stream, which goes on."""
        with urllib.request.urlopen(self.request(command), timeout=30) as response:
            yield response


def line(stream: HTTPResponse) -> str:
    """The next line of a stream that is not empty."""
    while not (found := stream.readline().decode().strip()):
        pass
    return found


def client(frame: str | bytes) -> str:
    found: str = json.loads(frame)["connect"]["client"]
    return found


def test_the_tutorial_goes_as_it_says(serve: Serve, tmp_path: Path) -> None:
    shown = steps()
    source = str(Path(usersessions.__file__).parent.parent)
    walk = Walk(tmp_path, {"PYTHONPATH": source})

    genconfig, wrote = shown[1]
    assert walk.run(genconfig) == wrote
    config = tmp_path / "config.json"
    walk.known["<API_KEY>"] = json.loads(config.read_text())["api_key"]

    gentoken, made, gentoken_with_more, checktoken, checked = shown[2]
    walk.known["<JWT>"] = walk.run(gentoken_with_more).split()[-1]
    assert settled(walk.run(checktoken)) == settled(checked)
    token = walk.run(gentoken)
    assert settled(token) == settled(made)
    walk.known["<JWT>"] = token.split()[-1]

    start, started = shown[3]
    command = shlex.split(start.replace("config.json", str(config)))
    server = serve(python("-m", *command, "--port", "0"), env=walk.env)
    assert settled(server.output) == settled(started)
    walk.known[SERVER] = server.url
    walk.known[SERVER.replace("http", "ws")] = server.url.replace("http", "ws")

    stream, greeting = shown[4]
    listing, listed = shown[5]
    (goodbye,) = shown[6]
    sse, event, websockets, typed = shown[7]
    close_one, closed, last, close_others = shown[8]
    with ExitStack() as held:
        first = held.enter_context(walk.terminal(stream))
        second = held.enter_context(walk.terminal(stream))
        frames = [line(first), line(second)]
        assert [settled(frame) for frame in frames] == [settled(greeting)] * 2
        assert settled(walk.ask(listing)) == settled(listed)

        browser = held.enter_context(walk.terminal(sse))
        assert settled(line(browser)) == settled(event)
        socket = held.enter_context(connect(walk.filled(websockets).split()[-1]))
        socket.send(walk.filled(typed))
        socket_client = client(socket.recv(timeout=30))
        entries = json.loads(walk.ask(listing))["result"]["connections"].values()
        transports = [entry["transport"] for entry in entries]
        assert transports == ["uni_http_stream"] * 2 + ["uni_sse", "uni_websocket"]

        walk.known["<client>"] = client(frames[0])
        assert settled(walk.ask(close_one)) == settled(closed)
        assert [line(first), first.read()] == [last.strip(), b""]

        walk.known["<client>"] = socket_client
        walk.ask(close_others)
        logged_out = '{"disconnect":{"code":4500,"reason":"logged out"}}'
        assert [line(second), line(browser)] == [logged_out, f"data: {logged_out}"]
        until(lambda: walk.ask(listing).count("transport") == 1, what="the others to be gone")

        assert server.stop() in (0, -15)
        assert socket.recv(timeout=30) == goodbye.strip()

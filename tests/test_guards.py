"""The guards themselves: a test that does what no test may do fails."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = """
    pytest_plugins = ["tests.guards"]

    import tests.guards

    tests.guards.BLOCKED_SECONDS = 0.4
    tests.guards.GRACE_SECONDS = 0.4
"""


def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, test: str) -> pytest.RunResult:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider")


def test_a_test_that_blocks_its_event_loop_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(
        pytester,
        monkeypatch,
        """
        import time, pytest

        @pytest.mark.anyio
        async def test_blocking():
            time.sleep(0.5)

        @pytest.mark.anyio
        async def test_quick():
            pass
        """,
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*the test blocked its event loop: Executing *"])


def test_a_test_that_leaves_a_task_running_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(
        pytester,
        monkeypatch,
        """
        import asyncio, pytest

        @pytest.mark.anyio
        async def test_leaving():
            test_leaving.task = asyncio.create_task(asyncio.Event().wait())

        @pytest.mark.anyio
        async def test_tidy():
            task = asyncio.create_task(asyncio.Event().wait())
            task.cancel()
        """,
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*the test left tasks running: *Event.wait*"])


def test_a_test_that_leaves_a_thread_running_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(
        pytester,
        monkeypatch,
        """
        import threading

        def test_leaving():
            threading.Thread(target=threading.Event().wait, name="left", daemon=True).start()

        def test_tidy():
            thread = threading.Thread(target=int)
            thread.start()
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the test left threads running: left"])

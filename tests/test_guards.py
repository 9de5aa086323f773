"""The guards themselves: a test that does what no test may do fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.servers import UNMEASURED

CONFTEST = """
    pytest_plugins = ["tests.guards"]

    import tests.guards

    tests.guards.BLOCKED_SECONDS = 0.4
    tests.guards.GRACE_SECONDS = 0.4
"""

TESTS = """
    import asyncio, threading, time, pytest

    @pytest.mark.anyio
    async def test_blocking():
        time.sleep(0.5)

    @pytest.mark.anyio
    async def test_quick():
        pass

    @pytest.mark.anyio
    async def test_leaving_a_task():
        test_leaving_a_task.task = asyncio.create_task(asyncio.Event().wait())

    @pytest.mark.anyio
    async def test_ending_its_task():
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()

    def test_leaving_a_thread():
        threading.Thread(target=threading.Event().wait, name="left", daemon=True).start()

    def test_ending_its_thread():
        thread = threading.Thread(target=int)
        thread.start()
"""


def test_a_test_that_blocks_its_loop_or_leaves_something_running_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("COLUMNS", "200")
    for name, value in UNMEASURED.items():
        monkeypatch.setenv(name, value)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_inner=TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, failed=2, errors=1)
    said = [
        "FAILED *::test_blocking - Failed: the test blocked its event loop: Executing *",
        "FAILED *::test_leaving_a_task - Failed: the test left tasks running: *Event.wait*",
        "ERROR *::test_leaving_a_thread - Failed: the test left threads running: left",
    ]
    result.stdout.fnmatch_lines_random(said)


@pytest.mark.anyio
async def test_a_loop_refuses_calls_from_other_threads() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="Non-thread-safe"):
        await asyncio.to_thread(loop.call_soon, print)

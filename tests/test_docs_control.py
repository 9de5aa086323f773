"""The app that the page on closing shows: its endpoints, asked as a browser would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from tests.test_docs_code import blocks, execute

PAGE = Path(__file__).parent.parent / "docs" / "control.md"


def shown() -> dict[str, Any]:
    """The names that the page makes, up to its app."""
    names: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(PAGE.read_text()):
        if "app" not in names:
            execute(block, str(PAGE), names)
    return names


@pytest.mark.anyio
async def test_a_token_that_was_invalidated_opens_neither_a_socket_nor_an_endpoint() -> None:
    page = await anyio.to_thread.run_sync(shown)
    transport = httpx.ASGITransport(app=page["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:

        async def ask(method: str, path: str, token: str) -> httpx.Response:
            return await client.request(method, path, headers={"Authorization": f"Bearer {token}"})

        token = page["login"]("8")
        assert (await ask("GET", "/me", token)).json() == {"user": "8"}
        assert (await ask("POST", "/logout-everywhere", token)).json() == {"ended": 0}
        refused = await ask("GET", "/me", token)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert await page["device"](token) == 3500
        assert (await ask("GET", "/me", page["login"]("8"))).status_code == 200

"""Names of devices, with ua-parser and without."""

from __future__ import annotations

import sys

import pytest

from usersessions.devices import device_name

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (FIREFOX, "Firefox on Windows"),
        (SAFARI, "Mobile Safari on iOS"),
        ("curl/8.5.0", "curl"),
        ("something of its own", "something of its own"),
        ("", ""),
        (None, None),
    ],
)
def test_a_device_has_a_short_name(user_agent: str | None, name: str | None) -> None:
    assert device_name(user_agent) == name


def test_without_the_extra_the_string_is_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ua_parser", None)
    device_name.cache_clear()
    assert device_name(FIREFOX) == FIREFOX
    device_name.cache_clear()

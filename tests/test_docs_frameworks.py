"""The page of each framework, followed as a new user does; and that such a walk notices errors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import usersessions
from tests.pages import Comparison
from tests.walks import follow

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs/frameworks").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_new_user_who_follows_a_page_gets_what_it_shows(page: Path, tmp_path: Path) -> None:
    follow(page.read_text(), str(page.relative_to(ROOT)), tmp_path)


# The walk itself ------------------------------------------------------------------------------

PAGE = """
```sh
pip install "usersessions[serve]" pyjwt
```

```text title="texts/hello.txt"
Hello on port 8000.
```

```python title="greeting.py"
print("served in", __file__, flush=True)
```

```python title="server.py"
import http.server
import jwt
import greeting
http.server.test(http.server.SimpleHTTPRequestHandler, port=8000, bind="127.0.0.1")
```

<!-- try -->
```sh
export NAME=hello
```

<!-- serve -->
```sh
python server.py 8000 &
```

<!-- try -->
```sh
curl --silent http://localhost:8000/texts/$NAME.txt
```

```text
Hello on ...8000.
```

<!-- try -->
```sh
(printf one; sleep 0.3; echo -two) > later.txt &
```

<!-- try -->
```sh
cat later.txt
```

```text
one-two
```

Not run, for it has no mark:

```sh
rm -rf /no/such/folder
```
"""


def followed(tmp_path: Path, old: str = "", new: str = "") -> str:
    """What is said of a page in which something was replaced; nothing if all is well."""
    assert old in PAGE
    try:
        follow(PAGE.replace(old, new) if old else PAGE, "docs/page.md", tmp_path)
    except AssertionError as failure:
        return str(failure)
    return ""


def test_a_page_that_shows_what_happens_is_followed_to_its_end(tmp_path: Path) -> None:
    assert followed(tmp_path) == ""


def test_a_second_server_of_a_page_is_in_place_of_the_first(tmp_path: Path) -> None:
    again = "<!-- serve -->\n```sh\npython server.py 8000 &\n```\n"
    assert followed(tmp_path, "Not run, for it has no mark:\n", again) == ""


def test_a_page_that_needs_redis_has_one(tmp_path: Path) -> None:
    ping = "import redis; redis.Redis.from_url('redis://localhost:6379').ping()"
    assert followed(tmp_path, "export NAME=hello", f'export NAME=hello; python -c "{ping}"') == ""


def test_nothing_of_a_page_runs_on_after_it(tmp_path: Path) -> None:
    ours = f"sleep 600.{os.getpid()}"
    new = f"{ours} &\necho wrong\n"
    assert followed(tmp_path, "curl --silent http://localhost:8000/texts/$NAME.txt\n", new)
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert ours not in left
    assert str(tmp_path) not in left


def test_an_output_that_differs_fails_with_all_there_is_to_see(tmp_path: Path) -> None:
    failure = followed(tmp_path, "Hello on ...8000.\n", "Good day.\n")
    assert failure.startswith("docs/page.md, line 33:\ncurl --silent http://localhost:")
    assert "--- shown:\nGood day.\n" in failure
    assert "--- came (status 0):\nHello on port " in failure
    assert "--- the server's output:\nserved in " in failure
    assert '"GET /texts/hello.txt HTTP/1.1" 200' in failure


def test_an_output_that_does_not_come_in_the_end_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.walks.POLL_SECONDS", 0.5)
    assert "--- came (status 0):\none-two\n" in followed(tmp_path, "one-two", "three")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[serve]", "[saddle]", "usersessions has no extra 'saddle', but: "),
        ("pyjwt", "no-such-thing", "no-such-thing is not installed where the tests run"),
        ("import jwt", "import pytest", "the page's pip install does not bring pytest"),
        ("python server", "pytest server", "does not bring the program pytest"),
        ("python server.py", "python -m pytest", "does not bring pytest"),
        ("8000 &", "8000", "it must end in ` &`"),
        ("server.py 8000", "server.py", "it must say that the port is 8000"),
        ("import greeting\n", "raise SystemExit('gone')\n", "the server has ended"),
        ("import greeting\n", "raise SystemExit('gone')\n", "--- the server's output:\ngone\n"),
        ("(printf one", "echo one; (printf", "--- came (status 0):\none\n"),
        ("export NAME=hello", "curl --silent localhost:1", "--- came (status 7):\n"),
        ("export NAME=hello", "cat nothing", "nothing: No such file or directory"),
        ("export NAME=hello", "exit 3", "this ended the shell"),
        ("(printf one", "kill %1; (printf one", "the server had ended by itself"),
    ],
)
def test_a_page_on_which_something_does_not_work_fails(
    tmp_path: Path, old: str, new: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.walks.POLL_SECONDS", 0.5)
    assert said in followed(tmp_path, old, new)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("pip install", "pip3 install", "no `pip install`"),
        (" title=", " headline=", "no file with its title"),
        ("<!-- serve -->", "Serve:", "no command to serve"),
        ("<!-- try -->", "Try:", "no command to try with its output"),
        ("<!-- serve -->", "<!-- serve -->\n\nServe:", "a mark without a block under it"),
        ("```sh\ncat", "```bash\ncat", "a mark on what is no sh"),
    ],
)
def test_a_page_without_one_of_its_parts_fails(
    tmp_path: Path, old: str, new: str, part: str
) -> None:
    assert followed(tmp_path, old, new) == f"docs/page.md has {part}"


FIRST, SECOND = "8b232613-302c-4232-b6c6-bca0316e3895", "adae3a89-a6e9-4a12-b05d-3d1ff2204163"


@pytest.mark.parametrize(
    ("shown", "came", "same"),
    [
        ("one ... three\n", "one two\ntwo three", True),
        ("one ... three", "one two", False),
        ("a.c", "abc", False),
        (f"{FIRST} {FIRST}", f"{SECOND} {SECOND}", True),
        (f"{FIRST} {FIRST}", f"{FIRST} {SECOND}", False),
        ("eyJhb.eyJz.4f_-", "eyJhc.eyJw.0-_A", True),
        ("eyJhb...", "token", False),
        ('"ttl":604791,"last_seen":1.5', '"ttl":3,"last_seen":1795534610.25', True),
        ('"code":3001', '"code":3503', False),
        ('"version":"0.0.1"', f'"version":"{usersessions.__version__}"', True),
        ('"version":"0.0.1"', '"version":"0.0.1"', usersessions.__version__ == "0.0.1"),
    ],
)
def test_what_varies_may_differ_and_nothing_else(shown: str, came: str, same: bool) -> None:
    assert Comparison().agrees(shown, came) is same


def test_an_id_that_was_seen_stands_for_the_same_one_on_all_of_a_page() -> None:
    comparison = Comparison()
    assert comparison.agrees(f"listed {FIRST}", f"listed {SECOND}")
    assert not comparison.agrees(f"closed {FIRST}", f"closed {FIRST}")
    assert comparison.agrees(f"closed {FIRST}", f"closed {SECOND}")

"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

import usersessions
from tests.backends import answers, backend
from tests.servers import python
from usersessions import Key, TokenVerifier, __version__
from usersessions.cli import main

SECRET = "swordfish-" * 5
JWT = r"[\w-]+\.[\w-]+\.[\w-]+"


@dataclass(frozen=True)
class Done:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def token(self) -> str:
        return self.out.splitlines()[-1]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the command in this process."""

    def call(*arguments: str) -> Done:
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as end:
            assert isinstance(end.code, int)
            status = end.code
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def _in_a_folder_without_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    # The package may be found by a path that the change of folder breaks.
    monkeypatch.setenv("PYTHONPATH", str(Path(usersessions.__file__).parent.parent))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("USERSESSIONS_")]:
        monkeypatch.delenv(name)
    yield
    for name in ("usersessions", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def configure(name: str = "config.json", **settings: object) -> None:
    Path(name).write_text(json.dumps({"token_hmac_secret_key": SECRET, **settings}))


def claims_of(token: str, **options: Any) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, SECRET, algorithms=["HS256"], **options)
    return claims


def assert_fails(done: Done, sentence: str) -> None:
    """It fails with this one line, and prints nothing else."""
    assert (done.status, done.out, done.err) == (1, "", f"usersessions: {sentence}\n")


# The command itself ---------------------------------------------------------------------------


def test_it_tells_its_version(run: Callable[..., Done]) -> None:
    assert run("--version") == Done(0, f"usersessions {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("no-such-command",),
        ("gentoken",),
        ("gentoken", "-u", "42", "-t", "0"),
        ("gentoken", "-u", "42", "-t", "soon"),
        ("gentoken", "-u", "42", "-t", "9" * 5000),
        ("checktoken",),
        ("serve", "--port", "65536"),
        ("serve", "--port", "-1"),
    ],
)
def test_wrong_arguments_are_explained_with_status_2(
    run: Callable[..., Done], arguments: tuple[str, ...]
) -> None:
    done = run(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("usage: usersessions")
    assert "error: " in done.err


def test_the_help_of_serve_lists_every_setting_with_its_default(run: Callable[..., Done]) -> None:
    done = run("serve", "--help")
    assert done.status == 0
    assert re.search(r"^  token_hmac_secret_key +verifies tokens by HS256", done.out, re.M)
    assert re.search(r"^  ping_interval +seconds .*\(25\)$", done.out, re.M)
    assert re.search(r'^  host +the name .*\("localhost"\)$', done.out, re.M)


def test_python_m_runs_it_and_a_mistake_is_one_line() -> None:
    command = python("-W", "error", "-m", "usersessions", "checktoken", "-c", "none.json", "x")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert_fails(
        Done(done.returncode, done.stdout, done.stderr), "none.json: No such file or directory"
    )


def test_a_command_that_is_interrupted_ends_without_a_traceback(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("usersessions.cli.load", interrupted)
    assert run("gentoken", "-u", "42") == Done(130, "", "")


def test_a_system_error_without_a_file_is_one_line(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("usersessions.cli.load", failing)
    assert_fails(run("gentoken", "-u", "42"), "Broken pipe")


# genconfig ------------------------------------------------------------------------------------


def test_genconfig_writes_fresh_secrets_and_says_what_to_do_next(run: Callable[..., Done]) -> None:
    done = run("genconfig")
    assert done == Done(
        0,
        "Wrote config.json, with a fresh secret and API key; only you can read it.\n"
        "Next, make a token and start the server:\n"
        "  usersessions gentoken -u 42\n"
        "  usersessions serve\n",
        "",
    )
    first = json.loads(Path("config.json").read_text())
    assert first.keys() == {"token_hmac_secret_key", "api_key"}
    assert len(first["token_hmac_secret_key"]) >= 64
    assert len(first["api_key"]) >= 32
    assert run("genconfig", "-c", "other.json").status == 0
    other = json.loads(Path("other.json").read_text())
    assert not set(first.values()) & set(other.values())


def test_what_genconfig_writes_is_ready_for_the_other_commands(run: Callable[..., Done]) -> None:
    for name in ("config.json", "my config.toml"):
        made = run("genconfig", "-c", name)
        assert made.status == 0
        made_token = run("gentoken", "-u", "42", "-c", name)
        assert run("checktoken", "-c", name, made_token.token).status == 0
    assert "usersessions gentoken -u 42 -c 'my config.toml'\n" in made.out


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_genconfig_lets_nobody_else_read_the_file_not_even_for_a_moment(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, force: tuple[str, ...]
) -> None:
    modes = []
    create = os.open

    def watched(path: Path, *arguments: Any, **options: Any) -> int:
        descriptor = create(path, *arguments, **options)
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(0)
    try:
        assert run("genconfig", *force).status == 0
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert mode_of("config.json") == 0o600


def test_genconfig_leaves_a_file_that_is_there(run: Callable[..., Done]) -> None:
    Path("config.json").write_text("mine")
    assert_fails(
        run("genconfig"),
        "config.json is there already and was left as it is; "
        "--force replaces it, and no token made with it will be good any more",
    )
    assert Path("config.json").read_text() == "mine"


def test_genconfig_does_not_write_through_a_link(run: Callable[..., Done]) -> None:
    Path("config.json").symlink_to("elsewhere.json")
    assert run("genconfig").status == 1
    assert not Path("elsewhere.json").exists()


def test_genconfig_replaces_the_file_if_forced(run: Callable[..., Done]) -> None:
    Path("config.json").write_text("mine")
    os.chmod("config.json", 0o644)
    assert run("genconfig", "--force").status == 0
    assert "api_key" in json.loads(Path("config.json").read_text())
    assert mode_of("config.json") == 0o600
    assert os.listdir() == ["config.json"]


def test_genconfig_that_fails_leaves_nothing_behind(run: Callable[..., Done]) -> None:
    assert_fails(
        run("genconfig", "-c", "no/config.json"), "no/config.json: No such file or directory"
    )
    Path("config.json").mkdir()
    done = run("genconfig", "--force")
    assert done.status == 1
    assert done.err.endswith(": Is a directory\n")
    assert os.listdir() == ["config.json"]


def test_genconfig_knows_json_and_toml_alone(run: Callable[..., Done]) -> None:
    assert_fails(
        run("genconfig", "-c", "config.yaml"),
        "config.yaml: the name of a config file must end in .json or .toml",
    )


# gentoken -------------------------------------------------------------------------------------


def test_gentoken_prints_what_it_made_and_the_token(run: Callable[..., Done]) -> None:
    configure()
    before = int(time.time())
    done = run("gentoken", "-u", "42")
    assert (done.status, done.err) == (0, "")
    assert re.fullmatch(
        rf"HMAC SHA-256 JWT for user 42 with expiration TTL 168h0m0s:\n{JWT}\n", done.out
    )
    claims = claims_of(done.token)
    issued = claims["iat"]
    assert isinstance(issued, int)
    assert before <= issued <= time.time()
    assert claims == {"sub": "42", "iat": issued, "exp": issued + 7 * 24 * 3600}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        ("1", "1s"),
        ("45", "45s"),
        ("60", "1m0s"),
        ("90", "1m30s"),
        ("3600", "1h0m0s"),
        ("86399", "23h59m59s"),
        ("31536000", "8760h0m0s"),
    ],
)
def test_gentoken_takes_a_ttl_and_shows_it(
    run: Callable[..., Done], seconds: str, shown: str
) -> None:
    configure()
    done = run("gentoken", "-u", "42", "-t", seconds)
    assert done.out.startswith(f"HMAC SHA-256 JWT for user 42 with expiration TTL {shown}:\n")
    claims = claims_of(done.token, options={"verify_exp": False})
    assert claims == {"sub": "42", "iat": claims["iat"], "exp": claims["iat"] + int(seconds)}  # type: ignore[operator]


def test_gentoken_takes_meta_and_jti(run: Callable[..., Done]) -> None:
    configure()
    claims = claims_of(
        run("gentoken", "-u", "42", "--meta", '{"plan": "pro"}', "--jti", "t1").token
    )
    assert (claims["meta"], claims["jti"]) == ({"plan": "pro"}, "t1")


def test_gentoken_makes_what_the_settings_ask_of_tokens(run: Callable[..., Done]) -> None:
    configure(token_issuer="https://login.example", token_audience="app", token_user_claim="uid")
    claims = claims_of(run("gentoken", "-u", "42").token, audience="app")
    assert (claims["iss"], claims["uid"]) == ("https://login.example", "42")
    assert "sub" not in claims


def test_gentoken_makes_tokens_of_the_anonymous_user(run: Callable[..., Done]) -> None:
    configure()
    done = run("gentoken", "-u", "")
    assert done.out.startswith(
        "HMAC SHA-256 JWT for anonymous user with expiration TTL 168h0m0s:\n"
    )


def test_gentoken_takes_settings_from_the_environment_alone(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERSESSIONS_TOKEN_HMAC_SECRET_KEY", SECRET)
    assert claims_of(run("gentoken", "-u", "42").token)["sub"] == "42"


def test_gentoken_without_a_key_says_how_to_get_one(run: Callable[..., Done]) -> None:
    assert_fails(
        run("gentoken", "-u", "42"),
        "no setting verifies tokens: make a config file with `usersessions genconfig`, "
        "name one with -c, or set USERSESSIONS_TOKEN_HMAC_SECRET_KEY",
    )


def test_gentoken_cannot_sign_with_a_public_key(run: Callable[..., Done]) -> None:
    pem = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    settings = {"token_public_key": pem.decode(), "token_public_key_algorithm": "ES256"}
    Path("config.json").write_text(json.dumps(settings))
    assert_fails(
        run("gentoken", "-u", "42"),
        "tokens are signed with token_hmac_secret_key, which is not set",
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--meta", "{'plan': 'swordfish'}"), "--meta: not valid JSON: "),
        (("--meta", '{"a": 1, "a": 2}'), "--meta: not valid JSON: a member name stands twice"),
        (("--meta", json.dumps("swordfish" * 1000)), "meta is over 8192 bytes"),
        (("--meta", json.dumps("swordfish" * 890)), "the token is over 8192 bytes"),
        (("--jti", "x" * 256), "token_id is longer than 255 characters"),
        (("-u", "x" * 256), "user is longer than 255 characters"),
        (("-u", "\udcff"), "user holds a lone surrogate"),
    ],
)
def test_gentoken_hands_out_nothing_that_the_server_would_refuse(
    run: Callable[..., Done], arguments: tuple[str, ...], sentence: str
) -> None:
    configure()
    done = run("gentoken", "-u", "42", *arguments)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"usersessions: {sentence}")
    assert done.err.count("\n") == 1
    assert "swordfish" not in done.err


# checktoken -----------------------------------------------------------------------------------


def sign(**claims: object) -> str:
    return jwt.encode(claims, SECRET, algorithm="HS256")


def test_checktoken_says_what_is_in_a_token(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    token = sign(
        sub="42",
        iat=1893456000,
        exp=1893463445,
        jti="t1",
        meta={"plan": "pro"},
        info={"name": "Zoë"},
    )
    monkeypatch.setattr(time, "time", lambda: 1893456000.0)
    assert run("checktoken", f" {token}\n") == Done(
        0,
        "The token is good.\n"
        "  user     42\n"
        "  issued   2030-01-01 00:00:00 UTC\n"
        "  expires  2030-01-01 02:04:05 UTC, in 2h4m5s\n"
        "  jti      t1\n"
        '  meta     {"plan":"pro"}\n'
        '  info     {"name":"Zoë"}\n',
        "",
    )


def test_checktoken_says_no_more_than_there_is(run: Callable[..., Done]) -> None:
    configure()
    assert run("checktoken", sign()).out == (
        "The token is good.\n  user     (anonymous)\n  expires  never\n"
    )


def test_checktoken_shows_times_beyond_the_calendar(run: Callable[..., Done]) -> None:
    configure()
    shown = run("checktoken", sign(sub="42", iat=0, exp=2**52)).out
    assert "  issued   1970-01-01 00:00:00 UTC\n" in shown
    assert re.search(r"  expires  4503599627370496 seconds after 1970, in \d+h\d+m\d+s\n", shown)


def test_checktoken_within_the_leeway_has_no_time_left(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(token_leeway=10)
    monkeypatch.setattr(time, "time", lambda: 1005.0)
    assert "UTC, in 0s\n" in run("checktoken", sign(sub="42", exp=1000)).out


def test_what_a_terminal_would_obey_is_shown_and_not_sent(run: Callable[..., Done]) -> None:
    configure()
    user = "42\x1b[2J\u202e"
    assert run("gentoken", "-u", user).out.startswith(
        "HMAC SHA-256 JWT for user 42\\u001b[2J\\u202e with"
    )
    assert "  user     42\\u001b[2J\\u202e\n" in run("checktoken", sign(sub=user)).out


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("", "the token must have three segments, joined by dots, not 1"),
        ("\udcff.a.b", "the token has a character that is not of base64url: no padding, no spaces"),
        (sign(sub="42", exp=1), "the token has expired"),
        (sign(sub=42), "the token's claims are refused: user must be a string, not int"),
        (
            jwt.encode({"sub": "42"}, "another" * 8, algorithm="HS256"),
            "the token's signature does not match",
        ),
    ],
)
def test_checktoken_says_what_is_wrong_with_a_token(
    run: Callable[..., Done], token: str, sentence: str
) -> None:
    configure()
    assert_fails(run("checktoken", token), sentence)


def test_checktoken_without_a_key_says_how_to_get_one(run: Callable[..., Done]) -> None:
    done = run("checktoken", sign(sub="42"))
    assert done.status == 1
    assert "no setting verifies tokens" in done.err


def test_checktoken_fetches_the_keys_of_the_issuer(run: Callable[..., Done]) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    document = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    token = jwt.encode({"sub": "42"}, private, algorithm="ES256", headers={"kid": "k"})
    with backend(answers(json.dumps({"keys": [{**document, "kid": "k"}]}).encode())) as issuer:
        configure(token_jwks_url=issuer.url, token_jwks_algorithms=["ES256"])
        assert "  user     42\n" in run("checktoken", token).out
    with backend(answers(status="503 Service Unavailable")) as issuer:
        configure(token_jwks_url=issuer.url, token_jwks_algorithms=["ES256"])
        done = run("checktoken", token)
    assert done.status == 1
    assert "try again later" in done.err.splitlines()[-1]


# serve ----------------------------------------------------------------------------------------


@pytest.fixture
def served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[list[tuple[uvicorn.Config, list[tuple[str, int]]]]]:
    """What `serve` would run, by its settings and its addresses; nothing is run."""
    runs: list[tuple[uvicorn.Config, list[tuple[str, int]]]] = []

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        runs.append((server.config, [opened.getsockname()[:2] for opened in sockets]))
        for opened in sockets:
            opened.close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    with caplog.at_level(logging.INFO, "usersessions"):
        yield runs


Served = list[tuple[uvicorn.Config, list[tuple[str, int]]]]


def test_serve_listens_where_it_is_told_and_says_so(
    run: Callable[..., Done], served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    configure(api_key="an-api-key-for-tests", port=1, host="192.0.2.1")
    assert run("serve", "--host", "127.0.0.1", "--port", "0").status == 0
    ((config, ((address, port),)),) = served
    assert address == "127.0.0.1"
    assert caplog.messages == [f"serving on http://127.0.0.1:{port} (Ctrl-C stops it)"]
    # Each of these would log or say too much.
    assert (config.access_log, config.server_header, config.proxy_headers) == (False, False, False)
    assert logging.getLogger("uvicorn.error").level == logging.WARNING


def test_serve_warns_if_the_server_api_is_closed(
    run: Callable[..., Done], served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    configure(host="127.0.0.1", port=0)
    assert run("serve").status == 0
    assert caplog.messages[0] == "api_key is not set: the server API refuses everybody"


def test_serve_logs_as_much_as_it_is_told(
    run: Callable[..., Done], served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    configure(host="127.0.0.1", port=0, log_level="error")
    assert run("serve").status == 0
    assert caplog.messages == []


def test_serve_of_a_name_listens_at_all_its_addresses_on_one_port(
    run: Callable[..., Done], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(api_key="an-api-key-for-tests")
    name_addresses(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")
    assert run("serve", "--port", "0").status == 0
    ((_, addresses),) = served
    (first, second) = addresses
    assert (first[0], second[0]) == ("127.0.0.1", "127.0.0.2")
    assert first[1] == second[1]


def name_addresses(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make every name stand for these addresses."""

    def look_up(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port),
            )
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def test_serve_leaves_out_an_address_that_the_machine_does_not_have(
    run: Callable[..., Done],
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configure(api_key="an-api-key-for-tests")
    name_addresses(monkeypatch, "192.0.2.1", "127.0.0.1")
    assert run("serve", "--port", "0").status == 0
    ((_, addresses),) = served
    assert [address for address, _ in addresses] == ["127.0.0.1"]
    name_addresses(monkeypatch, "192.0.2.1")
    assert_fails(
        run("serve", "--port", "8000"),
        "cannot listen on port 8000 of localhost: this machine has no such address",
    )


def test_serve_shows_an_ipv6_address_as_urls_have_it(
    run: Callable[..., Done],
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configure(api_key="an-api-key-for-tests")
    name_addresses(monkeypatch, "127.0.0.1")
    assert run("serve", "--host", "::1", "--port", "0").status == 0
    assert caplog.messages[0].startswith("serving on http://[::1]:")


def test_a_port_that_the_system_chose_is_chosen_again_if_taken_at_the_next_address(
    run: Callable[..., Done], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(api_key="an-api-key-for-tests")
    name_addresses(monkeypatch, "127.0.0.1", "127.0.0.2")
    create, calls = socket.create_server, 0

    def unlucky(address: tuple[str, int], **options: Any) -> socket.socket:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return create(address, **options)

    monkeypatch.setattr(socket, "create_server", unlucky)
    assert run("serve", "--port", "0").status == 0
    assert calls == 4


def test_serve_on_a_port_in_use_says_so(run: Callable[..., Done]) -> None:
    configure()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_fails(
            run("serve", "--host", "127.0.0.1", "--port", str(port)),
            f"cannot listen on port {port} of 127.0.0.1: "
            "it is in use; stop what uses it, or choose another with --port",
        )


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64, "\udcff", "a..b"])
def test_serve_on_a_host_that_is_none_says_so(run: Callable[..., Done], host: str) -> None:
    configure()
    done = run("serve", "--host", host, "--port", "0")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("usersessions: cannot listen on port 0 of ")
    assert done.err.count("\n") == 1


def test_serve_that_is_stopped_by_ctrl_c_ends_well(
    run: Callable[..., Done],
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def interrupted(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        for opened in sockets:
            opened.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", interrupted)
    configure(api_key="an-api-key-for-tests", host="127.0.0.1", port=0)
    assert run("serve").status == 0
    assert caplog.messages[-1] == "stopped"


@pytest.mark.parametrize("module", ["uvicorn", "websockets"])
def test_serve_without_its_extra_names_the_command_that_installs_it(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    configure()
    monkeypatch.setitem(sys.modules, module, None)
    assert_fails(run("serve"), f'{module} is not installed; run: pip install "usersessions[serve]"')


def test_serve_without_settings_says_how_to_make_them(run: Callable[..., Done]) -> None:
    done = run("serve")
    assert done.status == 1
    assert "make a config file with `usersessions genconfig`" in done.err


def test_a_secret_that_is_too_short_is_refused_by_name(run: Callable[..., Done]) -> None:
    configure(token_hmac_secret_key="swordfish")
    done = run("serve")
    assert done.status == 1
    assert done.err.startswith("usersessions: token_hmac_secret_key: HS256 needs a secret of 32")
    assert "swordfish" not in done.err


def test_the_token_of_gentoken_is_one_that_the_library_takes(run: Callable[..., Done]) -> None:
    configure()
    token = run("gentoken", "-u", "42", "--meta", "[1]", "--jti", "t1").token
    identity = TokenVerifier(Key(SECRET, algorithm="HS256")).verify(token)
    assert (identity.user, identity.meta, identity.token_id) == ("42", [1], "t1")

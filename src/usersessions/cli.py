"""The command `usersessions`: make a config file, make and check tokens, serve.

1. Whatever is wrong is one line on stderr, and exit status 1; 2 if the arguments are wrong.
2. Secrets, tokens and `meta` are shown where the command is there to show them, and nowhere else:
   `gentoken` prints the token, `checktoken` what is in it. What `serve` logs has none of them.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import secrets
import shlex
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import jwt

from .config import ENVIRONMENT_PREFIX, HMAC_ALGORITHM, Settings, load
from .errors import ConfigError, UserSessionsError, require
from .http.base import MAX_BODY_BYTES
from .models import Identity
from .printable import printable
from .sessions import UserSessions
from .strictjson import JSON, dumps, loads
from .tokens import TokenVerifier
from .version import __version__

__all__ = ["main"]

logger = logging.getLogger(__name__)

_CONFIG = "config.json"
_WEEK = 7 * 24 * 3600
_CENTURY = 100 * 365 * 24 * 3600
_STOP_SECONDS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status.

    Args:
        argv: its arguments; None is those of this process.

    Raises:
        SystemExit: if the arguments are wrong, or ask for help or the version.

    >>> main(["checktoken", "-c", "config.txt", "x.y.z"])
    1
    """
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], None] = arguments.run
    try:
        run(arguments)
    except UserSessionsError as error:
        return _failed(str(error))
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        return _failed(f"{what}{error.strerror or type(error).__name__}")
    except KeyboardInterrupt:
        return 130
    return 0


def _failed(sentence: str) -> int:
    print(f"usersessions: {printable(sentence)}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="usersessions",
        description="The active sessions of your users: who is connected, and close them.",
    )
    parser.add_argument("--version", action="version", version=f"usersessions {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    configured = argparse.ArgumentParser(add_help=False)
    configured.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help=f"the config file, .json or .toml; {_CONFIG} if there is one",
    )

    genconfig = commands.add_parser("genconfig", help="make a config file with fresh secrets")
    genconfig.add_argument(
        "-c", "--config", metavar="FILE", default=_CONFIG, help=f".json or .toml; {_CONFIG}"
    )
    genconfig.add_argument("--force", action="store_true", help="replace the file if it is there")
    genconfig.set_defaults(run=_genconfig)

    gentoken = commands.add_parser(
        "gentoken", parents=[configured], help="make a token, to try things out"
    )
    gentoken.add_argument("-u", "--user", required=True, help="the user ID")
    gentoken.add_argument(
        "-t",
        "--ttl",
        metavar="SECONDS",
        type=_whole(1, _CENTURY),
        default=_WEEK,
        help=f"how long it is good; a week ({_WEEK}) if not given",
    )
    gentoken.add_argument("--meta", metavar="JSON", help="private data, for the server alone")
    gentoken.add_argument("--jti", metavar="ID", help="the token's own ID")
    gentoken.set_defaults(run=_gentoken)

    checktoken = commands.add_parser(
        "checktoken", parents=[configured], help="say what is in a token, or what is wrong with it"
    )
    checktoken.add_argument("token", metavar="TOKEN")
    checktoken.set_defaults(run=_checktoken)

    serve = commands.add_parser(
        "serve",
        parents=[configured],
        help="serve the streams, the server API and the users' own sessions",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_settings_help(),
    )
    serve.add_argument("--host", help="the name or address to listen on")
    serve.add_argument("--port", type=_whole(0, 65535), help="the port to listen on")
    serve.set_defaults(run=_serve)
    return parser


def _settings_help() -> str:
    meanings = Settings.meanings()
    width = max(map(len, meanings)) + 2
    return "\n".join(
        [
            f"settings, in the file or as {ENVIRONMENT_PREFIX}<NAME> in the environment:",
            *(f"  {name:{width}}{meaning}" for name, meaning in meanings.items()),
        ]
    )


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
        return number

    return read


def _settings(arguments: argparse.Namespace) -> Settings:
    path: str | None = arguments.config
    if path is None and Path(_CONFIG).exists():
        path = _CONFIG
    return load(path)


def _verifier(settings: Settings) -> TokenVerifier:
    verifier = settings.verifier()
    if verifier is None:
        raise ConfigError(
            "no setting verifies tokens: make a config file with `usersessions genconfig`, "
            f"name one with -c, or set {ENVIRONMENT_PREFIX}TOKEN_HMAC_SECRET_KEY"
        )
    return verifier


# genconfig ------------------------------------------------------------------------------------


def _genconfig(arguments: argparse.Namespace) -> None:
    path = Path(arguments.config)
    fresh = {
        "token_hmac_secret_key": secrets.token_urlsafe(48),
        "api_key": secrets.token_urlsafe(32),
    }
    if path.suffix == ".json":
        members = ",\n".join(f'  "{name}": "{value}"' for name, value in fresh.items())
        text = f"{{\n{members}\n}}\n"
    elif path.suffix == ".toml":
        text = "".join(f'{name} = "{value}"\n' for name, value in fresh.items())
    else:
        raise ConfigError(f"{path}: the name of a config file must end in .json or .toml")
    try:
        _write_private(path, text, over=arguments.force)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already and was left as it is; "
            "--force replaces it, and no token made with it will be good any more"
        ) from None
    named = "" if path == Path(_CONFIG) else f" -c {shlex.quote(arguments.config)}"
    print(f"Wrote {printable(str(path))}, with a fresh secret and API key; only you can read it.")
    print("Next, make a token and start the server:")
    print(f"  usersessions gentoken -u 42{printable(named)}")
    print(f"  usersessions serve{printable(named)}")


def _write_private(path: Path, text: str, *, over: bool) -> None:
    """Write a file that nobody but its owner can read, not even for a moment."""
    target = path.with_name(f".{path.name}.{secrets.token_hex(8)}") if over else path
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if over:
            os.replace(target, path)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


# gentoken and checktoken ----------------------------------------------------------------------


def _gentoken(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    verifier = _verifier(settings)
    secret = settings.token_hmac_secret_key
    if secret is None:
        raise ConfigError("tokens are signed with token_hmac_secret_key, which is not set")
    now = int(time.time())
    claims: dict[str, JSON] = {
        settings.token_user_claim: arguments.user,
        "iat": now,
        "exp": now + arguments.ttl,
    }
    optional = {
        "iss": settings.token_issuer,
        "aud": settings.token_audience,
        "jti": arguments.jti,
        "meta": None if arguments.meta is None else _meta(arguments.meta),
    }
    claims |= {name: value for name, value in optional.items() if value is not None}
    # Refused here by name, where PyJWT would fail in ways of its own.
    Identity(arguments.user, meta=optional["meta"], token_id=arguments.jti)
    token = jwt.encode(claims, secret, algorithm=HMAC_ALGORITHM)
    # What the server would refuse is not handed out.
    verifier.verify(token)
    user = f"user {printable(arguments.user)}" if arguments.user else "anonymous user"
    print(f"HMAC SHA-256 JWT for {user} with expiration TTL {_duration(arguments.ttl)}:")
    print(token)


def _meta(text: str) -> JSON:
    try:
        return loads(text)
    except UserSessionsError as error:
        raise ConfigError(f"--meta: {error}") from None


def _checktoken(arguments: argparse.Namespace) -> None:
    """Show what a token says, its `meta` included: this is the operator's own terminal."""
    verifier = _verifier(_settings(arguments))
    now = time.time()
    # A blocking facade, since the keys may have to be fetched.
    sessions = UserSessions(verifier)
    try:
        identity = sessions.run(verifier.identify(arguments.token.strip(), now=now))
    finally:
        sessions.close()
    print("The token is good.")
    shown = {
        "user": identity.user or "(anonymous)",
        "issued": None if identity.issued_at is None else _moment(identity.issued_at),
        "expires": _expiry(identity.expire_at, now),
        "jti": identity.token_id,
        "meta": None if identity.meta_json is None else identity.meta_json.decode(),
        "info": None if identity.info is None else dumps(identity.info).decode(),
    }
    for name, value in shown.items():
        if value is not None:
            print(f"  {name:9}{printable(value)}")


def _expiry(expire_at: float | None, now: float) -> str:
    if expire_at is None:
        return "never"
    return f"{_moment(expire_at)}, in {_duration(max(0, int(expire_at - now)))}"


def _moment(seconds: float) -> str:
    try:
        moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)
    except OverflowError:
        return f"{seconds:.0f} seconds after 1970"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: int) -> str:
    """A duration the way Go writes it, which is what users of Centrifugo know.

    >>> _duration(7 * 24 * 3600), _duration(90), _duration(45)
    ('168h0m0s', '1m30s', '45s')
    """
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minute}m{second}s"
    return f"{minute}m{second}s" if minute else f"{second}s"


# serve ----------------------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    if arguments.host is not None:
        settings = replace(settings, host=arguments.host)
    if arguments.port is not None:
        settings = replace(settings, port=arguments.port)
    app = settings.app()
    for module in ("uvicorn", "websockets"):
        require(module, extra="serve")
    import uvicorn

    # Other loggers are held to warnings: some of them log URLs, which may carry tokens or keys.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("usersessions").setLevel(settings.log_level.upper())
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,
            lifespan="on",
            log_config=None,
            log_level="warning",
            # Whoever connects could otherwise say which address they have.
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
            ws_max_size=MAX_BODY_BYTES,
        )
    )
    sockets = _listen(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    if not (settings.api_key or settings.api_keys):
        logger.warning("api_key is not set: the server API refuses everybody")
    logger.info("serving on http://%s:%d (Ctrl-C stops it)", host, sockets[0].getsockname()[1])
    try:
        server.run(sockets=sockets)
    except KeyboardInterrupt:
        # The server has stopped in good order; it raises the signal again when it is done.
        logger.info("stopped")


def _listen(host: str, port: int) -> list[socket.socket]:
    """Listen at every address of a host: `localhost` has two, and clients try either first."""
    sockets: list[socket.socket] = []
    problem = "this machine has no such address"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, _, _, _, address in dict.fromkeys(found):
            at = sockets[0].getsockname()[1] if sockets else port
            try:
                opened = socket.create_server((address[0], at, *address[2:]), family=family)
            except OSError as error:
                # A name may stand for ::1 where IPv6 is switched off.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
            else:
                sockets.append(opened)
        if sockets:
            return sockets
    except UnicodeError:
        problem = "this is no name of a host"
    except OSError as error:
        problem = error.strerror or problem
        if error.errno == errno.EADDRINUSE:
            problem = "it is in use; stop what uses it, or choose another with --port"
    for opened in sockets:
        opened.close()
    if sockets and port == 0:
        # The port that the system chose at the first address is taken at another one.
        return _listen(host, port)
    raise ConfigError(f"cannot listen on port {port} of {host}: {problem}")

"""Settings: where they come from, what is refused, and what they make."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.secrecy import said
from usersessions import (
    AsyncSession,
    AsyncUserSessions,
    Closed,
    ConfigError,
    ConnectRefused,
    Identity,
    MemoryStore,
    MissingExtraError,
    SessionTooYoung,
    TokenError,
)
from usersessions.config import Settings, load, of_framework

SECRET = "swordfish-" * 5
OTHER = "marlin----" * 5
API_KEY = "an-api-key-for-tests"
NO_ENVIRONMENT: dict[str, str] = {}


def write(folder: Path, text: str | bytes, name: str = "config.json") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load_json(folder: Path, **members: object) -> Settings:
    return load(write(folder, json.dumps(members)), environ=NO_ENVIRONMENT)


def load_environment(**variables: str) -> Settings:
    return load(None, environ={f"USERSESSIONS_{name}": text for name, text in variables.items()})


# Reading --------------------------------------------------------------------------------------


def test_without_a_file_or_variables_everything_has_its_default() -> None:
    assert load(None, environ=NO_ENVIRONMENT) == Settings()


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERSESSIONS_PORT", "9000")
    assert load(None).port == 9000


EVERYTHING: dict[str, object] = {
    "token_hmac_secret_key": SECRET,
    "token_hmac_previous_secret_key": OTHER,
    "token_hmac_previous_secret_key_until": 2000000000.5,
    "token_public_key": "PEM",
    "token_public_key_algorithm": "ES256",
    "token_jwks_url": "https://login.example/jwks.json",
    "token_jwks_algorithms": ["RS256", "ES256"],
    "token_issuer": "https://login.example",
    "token_audience": "app",
    "token_user_claim": "uid",
    "token_leeway": 5,
    "meta_from_claim": {"role": "user.role"},
    "api_key": API_KEY,
    "api_keys": [API_KEY + "2"],
    "connect_proxy_url": "http://127.0.0.1:1/",
    "connect_proxy_timeout": 0.5,
    "connect_proxy_headers": ["Cookie"],
    "allow_anonymous": True,
    "allowed_origins": ["https://app.example"],
    "max_sessions": 5,
    "session_limit_policy": "evict_idle",
    "session_limit_per_app": True,
    "end_others_min_age": 3600,
    "store": "redis://127.0.0.1:1/0",
    "store_prefix": "shop",
    "ping_interval": 10,
    "trusted_hops": 1,
    "host": "0.0.0.0",
    "port": 9000,
    "log_level": "debug",
}


def as_read(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def test_the_list_of_everything_in_these_tests_is_complete() -> None:
    assert list(EVERYTHING) == [each.name for each in fields(Settings)]


def test_every_setting_is_read_from_json(tmp_path: Path) -> None:
    settings = load_json(tmp_path, **EVERYTHING)
    assert {name: getattr(settings, name) for name in EVERYTHING} == {
        name: as_read(value) for name, value in EVERYTHING.items()
    }


def test_every_setting_is_read_from_toml(tmp_path: Path) -> None:
    lines = [
        f"{name} = {json.dumps(value)}"
        for name, value in EVERYTHING.items()
        if not isinstance(value, dict)
    ]
    text = "\n".join([*lines, "[meta_from_claim]", 'role = "user.role"'])
    path = write(tmp_path, text, "config.toml")
    assert load(path, environ=NO_ENVIRONMENT) == load_json(tmp_path, **EVERYTHING)


def test_every_setting_is_read_from_the_environment(tmp_path: Path) -> None:
    variables = {
        name.upper(): value if isinstance(value, str) else json.dumps(value)
        for name, value in EVERYTHING.items()
    }
    assert load_environment(**variables) == load_json(tmp_path, **EVERYTHING)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"port": 9000, "host": "0.0.0.0"}))
    settings = load(path, environ={"USERSESSIONS_PORT": "9001", "PORT": "9002"})
    assert (settings.port, settings.host) == (9001, "0.0.0.0")


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("a", ("a",)),
        ("a, b ,c,", ("a", "b", "c")),
        ("", ()),
        (' ["a,b", "c"]', ("a,b", "c")),
        ("[]", ()),
    ],
)
def test_a_list_in_the_environment_is_separated_by_commas_or_json(
    text: str, keys: tuple[str, ...]
) -> None:
    assert load_environment(API_KEYS=text).api_keys == keys


def test_variables_of_other_programs_are_left_alone() -> None:
    # Kubernetes sets the first three for a service named "usersessions".
    settings = load_environment(
        SERVICE_HOST="10.0.0.1", SERVICE_PORT="80", PORT_80_TCP_PROTO="tcp", WHEEL="1"
    )
    assert settings == Settings()


def test_an_app_may_keep_them_among_those_of_its_framework() -> None:
    given = {name.upper(): value for name, value in EVERYTHING.items()}
    for other in ("HOST", "PORT", "LOG_LEVEL"):
        given.pop(other, None)
    given["API_KEYS"] = (API_KEY + "2",)
    read = of_framework(given, where="APP")
    assert {name: getattr(read, name.lower()) for name in given} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ping_intervall", "did you mean ping_interval?"),
        ("issuer", "did you mean token_issuer?"),
        ("zzz", "`usersessions serve --help` lists them all"),
    ],
)
def test_a_name_that_is_no_setting_is_refused_with_the_nearest_one(
    tmp_path: Path, name: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_json(tmp_path, **{name: 1})
    assert str(refused.value) == f"{tmp_path / 'config.json'}: {name!r} is no setting; {hint}"


def test_a_misspelled_variable_is_refused_with_the_nearest_setting() -> None:
    with pytest.raises(ConfigError) as refused:
        load_environment(TOKEN_ISUER="https://login.example")
    assert (
        str(refused.value) == "USERSESSIONS_TOKEN_ISUER is no setting; did you mean token_issuer?"
    )


WRONG: list[tuple[str, object, str]] = [
    ("api_key", 7, "a string that is not empty"),
    ("api_key", "", "a string that is not empty"),
    ("api_keys", "a,b", "a list of strings"),
    ("api_keys", ["a", 7], "a list of strings"),
    ("api_keys", ["a", ""], "a list of strings"),
    ("meta_from_claim", [], "an object of strings"),
    ("meta_from_claim", {"role": 7}, "an object of strings"),
    ("token_leeway", "5", "a number"),
    ("token_leeway", True, "a number"),
    ("token_leeway", 2**53 + 1, "a number"),
    ("ping_interval", 2.5, "a whole number"),
    ("ping_interval", False, "a whole number"),
    ("max_sessions", 0, "a whole number, 1 at least"),
    ("max_sessions", True, "a whole number, 1 at least"),
    ("session_limit_policy", "evict", "one of reject, evict_oldest, evict_idle"),
    ("session_limit_policy", {}, "one of reject, evict_oldest, evict_idle"),
    ("session_limit_per_app", 1, "true or false"),
    ("end_others_min_age", -1, "a number, 0 at least"),
    ("end_others_min_age", "1h", "a number, 0 at least"),
    ("store", "redis", "memory, or the URL of a Redis"),
    ("store", None, "memory, or the URL of a Redis"),
    ("store_prefix", "", "a string that is not empty"),
    ("trusted_hops", "1", "a whole number"),
    ("port", -1, "a whole number from 0 to 65535"),
    ("port", 65536, "a whole number from 0 to 65535"),
    ("port", None, "a whole number from 0 to 65535"),
    ("allow_anonymous", 1, "true or false"),
    ("allow_anonymous", "true", "true or false"),
    ("log_level", "loud", "one of debug, info, warning, error"),
    ("log_level", [], "one of debug, info, warning, error"),
]


@pytest.mark.parametrize(("name", "value", "wanted"), WRONG)
def test_a_value_of_another_kind_is_refused_by_name_and_file(
    tmp_path: Path, name: str, value: object, wanted: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_json(tmp_path, **{name: value})
    assert str(refused.value) == f"{tmp_path / 'config.json'}: {name} must be {wanted}"


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("API_KEY", "", "a string that is not empty"),
        ("API_KEYS", '["a"', "a list of strings"),
        ("META_FROM_CLAIM", "role=user.role", "an object of strings"),
        ("TOKEN_LEEWAY", "NaN", "a number"),
        ("PORT", "tcp://10.0.0.1:80", "a whole number from 0 to 65535"),
        ("ALLOW_ANONYMOUS", "yes", "true or false"),
        ("LOG_LEVEL", "INFO", "one of debug, info, warning, error"),
        ("MAX_SESSIONS", "many", "a whole number, 1 at least"),
        ("STORE", "127.0.0.1:6379", "memory, or the URL of a Redis"),
        ("SESSION_LIMIT_POLICY", '"reject"', "one of reject, evict_oldest, evict_idle"),
    ],
)
def test_a_variable_of_another_kind_is_refused_by_name(name: str, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_environment(**{name: text})
    assert str(refused.value) == f"USERSESSIONS_{name} must be {wanted}"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("ping_interval", 20, "'ping_interval' is no setting; did you mean PING_INTERVAL?"),
        ("PING_ME", 20, "'PING_ME' is no setting; did you mean PING_HIM?"),
        ("PORT", 8000, "'PORT' is no setting"),
        (7, 8, "7 is no setting"),
        ("API_KEYS", SECRET, "API_KEYS must be a list of strings"),
        ("API_KEYS", (7,), "API_KEYS must be a list of strings"),
    ],
)
def test_a_setting_of_a_framework_is_refused_by_name_and_place(
    name: str, value: object, problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        of_framework({name: value}, where="APP", others=["PING_HIM"])
    assert str(refused.value).startswith(f"APP: {problem}")
    assert SECRET not in said(refused.value)


def test_toml_has_numbers_that_no_setting_takes(tmp_path: Path) -> None:
    for text in ("token_leeway = nan", "token_leeway = inf", "token_leeway = 2030-01-01"):
        with pytest.raises(ConfigError, match="token_leeway must be a number"):
            load(write(tmp_path, text, "config.toml"), environ=NO_ENVIRONMENT)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.json", b'{"port": 1, "port": 2}', "a member name stands twice in one object"),
        ("config.json", b'{"api_key": "swordfish', "not valid JSON: Unterminated string"),
        ("config.json", b"", "the text is empty"),
        ("config.json", b'\xff{"api_key": "swordfish"}', "the text is not UTF-8"),
        ("config.json", b'["swordfish"]', "the settings must be one JSON object"),
        ("config.toml", b'api_key = "swordfish', "not valid TOML: "),
        ("config.toml", b'api_key = "swordfish"\napi_key = "swordfish"', "not valid TOML: "),
        ("config.toml", b'api_key = "\xffswordfish"', "not valid TOML: "),
        ("config.toml", b"api_keys = " + b"[" * 5000, "not valid TOML: "),
        ("config.yaml", b"api_key: swordfish", "must end in .json or .toml"),
        ("config", b"swordfish", "must end in .json or .toml"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_without_a_word_of_it(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(ConfigError) as refused:
        load(path, environ=NO_ENVIRONMENT)
    assert str(refused.value).startswith(f"{path}: ")
    assert problem in str(refused.value)
    assert "swordfish" not in said(refused.value)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: No such file or directory"):
        load(tmp_path / "none.json", environ=NO_ENVIRONMENT)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.json: Is a directory"):
        load(tmp_path / "folder.json", environ=NO_ENVIRONMENT)


def test_toml_on_python_3_10_needs_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "port = 9000", "config.toml")
    monkeypatch.setitem(sys.modules, "tomllib" if sys.version_info >= (3, 11) else "tomli", None)
    with pytest.raises(MissingExtraError, match=r'pip install "usersessions\[serve\]"'):
        load(path, environ=NO_ENVIRONMENT)


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("token_hmac_previous_secret_key_until", 1.0, "token_hmac_previous_secret_key"),
        ("token_public_key", "PEM", "token_public_key_algorithm"),
        ("token_public_key_algorithm", "RS256", "token_public_key"),
        ("token_jwks_url", "https://login.example/", "token_jwks_algorithms"),
        ("token_jwks_algorithms", ["RS256"], "token_jwks_url"),
        ("connect_proxy_headers", ["Cookie"], "connect_proxy_url"),
        ("session_limit_policy", "evict_oldest", "max_sessions"),
        ("session_limit_per_app", True, "max_sessions"),
        ("store_prefix", "shop", "store"),
    ],
)
def test_a_setting_without_the_one_it_needs_is_refused(
    tmp_path: Path, name: str, value: object, other: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_json(tmp_path, **{name: value})
    assert str(refused.value) == f"{name} is set, and needs {other} to be set, too"


def test_no_secret_is_in_the_repr(tmp_path: Path) -> None:
    secrets = {
        "token_hmac_secret_key": "swordfish",
        "token_hmac_previous_secret_key": "swordfish",
        "api_key": "swordfish",
        "api_keys": ["swordfish"],
        "token_jwks_url": "https://user:swordfish@login.example/",
        "token_jwks_algorithms": ["RS256"],
        "connect_proxy_url": "https://user:swordfish@app.example/",
        "store": "redis://:swordfish@127.0.0.1/",
    }
    shown = repr(load_json(tmp_path, **secrets))
    assert "swordfish" not in shown
    assert "port=8000" in shown


# What they make -------------------------------------------------------------------------------


def token(claims: dict[str, object], secret: str = SECRET) -> str:
    return jwt.encode(claims, secret, algorithm="HS256")


def test_without_a_key_there_is_no_verifier() -> None:
    assert Settings().verifier() is None


def test_the_secret_verifies_tokens_by_all_the_rules_that_are_set() -> None:
    verifier = Settings(
        token_hmac_secret_key=SECRET,
        token_issuer="https://login.example",
        token_audience="app",
        token_user_claim="uid",
        token_leeway=10,
        meta_from_claim={"role": "user.role"},
    ).verifier()
    assert verifier is not None
    claims: dict[str, object] = {
        "uid": "42",
        "iss": "https://login.example",
        "aud": "app",
        "exp": 1000,
    }
    good = token({**claims, "user": {"role": "admin"}})
    identity = verifier.verify(good, now=1009)
    assert (identity.user, identity.meta) == ("42", {"role": "admin"})
    for wrong in ({"iss": "https://other.example"}, {"aud": "other"}, {"exp": 990}):
        with pytest.raises(TokenError):
            verifier.verify(token({**claims, **wrong}), now=1009)


def test_the_previous_secret_is_good_until_its_end() -> None:
    verifier = Settings(
        token_hmac_secret_key=SECRET,
        token_hmac_previous_secret_key=OTHER,
        token_hmac_previous_secret_key_until=1000,
    ).verifier()
    assert verifier is not None
    assert verifier.verify(token({"sub": "42"}), now=1001).user == "42"
    assert verifier.verify(token({"sub": "42"}, OTHER), now=1000).user == "42"
    with pytest.raises(TokenError):
        verifier.verify(token({"sub": "42"}, OTHER), now=1001)


def test_a_public_key_verifies_tokens() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    settings = Settings(token_public_key=pem.decode(), token_public_key_algorithm="ES256")
    verifier = settings.verifier()
    assert verifier is not None
    assert verifier.verify(jwt.encode({"sub": "42"}, private, algorithm="ES256")).user == "42"


def test_a_key_set_is_one_more_source_of_keys() -> None:
    settings = Settings(
        token_jwks_url="https://login.example/jwks.json", token_jwks_algorithms=("RS256",)
    )
    assert settings.verifier() is not None


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (Settings(token_hmac_secret_key="swordfish"), "token_hmac_secret_key"),
        (Settings(token_hmac_previous_secret_key="swordfish"), "token_hmac_previous_secret_key"),
        (
            Settings(token_public_key="swordfish", token_public_key_algorithm="RS256"),
            "token_public_key",
        ),
        (
            Settings(
                token_jwks_url="http://user:swordfish@login.example/",
                token_jwks_algorithms=("RS256",),
            ),
            "token_jwks_url",
        ),
    ],
)
def test_a_key_that_cannot_work_is_refused_by_the_name_of_its_setting(
    settings: Settings, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: ") as refused:
        settings.verifier()
    assert "swordfish" not in said(refused.value)


def test_a_server_that_nobody_could_connect_to_is_refused() -> None:
    with pytest.raises(ConfigError, match="no setting says who may connect"):
        Settings(api_key=API_KEY).app()


def test_the_app_is_made_of_the_settings() -> None:
    app = Settings(token_hmac_secret_key=SECRET, api_key=API_KEY, api_keys=(API_KEY + "2",)).app()
    assert SECRET not in repr(vars(app))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"api_key": "short"}, "an API key must be"),
        ({"api_keys": ("short",)}, "an API key must be"),
        ({"ping_interval": 0}, "ping_interval must be"),
        ({"trusted_hops": -1}, "trusted_hops must be"),
        ({"allowed_origins": ("app.example",)}, "an entry of allowed_origins must be"),
        ({"connect_proxy_url": "ftp://app.example"}, "the connect proxy's URL must"),
    ],
)
def test_an_app_of_settings_that_cannot_work_is_refused(
    settings: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Settings(token_hmac_secret_key=SECRET, **settings).app()  # type: ignore[arg-type]


def limited(**settings: object) -> AsyncUserSessions:
    made = Settings(token_hmac_secret_key=SECRET, **settings)  # type: ignore[arg-type]
    return made.sessions()


async def connect(
    opened: AsyncExitStack, sessions: AsyncUserSessions, *, app_name: str = "web"
) -> AsyncSession:
    connection = sessions.connect(user="42", transport="websocket", app_name=app_name)
    return await opened.enter_async_context(connection)


@pytest.mark.anyio
async def test_without_a_limit_a_user_may_have_any_number_of_sessions() -> None:
    sessions = limited()
    async with AsyncExitStack() as opened:
        for _ in range(20):
            await connect(opened, sessions)
        assert len(await sessions.user_connections("42")) == 20


@pytest.mark.anyio
async def test_one_session_more_than_the_limit_is_refused() -> None:
    sessions = limited(max_sessions=1)
    async with AsyncExitStack() as opened:
        await connect(opened, sessions)
        with pytest.raises(ConnectRefused, match="3504"):
            await connect(opened, sessions)


@pytest.mark.anyio
async def test_the_policy_chooses_which_session_goes_and_the_apps_are_counted_apart() -> None:
    sessions = limited(
        max_sessions=1, session_limit_policy="evict_oldest", session_limit_per_app=True
    )
    async with AsyncExitStack() as opened:
        web = await connect(opened, sessions)
        phone = await connect(opened, sessions, app_name="phone")
        await connect(opened, sessions)
        assert (await web.closed).code == 3504
        assert phone.disconnect is None


@pytest.mark.anyio
async def test_a_login_that_is_too_young_may_not_end_others() -> None:
    sessions = limited(end_others_min_age=3600)
    now = sessions.operations.node.clock()
    async with AsyncExitStack() as opened:
        session = await connect(opened, sessions)
        with pytest.raises(SessionTooYoung):
            await sessions.own(Identity("42", issued_at=now)).end_others(current=session.client)
        old = sessions.own(Identity("42", issued_at=now - 3700))
        assert await old.end_others(current=session.client) == Closed()


@pytest.fixture
def without_tokens() -> AsyncUserSessions:
    """Made outside of the event loop: it imports an HTTP client, which takes its time."""
    return Settings(connect_proxy_url="http://127.0.0.1:1/", allow_anonymous=True).sessions()


@pytest.mark.anyio
async def test_a_connect_proxy_alone_is_enough(without_tokens: AsyncUserSessions) -> None:
    sessions = without_tokens
    with pytest.raises(ConnectRefused, match="3004"):
        async with sessions.connect(transport="websocket"):
            raise AssertionError("not admitted")
    async with sessions.connect(user="", transport="websocket") as session:
        assert session.user == ""
    await sessions.aclose()


class FakeRedisStore(MemoryStore):
    """Stands for the store on Redis: it takes what that takes, and says what it got."""

    def __init__(self, url: str, *, prefix: str) -> None:
        super().__init__()
        if not url.startswith("redis://"):
            raise ConfigError("the URL of a Redis begins with redis://")
        self.made_with = (url, prefix)


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("usersessions.stores.redis")
    module.RedisStore = FakeRedisStore  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize(
    ("variables", "prefix"), [({}, "usersessions"), ({"STORE_PREFIX": "shop"}, "shop")]
)
def test_sessions_are_where_the_store_is_set_to(variables: dict[str, str], prefix: str) -> None:
    url = "redis://:swordfish@127.0.0.1:6379/0"
    settings = load_environment(TOKEN_HMAC_SECRET_KEY=SECRET, STORE=url, **variables)
    store = settings.sessions().store
    assert isinstance(store, FakeRedisStore)
    assert store.made_with == (url, prefix)


def test_sessions_are_in_memory_unless_set_otherwise() -> None:
    assert type(Settings(token_hmac_secret_key=SECRET).sessions().store) is MemoryStore


@pytest.mark.usefixtures("redis")
def test_a_store_that_cannot_work_is_refused_by_the_name_of_its_setting() -> None:
    settings = Settings(token_hmac_secret_key=SECRET, store="mysql://:swordfish@127.0.0.1/")
    with pytest.raises(ConfigError, match=r"^store: the URL of a Redis begins with") as refused:
        settings.app()
    assert "swordfish" not in said(refused.value)

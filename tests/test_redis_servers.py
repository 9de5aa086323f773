"""The Redis servers that other tests rely on: found, answering, and gone afterwards."""

from __future__ import annotations

import os
import sysconfig
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from tests import redis_servers
from tests.redis_servers import NoTLS, RedisServer
from tests.servers import until

NEVER = Retry(NoBackoff(), 0)


def test_a_server_answers_at_its_url_and_over_its_unix_socket() -> None:
    with RedisServer() as server:
        for url in (server.url, server.unix_url):
            with redis.Redis.from_url(url) as client:
                assert client.ping()
        folder = server.folder
    assert not server.alive
    assert not folder.exists()


def test_a_killed_server_comes_back_on_its_port_without_data() -> None:
    with RedisServer() as server:
        server.cli("SET", "key", "value")
        port = server.port
        server.kill()
        with pytest.raises(redis.ConnectionError):
            server.cli("PING")
        server.start()
        assert server.port == port
        assert server.cli("GET", "key") is None


def test_a_killed_server_comes_back_with_the_old_data_that_it_saved() -> None:
    with RedisServer() as server:
        server.cli("SET", "key", "old")
        server.cli("SAVE")
        server.cli("SET", "key", "new")
        server.kill()
        server.start()
        assert server.cli("GET", "key") == "old"


def test_a_paused_server_is_silent_until_it_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.redis_servers.ANSWER_SECONDS", 0.1)
    with RedisServer() as server:
        server.pause()
        with pytest.raises(redis.TimeoutError):
            server.cli("PING")
        server.resume()
        until(lambda: server.cli("PING"), what="the server to answer again")


def test_a_paused_server_can_be_stopped_and_killed() -> None:
    with RedisServer() as server:
        server.pause()
        assert server.stop() == 0
        server.start()
        server.pause()
    assert not server.alive


def test_settings_are_those_of_the_server() -> None:
    with RedisServer({"maxmemory": "3mb", "save": "900 1"}) as server:
        assert server.cli("CONFIG GET", "maxmemory") == {"maxmemory": "3145728"}
        assert server.cli("CONFIG GET", "save") == {"save": "900 1"}


def test_a_server_that_does_not_start_is_reported_with_its_output() -> None:
    with (
        pytest.raises(AssertionError, match=r"(?s)ended at once:.*no-such-setting"),
        RedisServer({"no-such-setting": "1"}),
    ):
        pass


def test_renewing_undoes_what_a_test_did() -> None:
    with RedisServer() as server:
        server.cli("SET", "key", "value")
        server.cli("SAVE")
        server.cli("REPLICAOF", "127.0.0.1", server.port)
        server.pause()
        server.renew()
        assert server.cli("DBSIZE") == 0
        server.kill()
        server.renew()
        assert server.cli("SET", "key", "value")
        server.kill()
        server.start()
        assert server.cli("DBSIZE") == 0


def test_the_server_of_a_module_is_empty_for_each_test(redis_server: RedisServer) -> None:
    assert redis_server.cli("DBSIZE") == 0
    redis_server.cli("SET", "key", "value")


def test_the_server_of_a_module_is_empty_for_the_next_test(redis_server: RedisServer) -> None:
    assert redis_server.cli("DBSIZE") == 0


def test_the_user_of_a_server_with_an_acl_may_do_what_it_says() -> None:
    with RedisServer(acl="~app:* &* +@all -@dangerous") as server:
        assert server.cli("FLUSHALL")
        for url in (server.url, server.unix_url):
            with redis.Redis.from_url(url) as client:
                assert client.set("app:key", "value")
                with pytest.raises(NoPermissionError):
                    client.flushall()
        with (
            redis.Redis(port=server.port, retry=NEVER) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


def test_a_server_speaks_tls_or_says_that_it_cannot() -> None:
    with ExitStack() as running:
        try:
            server = running.enter_context(RedisServer(tls=True))
        except NoTLS as error:
            assert "built without TLS" in str(error)
            return
        assert server.url.startswith("rediss://")
        assert server.cli("PING")
        with (
            redis.Redis(port=server.port, retry=NEVER) as plain,
            pytest.raises(redis.ConnectionError),
        ):
            plain.ping()


def test_the_server_that_the_environment_names_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "my-redis"
    program.write_text("#!/bin/sh\necho this is mine\n")
    program.chmod(0o700)
    monkeypatch.setenv("REDIS_SERVER", str(program))
    with pytest.raises(AssertionError, match="this is mine"), RedisServer():
        pass


def test_without_a_server_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(AssertionError, match="apt install redis-server, or set REDIS_SERVER"):
        redis_servers.redis_program()


def test_without_one_on_path_the_one_beside_the_interpreter_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "redis-server"
    program.touch(0o700)
    monkeypatch.delenv("REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert redis_servers.redis_program() == str(program)

"""Claims: what is refused, what becomes of the rest, and meta from other claims."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.secrecy import said
from usersessions.claims import ClaimRules, MetaFromClaim
from usersessions.errors import ConfigError, TokenError, TokenExpired
from usersessions.models import MAX_DATA_BYTES, MAX_ID_LENGTH, MAX_TIME, Identity
from usersessions.strictjson import JSON

NOW = 1_700_000_000.0


def identity(claims: dict[str, JSON], **rules: object) -> Identity:
    return ClaimRules(**rules).identity(claims, now=NOW)  # type: ignore[arg-type]


def refusal(claims: dict[str, JSON], **rules: object) -> str:
    with pytest.raises(TokenError) as caught:
        identity(claims, **rules)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def test_every_claim_has_its_place() -> None:
    found = identity(
        {
            "sub": "42",
            "exp": NOW + 60,
            "nbf": NOW - 60,
            "iat": NOW - 30,
            "jti": "token-1",
            "meta": {"plan": "pro"},
            "info": {"name": "Ada"},
            "channels": ["ignored"],
        }
    )
    assert found == Identity(
        "42",
        meta={"plan": "pro"},
        info={"name": "Ada"},
        token_id="token-1",
        issued_at=NOW - 30,
        token_expires=NOW + 60,
        expire_at=NOW + 60,
    )


def test_a_token_without_claims_is_anonymous_and_never_expires() -> None:
    assert identity({}) == Identity("")


def test_a_token_is_good_until_its_exp_and_not_at_it() -> None:
    assert identity({"exp": NOW + 0.001}).expire_at == NOW + 0.001
    for expired in (NOW, NOW - 1, 0, -1):
        with pytest.raises(TokenExpired):
            identity({"exp": expired})


def test_a_token_is_good_from_its_nbf_on() -> None:
    assert identity({"nbf": NOW})
    assert "nbf is in the future" in refusal({"nbf": NOW + 0.001})


def test_a_token_from_the_future_is_refused() -> None:
    assert identity({"iat": NOW}).issued_at == NOW
    assert "issued in the future" in refusal({"iat": NOW + 0.001})


def test_leeway_moves_every_time() -> None:
    assert identity({"exp": NOW - 4, "nbf": NOW + 5, "iat": NOW + 5}, leeway=5)
    with pytest.raises(TokenExpired):
        identity({"exp": NOW - 5}, leeway=5)
    refusal({"nbf": NOW + 6}, leeway=5)
    refusal({"iat": NOW + 6}, leeway=5)


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "expire_at"])
@pytest.mark.parametrize(
    "value", ["1700000000", True, None, [], {}, 2**53 + 1, 10**400, math.inf, -math.inf, math.nan]
)
def test_a_time_is_a_finite_number(claim: str, value: JSON) -> None:
    why = refusal({claim: value})
    assert why.startswith(f"the token's claims are refused: {claim} ")


def test_a_token_is_good_until_its_exp_and_the_leeway_whatever_its_connection() -> None:
    claims: dict[str, JSON] = {"exp": NOW + 60, "expire_at": 0}
    assert identity(claims, leeway=5).token_expires == NOW + 65
    assert identity({"expire_at": NOW + 5}, leeway=5).token_expires is None


def test_an_exp_in_the_farthest_future_stands_any_leeway() -> None:
    for leeway in (0.0, 60.0, 1e300):
        assert identity({"exp": MAX_TIME}, leeway=leeway).token_expires == MAX_TIME


def test_an_empty_jti_is_no_token_id() -> None:
    assert identity({"jti": ""}).token_id is None


def test_expire_at_overrides_exp_for_the_connection() -> None:
    assert identity({"exp": NOW + 60, "expire_at": NOW + 5}).expire_at == NOW + 5
    assert identity({"exp": NOW + 60, "expire_at": NOW + 99}).expire_at == NOW + 99


def test_expire_at_zero_is_a_connection_without_end() -> None:
    assert identity({"exp": NOW + 60, "expire_at": 0}).expire_at is None


def test_a_negative_expire_at_is_refused() -> None:
    assert "negative" in refusal({"expire_at": -1})


def test_expire_at_does_not_revive_an_expired_token() -> None:
    with pytest.raises(TokenExpired):
        identity({"exp": NOW - 1, "expire_at": 0})


@pytest.mark.parametrize("value", [42, None, True, [], {}, "x" * (MAX_ID_LENGTH + 1)])
@pytest.mark.parametrize(("claim", "name"), [("sub", "user"), ("jti", "jti")])
def test_sub_and_jti_are_strings_within_bounds(claim: str, name: str, value: JSON) -> None:
    assert f"refused: {name} " in refusal({claim: value})


@pytest.mark.parametrize("claim", ["meta", "info"])
def test_meta_and_info_are_bounded(claim: str) -> None:
    assert identity({claim: "x" * (MAX_DATA_BYTES - 2)})
    assert f"{claim} is over" in refusal({claim: "x" * (MAX_DATA_BYTES - 1)})


@pytest.mark.parametrize("meta", [None, 0, False, "", [], {}, [1, {"a": None}]])
def test_meta_is_any_json_value(meta: JSON) -> None:
    assert identity({"meta": meta}).meta == meta


def test_another_claim_may_be_the_user() -> None:
    rules = {"user_claim": "https://login.example/user"}
    assert identity({"sub": "1", "https://login.example/user": "2"}, **rules).user == "2"
    assert identity({"sub": "1"}, **rules).user == ""
    refusal({"https://login.example/user": 2}, **rules)


def test_the_issuer_is_one_of_those_configured() -> None:
    for issuer in ("a", ["a", "b"]):
        assert identity({"iss": "a"}, issuer=issuer)
        assert "not an accepted issuer" in refusal({"iss": "c"}, issuer=issuer)
        assert "no iss" in refusal({}, issuer=issuer)
        assert "must be a string" in refusal({"iss": None}, issuer=issuer)
    assert identity({"iss": "anyone"})
    assert "must be a string" in refusal({"iss": ["a"]})


def test_one_audience_of_the_token_must_be_one_of_those_configured() -> None:
    for audience in ("a", ["a", "b"]):
        assert identity({"aud": "a"}, audience=audience)
        assert identity({"aud": ["z", "a"]}, audience=audience)
        assert "another audience" in refusal({"aud": "z"}, audience=audience)
        assert "another audience" in refusal({"aud": []}, audience=audience)
        assert "no aud" in refusal({}, audience=audience)
        wrongs: list[JSON] = [None, 1, {"a": 1}, ["a", 1], [["a"]]]
        for wrong in wrongs:
            assert "list of strings" in refusal({"aud": wrong}, audience=audience)


def test_a_token_with_an_audience_is_refused_where_none_is_configured() -> None:
    audiences: list[JSON] = ["a", ["a"], []]
    for audience in audiences:
        assert "no audience is configured" in refusal({"aud": audience})


@pytest.mark.parametrize(
    "rules",
    [
        {"issuer": ""},
        {"issuer": []},
        {"issuer": [1]},
        {"issuer": 1},
        {"issuer": b"a"},
        {"issuer": {"a": 1}},
        {"audience": ""},
        {"audience": ["a", ""]},
        {"leeway": -1},
        {"leeway": math.inf},
        {"leeway": math.nan},
        {"leeway": "1"},
        {"leeway": True},
        {"user_claim": ""},
        {"user_claim": None},
        {"meta_from_claim": ["role"]},
        {"meta_from_claim": {"": "role"}},
        {"meta_from_claim": {1: "role"}},
        {"meta_from_claim": {"role": ""}},
        {"meta_from_claim": {"role": 1}},
        {"meta_from_claim": {"role": "a..b"}},
        {"meta_from_claim": {"role": ".a"}},
        {"meta_from_claim": {"role": "a."}},
        {"meta_from_claim": {"role": r"a\b"}},
        {"meta_from_claim": {"role": "a\\"}},
    ],
)
def test_rules_that_cannot_work_are_refused_when_they_are_made(rules: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        identity({}, **rules)


def test_meta_is_taken_from_claims_by_path() -> None:
    claims: dict[str, JSON] = {
        "user": {"role": "admin", "team": {"id": 7}},
        "https://x.example/plan": "pro",
        "back\\slash": None,
    }
    paths = {
        "role": "user.role",
        "team": "user.team",
        "team_id": "user.team.id",
        "plan": r"https://x\.example/plan",
        "slash": r"back\\slash",
    }
    assert identity(claims, meta_from_claim=paths).meta == {
        "role": "admin",
        "team": {"id": 7},
        "team_id": 7,
        "plan": "pro",
        "slash": None,
    }


def test_missing_paths_are_skipped() -> None:
    paths = {"a": "x", "b": "user.x", "c": "user.name.x", "d": "list.0", "e": "user.name"}
    claims: dict[str, JSON] = {"user": {"name": "Ada"}, "list": [1]}
    assert identity(claims, meta_from_claim=paths).meta == {"e": "Ada"}


def test_meta_from_claims_overrides_members_of_meta() -> None:
    claims: dict[str, JSON] = {"meta": {"role": "guest", "plan": "pro"}, "role": "admin"}
    found = identity(claims, meta_from_claim={"role": "role"}).meta
    assert found == {"role": "admin", "plan": "pro"}
    assert claims["meta"] == {"role": "guest", "plan": "pro"}


@pytest.mark.parametrize("meta", [1, "x", [], False])
def test_meta_that_is_no_object_is_refused_only_if_something_must_join_it(meta: JSON) -> None:
    paths = {"role": "role"}
    assert identity({"meta": meta}, meta_from_claim=paths).meta == meta
    assert "must be an object" in refusal({"meta": meta, "role": "x"}, meta_from_claim=paths)


def test_nothing_found_is_no_meta() -> None:
    assert identity({}, meta_from_claim={"role": "role"}).meta is None
    assert identity({"meta": None, "role": 1}, meta_from_claim={"role": "role"}).meta == {"role": 1}


def test_meta_from_claims_has_the_bounds_of_meta() -> None:
    claims: dict[str, JSON] = {"big": "x" * MAX_DATA_BYTES}
    assert "meta is over" in refusal(claims, meta_from_claim={"big": "big"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
claim_names = st.sampled_from(
    ["sub", "exp", "nbf", "iat", "jti", "iss", "aud", "meta", "info", "expire_at", "role"]
)


@given(st.dictionaries(claim_names, json_values))
def test_any_claims_give_an_identity_or_a_token_error(claims: dict[str, JSON]) -> None:
    rules = ClaimRules(leeway=1, meta_from_claim={"role": "role", "x": "meta.x"})
    with suppress(TokenError):
        assert isinstance(rules.identity(claims, now=NOW), Identity)


@given(st.dictionaries(st.text(min_size=1), st.lists(st.text(min_size=1), min_size=1)))
def test_any_path_can_be_written_with_escapes(paths: dict[str, list[str]]) -> None:
    def escape(step: str) -> str:
        return step.replace("\\", r"\\").replace(".", r"\.")

    meta = MetaFromClaim({name: ".".join(map(escape, path)) for name, path in paths.items()})
    for name, path in paths.items():
        claims: JSON = "found"
        for step in reversed(path):
            claims = {step: claims}
        assert isinstance(claims, dict)
        found = meta.apply({**claims, "meta": {}} if path[0] != "meta" else claims)
        assert isinstance(found, dict)
        assert found[name] == "found"


def test_no_claim_value_is_shown() -> None:
    secret = "s3cret-value"
    claims: list[dict[str, JSON]] = [
        {"sub": [secret]},
        {"sub": secret * 99},
        {"jti": {secret: secret}},
        {"exp": secret},
        {"iss": secret},
        {"aud": secret},
        {"aud": [secret]},
        {"meta": secret, "role": secret},
        {"meta": secret * 999},
    ]
    for each in claims:
        with pytest.raises(TokenError) as caught:
            identity(each, issuer="a" if "iss" in each else None, meta_from_claim={"r": "role"})
        assert secret not in said(caught.value)

"""Tokens: what is accepted, and that nothing else than a TokenError comes of the rest."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from tests.secrecy import said
from usersessions.errors import ConfigError, KeysUnavailable, TokenError, TokenExpired
from usersessions.fetch import Fetch, Fetched
from usersessions.flows import Reply, Request, run
from usersessions.jwks import JWKS
from usersessions.keys import Key
from usersessions.models import MAX_DATA_BYTES, MAX_ID_LENGTH, Identity
from usersessions.tokens import (
    MAX_TOKEN_BYTES,
    IssuerVerifiers,
    SignatureVerifier,
    TokenVerifier,
    Verifier,
)

NOW = 1_700_000_000.0
SECRET = "correct-horse-battery-staple-and-more"
OTHER = "another-secret-of-thirty-two-bytes-or-more"
KEY = Key(SECRET, algorithm="HS256")
VERIFIER = TokenVerifier(KEY)
HEADER = {"alg": "HS256", "typ": "JWT"}
CLAIMS = {"sub": "42", "exp": NOW + 60, "meta": {"plan": "pro"}}

NAUGHTY = Path(
    os.environ.get("BLNS_JSON")
    or Path(__file__).parents[2] / "shared" / "vectors" / "blns" / "blns.json"
)
naughty_strings = (
    json.loads(NAUGHTY.read_text()) if "BLNS_JSON" in os.environ or NAUGHTY.exists() else []
)


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def as_json(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()


def sign(payload: object = CLAIMS, *, header: object = HEADER, secret: str = SECRET) -> str:
    """A token well signed with HS256, whatever its header and payload are."""
    signing_input = f"{encode(as_json(header))}.{encode(as_json(payload))}"
    digest = hmac.digest(secret.encode(), signing_input.encode(), hashlib.sha256)
    return f"{signing_input}.{encode(digest)}"


GOOD = sign()


def no_fetch(request: Request) -> Reply:
    pytest.fail("nothing is to be fetched here")


def refusal(token: object, *, verifier: Verifier = VERIFIER, now: float = NOW) -> str:
    with pytest.raises(TokenError) as caught:
        verifier.verify(token, now=now)  # type: ignore[arg-type]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def test_a_good_token_is_an_identity() -> None:
    expected = Identity("42", meta={"plan": "pro"}, token_expires=NOW + 60, expire_at=NOW + 60)
    assert VERIFIER.verify(GOOD, now=NOW) == expected
    assert VERIFIER.verify(jwt.encode(CLAIMS, SECRET), now=NOW) == expected
    assert run(VERIFIER.identify(GOOD, now=NOW), no_fetch) == expected


def test_without_now_it_is_this_moment() -> None:
    token = jwt.encode({"sub": "42", "exp": time.time() + 3600}, SECRET)
    assert VERIFIER.verify(token).user == "42"
    with pytest.raises(TokenExpired):
        VERIFIER.verify(GOOD)
    issuers = IssuerVerifiers([TokenVerifier(KEY, issuer="a")])
    assert issuers.verify(sign({"iss": "a"})).user == ""


def test_an_expired_token_says_so() -> None:
    assert refusal(GOOD, now=NOW + 60) == "the token has expired"


def test_the_signature_is_checked_before_the_claims() -> None:
    expired = sign({"exp": 1}, secret=OTHER)
    assert refusal(expired) == "the token's signature does not match"


def test_any_change_of_a_token_is_refused() -> None:
    for position, character in enumerate(GOOD):
        changed = "A" if character != "A" else "B"
        refusal(GOOD[:position] + changed + GOOD[position + 1 :])
        refusal(GOOD[:position] + GOOD[position + 1 :])
        refusal(GOOD[:position])


@pytest.mark.parametrize("token", [None, 42, b"a.b.c", GOOD.encode(), ["a", "b", "c"], {}])
def test_a_token_is_a_string(token: object) -> None:
    assert "must be a string" in refusal(token)


def test_a_token_of_8_kib_is_read_and_a_longer_one_is_not() -> None:
    tokens = {
        len(token): token
        for filler in range(6000, 6100)
        for header in ({"alg": "HS256"}, {"alg": "HS256", "a": "bc"}, {"alg": "HS256", "a": "bcd"})
        for token in [sign({"ignored": "x" * filler}, header=header)]
    }
    assert VERIFIER.verify(tokens[MAX_TOKEN_BYTES], now=NOW)
    for long in (tokens[MAX_TOKEN_BYTES + 1], "x" * 10_000_000, "\ud800" * 9000):
        assert "over 8192 bytes" in refusal(long)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "three segments"),
        ("a", "three segments"),
        ("a.b", "three segments"),
        ("a.b.c.d", "three segments"),
        ("a.b.c.d.e", "encrypted (JWE)"),
        (GOOD + ".a.b", "encrypted (JWE)"),
        ('{"payload":"a","signatures":[]}', "JSON serialization"),
        (' {"payload":"a.b.c"}', "JSON serialization"),
        (GOOD + "=", "not of base64url"),
        (GOOD + "\n", "not of base64url"),
        (" " + GOOD, "not of base64url"),
        (GOOD.replace(".", " ."), "not of base64url"),
        ("Bearer " + GOOD, "not of base64url"),
        (GOOD.replace("J", "+", 1), "not of base64url"),
        (GOOD + "é", "not of base64url"),
        (GOOD + "\ud800", "not of base64url"),
        (GOOD + "\x00", "not of base64url"),
        ("..", "header is refused"),
        (".a.b", "header is refused"),
        ("a..", "not canonical"),
    ],
)
def test_what_is_not_in_compact_form_is_refused(token: str, why: str) -> None:
    assert why in refusal(token)


def test_an_empty_signature_is_refused() -> None:
    refusal(GOOD.rpartition(".")[0] + ".")


def test_base64url_with_stray_bits_is_refused_in_every_segment() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    def stray(segment: str) -> str:
        assert len(segment) % 4
        return segment[:-1] + alphabet[alphabet.index(segment[-1]) + 1]

    header, payload, signature = sign({"sub": "4"}, header={"alg": "HS256"}).split(".")
    for changed in (
        f"{stray(header)}.{payload}.{signature}",
        f"{header}.{payload}.{stray(signature)}",
    ):
        assert "not canonical" in refusal(changed)
    padded = sign(b'{"sub":"4"}')
    signing_input = f"{encode(as_json(HEADER))}.{stray(padded.split('.')[1])}"
    digest = hmac.digest(SECRET.encode(), signing_input.encode(), hashlib.sha256)
    assert "payload is not canonical" in refusal(f"{signing_input}.{encode(digest)}")


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        ('{"alg":"HS256"}'.encode("utf-16"), "not UTF-8"),
        (b'\xef\xbb\xbf{"alg":"HS256"}', "not valid JSON"),
        (b'{"alg":"HS256","alg":"HS256"}', "stands twice"),
        (b'{"alg":"HS256","x":NaN}', "NaN"),
        (b'{"alg":"HS256","x":"\\ud800"}', "surrogate"),
        (b'{"alg":"HS256","x":' + b"[" * 40 + b"]" * 40 + b"}", "nesting"),
        (b'{"alg":"HS256"} {}', "more after"),
        ([], "an object is wanted"),
        ("HS256", "an object is wanted"),
        (None, "an object is wanted"),
        ({}, "must have an alg"),
        ({"alg": None}, "must have an alg"),
        ({"alg": ["HS256"]}, "must have an alg"),
        ({"alg": "none"}, "of no key"),
        ({"alg": "None"}, "of no key"),
        ({"alg": "hs256"}, "of no key"),
        ({"alg": "HS512"}, "of no key"),
        ({"alg": ""}, "of no key"),
        ({"alg": "HS256", "crit": []}, "crit"),
        ({"alg": "HS256", "crit": ["exp"], "exp": 1}, "crit"),
        ({"alg": "HS256", "crit": ["b64"], "b64": False}, "crit"),
        ({"alg": "HS256", "b64": False}, "b64"),
        ({"alg": "HS256", "b64": True}, "b64"),
        ({"alg": "HS256", "enc": "A256GCM"}, "encrypted (JWE)"),
        ({"alg": "HS256", "typ": None}, "typ must be"),
        ({"alg": "HS256", "typ": 1}, "typ must be"),
        ({"alg": "HS256", "typ": "logout+jwt"}, "typ must be"),
        ({"alg": "HS256", "kid": None}, "kid must be a string"),
        ({"alg": "HS256", "kid": 1}, "kid must be a string"),
        ({"alg": "HS256", "kid": "x" * (MAX_ID_LENGTH + 1)}, "kid is longer"),
    ],
)
def test_a_header_that_is_not_ours_is_refused(header: object, why: str) -> None:
    assert why in refusal(sign(header=header))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_a_type_may_be_any_way_to_write_jwt(kind: str) -> None:
    assert VERIFIER.verify(sign(header={"alg": "HS256", "typ": kind}), now=NOW)


def test_keys_and_addresses_in_the_header_are_ignored() -> None:
    stranger = {"kty": "oct", "k": encode(OTHER.encode()), "alg": "HS256"}
    header = {
        "alg": "HS256",
        "jwk": stranger,
        "jku": "https://evil.example/jwks.json",
        "x5u": "https://evil.example/cert.pem",
        "x5c": ["AAAA"],
    }
    assert VERIFIER.verify(sign(header=header), now=NOW)
    assert "does not match" in refusal(sign(header=header, secret=OTHER))


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "not valid JSON"),
        (b"{'sub': 1}", "not valid JSON"),
        (json.dumps(CLAIMS).encode("utf-16"), "not UTF-8"),
        (json.dumps(CLAIMS).encode("utf-32"), "not valid JSON"),
        (b'{"sub":"1","sub":"2"}', "stands twice"),
        (b'{"exp":NaN}', "NaN"),
        (b'{"exp":Infinity}', "NaN and Infinity"),
        (b'{"exp":1e999}', "out of range"),
        (b'{"exp":' + b"9" * 5000 + b"}", "digits"),
        (b'{"sub":"\\ud800"}', "surrogate"),
        (b'{"sub":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"meta":' + b"[" * 40 + b"]" * 40 + b"}", "nesting"),
        (b"[" * 5000, "nesting"),
        ([], "an object is wanted"),
        ("text", "an object is wanted"),
        ({"sub": 42}, "user must be a string"),
        ({"exp": "1800000000"}, "exp must be a number"),
    ],
)
def test_a_payload_that_is_not_strict_is_refused(payload: object, why: str) -> None:
    assert why in refusal(sign(payload))


def test_a_public_key_is_never_used_as_a_secret() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    verifier = TokenVerifier([Key(pem, algorithm="ES256"), Key(OTHER, algorithm="HS256")])
    assert "does not match" in refusal(sign(secret=pem.decode()), verifier=verifier)
    token = jwt.encode(CLAIMS, private, algorithm="ES256")
    assert verifier.verify(token, now=NOW).user == "42"


def test_the_kid_chooses_the_key_and_a_key_without_one_is_tried_always() -> None:
    named, bare = Key(SECRET, algorithm="HS256", kid="a"), Key(OTHER, algorithm="HS256")
    strict, lenient = TokenVerifier(named), TokenVerifier([named, bare])

    def token(kid: str | None, secret: str) -> str:
        return sign(header={"alg": "HS256"} | ({} if kid is None else {"kid": kid}), secret=secret)

    assert strict.verify(token("a", SECRET), now=NOW)
    assert strict.verify(token(None, SECRET), now=NOW)
    assert "of no key" in refusal(token("b", SECRET), verifier=strict)
    assert "does not match" in refusal(token("a", OTHER), verifier=strict)
    assert lenient.verify(token("a", OTHER), now=NOW)
    assert lenient.verify(token("b", OTHER), now=NOW)
    assert "does not match" in refusal(token("b", SECRET), verifier=lenient)


def test_a_key_is_used_until_its_end_and_not_after() -> None:
    verifier = TokenVerifier(
        [
            Key(OTHER, algorithm="HS256", kid="new"),
            Key(SECRET, algorithm="HS256", kid="old", until=NOW),
        ]
    )
    token = sign({"sub": "42"})
    assert verifier.verify(token, now=NOW)
    assert verifier.verify(token, now=NOW - 1000)
    assert "does not match" in refusal(token, verifier=verifier, now=NOW + 0.001)
    pinned = sign({"sub": "42"}, header={"alg": "HS256", "kid": "old"})
    assert verifier.verify(pinned, now=NOW)
    assert "of no key" in refusal(pinned, verifier=verifier, now=NOW + 0.001)


def test_headers_are_remembered_only_of_verified_tokens_and_within_a_bound() -> None:
    verifier = SignatureVerifier(KEY)

    def check(token: str) -> bytes:
        return run(verifier.payload(token, now=NOW), no_fetch)

    for number in range(100):
        header = {"alg": "HS256", "number": number}
        with pytest.raises(TokenError):
            check(sign(header=header, secret=OTHER))
    assert not verifier._headers
    for number in range(200):
        header = {"alg": "HS256", "number": number}
        assert check(sign(header=header)) == check(sign(header=header)) == as_json(CLAIMS)
    assert 0 < len(verifier._headers) <= 64


def test_a_remembered_header_vouches_for_no_signature() -> None:
    verifier = TokenVerifier(KEY)
    assert verifier.verify(GOOD, now=NOW)
    assert "does not match" in refusal(sign(secret=OTHER), verifier=verifier)


@pytest.mark.parametrize("keys", [[], None, SECRET, 7, [SECRET], [KEY, None], {"a": KEY}])
def test_a_verifier_needs_keys(keys: object) -> None:
    with pytest.raises(ConfigError, match="keys must be") as caught:
        TokenVerifier(keys)  # type: ignore[arg-type]
    assert SECRET not in said(caught.value)


def test_any_iterable_of_keys_will_do() -> None:
    assert TokenVerifier(iter([KEY])).verify(GOOD, now=NOW)


def test_claims_are_held_to_the_rules_of_the_verifier() -> None:
    verifier = TokenVerifier(
        KEY,
        issuer="a",
        audience="b",
        leeway=10,
        user_claim="uid",
        meta_from_claim={"role": "user.role"},
    )
    claims = {"iss": "a", "aud": ["b"], "exp": NOW - 5, "uid": "7", "user": {"role": "admin"}}
    assert verifier.verify(sign(claims), now=NOW) == Identity(
        "7", meta={"role": "admin"}, token_expires=NOW + 5, expire_at=NOW - 5
    )
    assert verifier.issuers == frozenset({"a"})
    refusal(sign({**claims, "iss": "z"}), verifier=verifier)


# Several issuers ------------------------------------------------------------------------------


def two_issuers() -> IssuerVerifiers:
    return IssuerVerifiers(
        [
            TokenVerifier(KEY, issuer=["a", "a2"]),
            TokenVerifier(Key(OTHER, algorithm="HS256"), issuer="b"),
        ]
    )


def test_each_issuer_is_verified_with_its_own_keys() -> None:
    verifier = two_issuers()
    assert verifier.verify(sign({"iss": "a", "sub": "1"}), now=NOW).user == "1"
    assert verifier.verify(sign({"iss": "a2", "sub": "2"}), now=NOW).user == "2"
    assert verifier.verify(sign({"iss": "b", "sub": "3"}, secret=OTHER), now=NOW).user == "3"


def test_no_issuer_can_speak_for_another() -> None:
    verifier = two_issuers()
    for issuer, secret in (("a", OTHER), ("b", SECRET)):
        assert "does not match" in refusal(sign({"iss": issuer}, secret=secret), verifier=verifier)


@pytest.mark.parametrize("claims", [{}, {"iss": "z"}, {"iss": None}, {"iss": ["a"]}, {"iss": {}}])
def test_a_token_of_no_known_issuer_is_refused(claims: dict[str, object]) -> None:
    assert "not an accepted issuer" in refusal(sign(claims), verifier=two_issuers())


@pytest.mark.parametrize("token", ["", "a.b.c", "a.A.c", 7, sign(b"[]"), sign(b"\xff")])
def test_what_is_no_token_has_no_issuer(token: object) -> None:
    refusal(token, verifier=two_issuers())


@pytest.mark.parametrize(
    "verifiers",
    [
        [],
        None,
        [None],
        [TokenVerifier(KEY)],
        [TokenVerifier(KEY, issuer="a"), TokenVerifier(KEY, issuer=["b", "a"])],
    ],
)
def test_each_verifier_has_issuers_of_its_own(verifiers: object) -> None:
    with pytest.raises(ConfigError):
        IssuerVerifiers(verifiers)  # type: ignore[arg-type]


# Key sets -------------------------------------------------------------------------------------

SIGNER = ec.generate_private_key(ec.SECP256R1())


def key_set(kid: str = "a", signer: ec.EllipticCurvePrivateKey = SIGNER) -> bytes:
    jwk = json.loads(ECAlgorithm.to_jwk(signer.public_key()))
    return json.dumps({"keys": [{**jwk, "kid": kid}]}).encode()


def es256(kid: str = "a") -> str:
    return jwt.encode(CLAIMS, SIGNER, algorithm="ES256", headers={"kid": kid})


class Endpoint:
    """Answers every fetch, and counts them."""

    def __init__(self, body: bytes, *, status: int = 200) -> None:
        self.answer = Fetched(status, body)
        self.fetches = 0

    def __call__(self, request: object) -> Fetched:
        assert isinstance(request, Fetch)
        self.fetches += 1
        return self.answer


def jwks(url: str = "https://login.example/jwks") -> JWKS:
    return JWKS(url, algorithms="ES256")


def test_a_key_set_is_fetched_when_a_token_needs_it_and_then_known() -> None:
    endpoint, verifier = Endpoint(key_set()), TokenVerifier(jwks())
    with pytest.raises(KeysUnavailable):
        verifier.verify(es256(), now=NOW)
    assert run(verifier.identify(es256(), now=NOW), endpoint).user == "42"
    assert verifier.verify(es256(), now=NOW).user == "42"
    assert endpoint.fetches == 1


def test_a_key_set_is_not_asked_for_what_it_cannot_know() -> None:
    verifier = TokenVerifier([jwks(), Key(SECRET, algorithm="HS256", kid="a")])
    assert verifier.verify(sign(header={"alg": "HS256", "kid": "a"}), now=NOW)
    assert "of no key" in refusal(sign(header={"alg": "none"}), verifier=verifier)
    assert "of no key" in refusal(sign(header={"alg": "RS256"}), verifier=verifier)
    pinned = sign(header={"alg": "ES256", "kid": "a"})
    assert "of no key" in refusal(pinned, verifier=verifier)


def test_a_token_that_the_set_did_not_sign_is_refused() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    verifier = TokenVerifier(jwks())
    with pytest.raises(TokenError, match="does not match"):
        run(verifier.identify(es256(), now=NOW), Endpoint(key_set(signer=stranger)))
    with pytest.raises(TokenError, match="of no key"):
        run(verifier.identify(es256("b"), now=NOW), no_fetch)


def test_one_broken_key_set_does_not_hide_another() -> None:
    answers = {"https://a.example/": Endpoint(b"<html>"), "https://b.example/": Endpoint(key_set())}

    def answer(request: object) -> Fetched:
        assert isinstance(request, Fetch)
        return answers[request.url](request)

    verifier = TokenVerifier([jwks(url) for url in answers])
    assert run(verifier.identify(es256(), now=NOW), answer).user == "42"
    with pytest.raises(KeysUnavailable):
        run(verifier.identify(es256("unknown"), now=NOW), answer)


# Any text at all ------------------------------------------------------------------------------

VERIFIERS: list[Verifier] = [VERIFIER, TokenVerifier([KEY, jwks()], leeway=5), two_issuers()]


def check_any(token: object) -> None:
    for verifier in VERIFIERS:
        try:
            assert isinstance(verifier.verify(token, now=NOW), Identity)  # type: ignore[arg-type]
        except TokenError as error:
            assert error.__cause__ is None
            assert error.__context__ is None


@given(st.text() | st.text(alphabet='eyJ.-_=9Az{}" \n', max_size=60))
def test_any_text_is_an_identity_or_a_token_error(token: str) -> None:
    check_any(token)


@given(st.data())
def test_any_mutation_of_a_good_token_is_an_identity_or_a_token_error(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 20)))
    check_any(GOOD[:start] + data.draw(st.text(max_size=10)) + GOOD[end:])


@given(st.binary(max_size=200), st.binary(max_size=200))
@example(b'{"alg":"HS256"}', b'{"sub":"1","sub":"2"}')
def test_any_signed_bytes_are_an_identity_or_a_token_error(header: bytes, payload: bytes) -> None:
    check_any(sign(payload))
    check_any(sign(header=header))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
header_names = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "enc", "jwk", "zip", "cty"])


@given(st.dictionaries(header_names, json_values))
def test_any_signed_header_is_an_identity_or_a_token_error(header: dict[str, object]) -> None:
    check_any(sign(header=header))
    check_any(sign(header={"alg": "HS256"} | header))


@pytest.mark.skipif(not naughty_strings, reason=f"no naughty strings at {NAUGHTY.name}")
def test_naughty_strings_are_no_tokens_and_good_claims() -> None:
    for text in naughty_strings:
        check_any(text)
        verifier = TokenVerifier(Key(SECRET, algorithm="HS256", kid=text[:MAX_ID_LENGTH]))
        header = {"alg": "HS256", "kid": text[:MAX_ID_LENGTH]}
        claims = {"sub": text[:MAX_ID_LENGTH], "meta": {text: text}, "jti": text[:MAX_ID_LENGTH]}
        found = verifier.verify(sign(claims, header=header), now=NOW)
        assert (found.user, found.meta) == (text[:MAX_ID_LENGTH], {text: text})


# Secrecy --------------------------------------------------------------------------------------


def test_no_error_shows_a_part_of_the_token_or_of_the_key() -> None:
    private = "pr1vate"
    tokens: list[object] = [
        sign({"sub": [private]}),
        sign({"sub": private, "exp": 1}),
        sign({"sub": private, "iss": private, "aud": private}),
        sign({"sub": private * 99}),
        sign({"meta": private * (MAX_DATA_BYTES // 14), "exp": private}),
        sign(f'{{"sub":"{private}",}}'.encode()),
        sign(f'{{"{private}":1,"{private}":2}}'.encode()),
        sign(f'{{"sub":"{private}\\q"}}'.encode()),
        sign({"sub": private}, secret=OTHER),
        sign(header={"alg": private}),
        sign(header={"alg": "HS256", "kid": [private]}),
        sign(header={"alg": "HS256", "typ": private}),
        sign(header={"alg": "HS256", private: 1, "crit": [private]}),
        private,
        f"{private}.{private}.{private}",
        f'{{"payload":"{private}"}}',
        [private],
    ]
    for token in tokens:
        for verifier in VERIFIERS:
            with pytest.raises(TokenError) as caught:
                verifier.verify(token, now=NOW)  # type: ignore[arg-type]
            told = said(caught.value)
            assert private not in told
            assert SECRET not in told
            if isinstance(token, str) and token.count(".") == 2:
                assert not any(segment in told for segment in token.split("."))

"""Keys: what they are made of, what they are bound to, and what they never show."""

from __future__ import annotations

import datetime
import json
import sys
import warnings
from functools import cache

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import get_default_algorithms
from jwt.utils import base64url_decode, to_base64url_uint

from tests.secrecy import said
from usersessions.errors import ConfigError, MissingExtraError
from usersessions.keys import (
    ALGORITHMS,
    Key,
    candidates,
    check_algorithms,
    keys_of_set,
)
from usersessions.strictjson import JSON

SECRET = "correct-horse-battery-staple-" * 3
ASYMMETRIC = [name for name in ALGORITHMS if not name.startswith("HS")]
HASHED = ["HS256", "HS384", "HS512"]

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)


@cache
def private_key(name: str) -> PrivateKey:
    """A key that `name` can sign with; RS and PS share theirs, because making one is slow."""
    if name in ("RS256", "RSA"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if name.startswith(("RS", "PS")):
        return private_key("RSA")
    curves: dict[str, ec.EllipticCurve] = {
        "ES256": ec.SECP256R1(),
        "ES384": ec.SECP384R1(),
        "ES512": ec.SECP521R1(),
    }
    if name in curves:
        return ec.generate_private_key(curves[name])
    if name == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    return ed25519.Ed25519PrivateKey.generate()


def private_pem(key: PrivateKey | x25519.X25519PrivateKey, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk_of(name: str, **members: JSON) -> dict[str, JSON]:
    return as_jwk(name, private_key(name).public_key()) | members


def as_jwk(name: str, key: object) -> dict[str, JSON]:
    algorithm = get_default_algorithms()[name if name in ALGORITHMS else "EdDSA"]
    jwk: dict[str, JSON] = json.loads(algorithm.to_jwk(key))
    jwk.pop("key_ops", None)
    return jwk


def verifies(key: Key, signing_key: object, name: str) -> bool:
    token = jwt.encode({"sub": "42"}, signing_key, algorithm=name)  # type: ignore[arg-type]
    signing_input, _, signature = token.rpartition(".")
    return key.verify(
        signing_input.encode(),
        algorithm=name,
        signature=base64url_decode(signature),
    )


def refusal(material: object, **options: object) -> str:
    """Why a key is refused; neither it nor its causes show the material."""
    with pytest.raises(ConfigError) as caught:
        Key(material, **options)  # type: ignore[arg-type]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return said(caught.value)


@pytest.mark.parametrize("name", HASHED)
@pytest.mark.parametrize("material", [SECRET, SECRET.encode()])
def test_a_secret_verifies_what_it_signed(name: str, material: str | bytes) -> None:
    key = Key(material, algorithm=name)
    assert verifies(key, SECRET, name)
    assert not verifies(key, SECRET[1:], name)


@pytest.mark.parametrize("name", ASYMMETRIC)
def test_a_public_key_in_pem_or_as_a_jwk_verifies_what_its_private_key_signed(name: str) -> None:
    signing_key = private_key(name)
    for material in (public_pem(signing_key), public_pem(signing_key).decode(), jwk_of(name)):
        key = Key(material, algorithm=name)
        assert verifies(key, signing_key, name)
        assert key.algorithms == (name,)


def test_ed448_is_an_eddsa_key_too() -> None:
    for material in (public_pem(private_key("Ed448")), jwk_of("Ed448")):
        assert verifies(Key(material, algorithm="EdDSA"), private_key("Ed448"), "EdDSA")


@pytest.mark.parametrize("name", ["RS256", "ES256", "EdDSA"])
def test_of_a_private_key_only_the_public_part_is_kept(name: str) -> None:
    signing_key = private_key(name)
    for material in (private_pem(signing_key), as_jwk(name, signing_key)):
        key = Key(material, algorithm=name)
        assert verifies(key, signing_key, name)
        assert all("Public" in type(prepared).__name__ for _, prepared in key._prepared.values())


def test_a_certificate_gives_its_key() -> None:
    signing_key = private_key("ES256")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "login.example")])
    start = datetime.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder(name, name, signing_key.public_key(), 1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .sign(private_key("ES256"), hashes.SHA256())
    )
    assert verifies(
        Key(certificate.public_bytes(Encoding.PEM), algorithm="ES256"), signing_key, "ES256"
    )


def test_a_key_of_several_algorithms_is_used_with_each_and_no_other() -> None:
    key = Key(public_pem(private_key("RSA")), algorithm=["PS256", "RS256"])
    assert key.algorithms == ("RS256", "PS256")
    assert verifies(key, private_key("RSA"), "PS256")
    assert verifies(key, private_key("RSA"), "RS256")
    assert not key.fits(None, algorithm="RS512")
    assert repr(key) == "Key(algorithm='RS256/PS256', kid=None)"


@pytest.mark.parametrize(
    "algorithm",
    ["none", "None", "", "hs256", "ES256K", "ES521", [], ["HS256", "none"], None, 7, [None], [[]]],
)
def test_an_unknown_algorithm_is_refused(algorithm: object) -> None:
    assert "algorithm must be one or more of HS256" in refusal(SECRET, algorithm=algorithm)
    with pytest.raises(ConfigError):
        check_algorithms(algorithm)  # type: ignore[arg-type]


def test_a_secret_given_as_the_algorithm_is_not_shown() -> None:
    assert SECRET not in refusal("HS256", algorithm=SECRET)


def test_algorithms_of_different_kinds_need_a_key_each() -> None:
    assert "different kinds" in refusal(SECRET, algorithm=["HS256", "RS256"])


@pytest.mark.parametrize(("name", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_shorter_than_the_hash_is_refused_unless_allowed(name: str, least: int) -> None:
    assert Key("x" * least, algorithm=name)
    for material in ("x" * (least - 1), {"kty": "oct", "k": "eHg"}):
        assert f"{name} needs a secret of {least} bytes at least" in refusal(
            material, algorithm=name
        )
        key = Key(material, algorithm=name, insecure_allow_short_secret=True)
        assert key.algorithms == (name,)


def test_a_secret_must_be_long_enough_for_each_of_its_algorithms() -> None:
    assert "HS512 needs" in refusal("x" * 63, algorithm=["HS512", "HS256"])


def test_an_empty_secret_is_never_allowed() -> None:
    for material in ("", b"", {"kty": "oct", "k": ""}):
        refusal(material, algorithm="HS256", insecure_allow_short_secret=True)


@pytest.mark.parametrize("name", ["RS256", "ES256", "EdDSA"])
def test_an_asymmetric_key_is_no_secret(name: str) -> None:
    key = private_key(name).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ssh = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    pem = public_pem(private_key(name))
    for material in (pem, ssh, pem.replace(b"-----END", b""), private_pem(private_key(name))):
        why = refusal(material, algorithm="HS256")
        assert "asymmetric key, not an HMAC secret" in why
        assert material[40:60].decode() not in why
    refusal(spki, algorithm="HS256")


def test_a_jwk_as_text_is_no_secret() -> None:
    text = json.dumps({"kty": "oct", "k": SECRET})
    why = refusal(text, algorithm="HS256")
    assert "not a plain secret" in why
    assert SECRET not in why


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("ES256", "ES384"),
        ("ES384", "ES512"),
        ("ES512", "ES256"),
        ("ES256", "RSA"),
        ("RS256", "ES256"),
        ("PS256", "EdDSA"),
        ("EdDSA", "ES256"),
    ],
)
def test_a_key_of_another_kind_or_curve_is_refused(name: str, of: str) -> None:
    assert "which" in refusal(public_pem(private_key(of)), algorithm=name)
    refusal(jwk_of("RS256" if of == "RSA" else of), algorithm=name)


def test_eddsa_is_not_for_key_agreement() -> None:
    pem = private_pem(x25519.X25519PrivateKey.generate())
    assert "EdDSA needs" in refusal(pem, algorithm="EdDSA")
    assert "Ed25519 or Ed448" in refusal(jwk_of("EdDSA", crv="X25519"), algorithm="EdDSA")


@pytest.mark.parametrize("bits", [1024, 2047, 16385])
def test_rsa_keys_are_from_2048_to_16384_bits(bits: int) -> None:
    modulus = to_base64url_uint((1 << (bits - 1)) | 1).decode()
    jwk = {"kty": "RSA", "n": modulus, "e": "AQAB"}
    assert "from 2048 to 16384 bits" in refusal(jwk, algorithm="RS256")


@pytest.mark.parametrize("name", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize(
    "material",
    [
        "",
        SECRET,
        b"\xff\xfe",
        "-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----",
        "-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----",
        "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_pem_is_refused(name: str, material: str | bytes) -> None:
    why = refusal(material, algorithm=name)
    assert "cannot be read" in why
    assert SECRET not in why
    assert "nonsense" not in why


def test_a_private_key_with_a_password_is_refused() -> None:
    pem = private_pem(private_key("ES256"), password=b"hunter2")
    assert "without a password" in refusal(pem, algorithm="ES256")


@pytest.mark.parametrize("material", [None, 7, ["a"], bytearray(SECRET.encode())])
def test_material_of_another_type_is_refused(material: object) -> None:
    assert "str, bytes or a JWK mapping" in refusal(material, algorithm="HS256")


def test_a_secret_with_a_lone_surrogate_is_refused() -> None:
    assert SECRET not in refusal(SECRET + "\ud800", algorithm="HS256")


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"kty": "oct"}, "whose kty is EC"),
        ({"kty": ["EC"]}, "whose kty is EC"),
        ({"use": "enc"}, 'use is not "sig"'),
        ({"use": None}, 'use is not "sig"'),
        ({"key_ops": ["encrypt"]}, "key_ops"),
        ({"key_ops": "verify"}, "key_ops"),
        ({"alg": "ES384"}, "another alg"),
        ({"alg": "ES521"}, "another alg"),
        ({"alg": None}, "another alg"),
        ({"x": 7}, "the JWK's x"),
        ({"x": "not/base64url"}, "the JWK's x"),
        ({"x": "AAAA"}, "not a valid EC key on P-256"),
        ({"x": "A" * 43}, "not a valid EC key on P-256"),
        ({"x": "A"}, "not a valid EC key on P-256"),
        ({"crv": "P-384"}, "not a valid EC key on P-256"),
        ({"kid": 7}, "kid must be a string"),
    ],
)
def test_a_jwk_that_is_not_for_this_is_refused(members: dict[str, JSON], why: str) -> None:
    assert why in refusal(jwk_of("ES256", **members), algorithm="ES256")


def test_a_jwk_with_an_alg_is_bound_to_that_one() -> None:
    jwk = jwk_of("RS256", alg="PS256", use="sig", key_ops=["verify"])
    assert Key(jwk, algorithm=["RS256", "PS256"]).algorithms == ("PS256",)


def test_a_jwk_brings_its_kid_which_an_argument_overrides() -> None:
    jwk = jwk_of("ES256", kid="theirs")
    assert Key(jwk, algorithm="ES256").kid == "theirs"
    assert Key(jwk, algorithm="ES256", kid="ours").kid == "ours"
    assert Key(jwk_of("ES256", kid=None), algorithm="ES256").kid is None


@pytest.mark.parametrize("options", [{"kid": 7}, {"kid": "k" * 256}, {"kid": "\ud800"}])
def test_a_kid_is_a_string_of_255_characters_at_most(options: dict[str, object]) -> None:
    assert "kid" in refusal(SECRET, algorithm="HS256", **options)


@pytest.mark.parametrize("until", ["tomorrow", True, float("nan"), float("inf"), 2**60])
def test_until_is_a_time(until: object) -> None:
    assert "until" in refusal(SECRET, algorithm="HS256", until=until)


def test_candidates_have_the_kid_or_none_at_all() -> None:
    old = Key(SECRET, algorithm="HS256", kid="old", until=100)
    new = Key(SECRET, algorithm="HS256", kid="new")
    bare = Key(SECRET, algorithm="HS384")
    keys = [old, new, bare]
    assert candidates(keys, kid="old", algorithm="HS256") == (old,)
    assert candidates(keys, kid=None, algorithm="HS256") == (old, new)
    assert candidates(keys, kid="old", algorithm="HS384") == (bare,)
    assert candidates(keys, kid="old", algorithm="none") == ()


def test_a_key_shows_no_material() -> None:
    key = Key(SECRET, algorithm="HS256", kid="a")
    assert repr(key) == str(key) == "Key(algorithm='HS256', kid='a')"


def test_without_cryptography_the_message_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"usersessions\[crypto\]\""):
        Key(public_pem(private_key("ES256")), algorithm="ES256")
    assert Key(SECRET, algorithm="HS256")


def test_the_usable_keys_of_a_set_are_taken_and_the_others_skipped() -> None:
    document: JSON = {
        "keys": [
            jwk_of("ES256", kid="a"),
            jwk_of("ES384", kid="b"),
            jwk_of("RS256", kid="c"),
            jwk_of("RS256", kid="d", alg="PS256"),
            jwk_of("RS256", kid="enc", use="enc"),
            jwk_of("RS256", kid="other", alg="RS512"),
            jwk_of("ES256", kid="broken", x="AAAA"),
            jwk_of("EdDSA", kid="unasked"),
            {"kty": "oct", "kid": "secret", "k": "x" * 43, "alg": "HS256"},
            {"kty": "quantum", "kid": "unknown"},
            {"kty": {}},
            {},
            "nonsense",
            None,
        ]
    }
    names = ["HS256", "RS256", "PS256", "ES256", "ES384"]
    keys = keys_of_set(document, algorithms=names)
    assert [(key.kid, key.algorithms) for key in keys] == [
        ("a", ("ES256",)),
        ("b", ("ES384",)),
        ("c", ("RS256", "PS256")),
        ("d", ("PS256",)),
    ]


@pytest.mark.parametrize(
    "document", [None, [], "keys", {}, {"keys": None}, {"keys": {}}, {"keys": [{}] * 101}]
)
def test_what_is_no_key_set_is_refused(document: JSON) -> None:
    with pytest.raises(ConfigError, match="a JWK Set"):
        keys_of_set(document, algorithms=["ES256"])


def test_preparing_a_key_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Key("short", algorithm="HS256", insecure_allow_short_secret=True)

"""The verdicts of project Wycheproof on signatures and keys.

The vectors are not part of this repository. `WYCHEPROOF_DIR` names the folder that holds
`json_web_signature_test.json` and `json_web_key_test.json`; where it is set, they must be there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import pytest
from typing_extensions import NotRequired

from usersessions.errors import ConfigError, TokenError
from usersessions.flows import Reply, Request, run
from usersessions.keys import Key
from usersessions.tokens import SignatureVerifier

VECTORS = Path(
    os.environ.get("WYCHEPROOF_DIR")
    or Path(__file__).parents[2] / "shared" / "vectors" / "wycheproof"
)

SAME_AS_357 = "it is the token of tcId 357 to the letter, and that one is declared valid"
ANOTHER_ALG = "the key's own alg is PS256, the token's is PS384 (RFC 7517, 4.4: alg binds the key)"
NO_SUCH_ALG = "the key's alg is ES521, which does not exist: RFC 7518 names it ES512"
NOT_BASE64URL = "a '?' is not of base64url, and is to be refused (RFC 7515, 2; RFC 4648, 3.3)"

DEFECTIVE_SIGNATURES = {
    346: ANOTHER_ALG,
    347: NO_SUCH_ALG,
    350: ANOTHER_ALG,
    351: NO_SUCH_ALG,
    367: SAME_AS_357,
    370: SAME_AS_357,
    372: NOT_BASE64URL,
    373: NOT_BASE64URL,
}
"""Cases whose declared verdict is wrong, and why."""

DIFFERENT_KEYS = {
    1: "secrets and public keys together: safe here, since each key is bound to its algorithm",
    4: "one kid for two keys: both are tried, as RFC 7517, 4.5 lets them be",
    7: "a ROCA key: finding those is the issuer's task, and no JWT library's",
}
"""Cases of key sets that are declared invalid and accepted here, and why."""

ALG_OF_KEYS_WITHOUT_ONE = {"RSA": "RS256", "EC": "ES256", "oct": "HS256"}


class Case(TypedDict):
    tcId: int
    comment: str
    jws: str
    result: str


class Group(TypedDict):
    public: NotRequired[dict[str, object]]
    private: dict[str, object]
    tests: list[Case]


def groups(name: str) -> list[Group]:
    path = VECTORS / name
    if "WYCHEPROOF_DIR" not in os.environ and not path.exists():
        pytest.skip(f"no {name}; WYCHEPROOF_DIR names its folder")
    found: list[Group] = json.loads(path.read_text())["testGroups"]
    return found


def usable(jwks: Iterable[dict[str, object]]) -> list[Key]:
    """What of these can be a key: each bound to its own alg, or to one that fits it."""
    keys = []
    for jwk in jwks:
        algorithm = jwk.get("alg") or ALG_OF_KEYS_WITHOUT_ONE[str(jwk["kty"])]
        try:
            keys.append(Key(jwk, algorithm=str(algorithm)))
        except ConfigError:
            continue
    return keys


def no_fetch(request: Request) -> Reply:
    pytest.fail("nothing is to be fetched here")


def verdict(keys: list[Key], token: str) -> str:
    if not keys:
        return "invalid"
    try:
        payload = run(SignatureVerifier(keys).payload(token, now=0), no_fetch)
    except TokenError:
        return "invalid"
    assert isinstance(payload, bytes)
    return "valid"


def test_the_verdicts_on_signatures_are_those_of_wycheproof() -> None:
    count = 0
    deviating = set()
    for group in groups("json_web_signature_test.json"):
        keys = usable([group.get("public") or group["private"]])
        for case in group["tests"]:
            count += 1
            if verdict(keys, case["jws"]) != case["result"]:
                deviating.add(case["tcId"])
    assert count == 401
    assert deviating == DEFECTIVE_SIGNATURES.keys()


def test_of_a_defective_case_only_the_alg_of_the_key_is_wrong() -> None:
    for group in groups("json_web_signature_test.json"):
        for case in group["tests"]:
            if DEFECTIVE_SIGNATURES.get(case["tcId"]) in (NO_SUCH_ALG, ANOTHER_ALG):
                jwk = group.get("public", {})
                alg = "ES512" if jwk["kty"] == "EC" else "PS384"
                key = Key({**jwk, "alg": alg}, algorithm=alg)
                assert verdict([key], case["jws"]) == "valid"


def test_the_verdicts_on_keys_are_those_of_wycheproof() -> None:
    count = 0
    deviating = set()
    for group in groups("json_web_key_test.json"):
        key_set = (group.get("public") or group["private"])["keys"]
        assert isinstance(key_set, list)
        for case in group["tests"]:
            count += 1
            if verdict(usable(key_set), case["jws"]) != case["result"]:
                deviating.add(case["tcId"])
    assert count == 26
    assert deviating == DIFFERENT_KEYS.keys()

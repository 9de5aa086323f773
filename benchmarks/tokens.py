"""What verifying a token costs, against a plain `jwt.decode` of the same token.

Run it with `python benchmarks/tokens.py`. The two are measured in turns, in one process, and their
medians compared: a ratio under 1 is faster than `jwt.decode`, all our further checks included.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from usersessions.keys import Key
from usersessions.tokens import TokenVerifier

ROUNDS = 60
CALLS = 200


def per_call(function: Callable[[], object]) -> float:
    """Microseconds a call of `function` takes, over a few hundred calls."""
    start = time.perf_counter()
    for _ in range(CALLS):
        function()
    return (time.perf_counter() - start) / CALLS * 1e6


def compare(name: str, *, signing_key: object, verifying_key: str) -> None:
    """Print a line with both medians, and their ratio."""
    now = int(time.time())
    claims = {
        "sub": "42",
        "exp": now + 3600,
        "iat": now,
        "jti": "7d3f1c52-58c3-4f3a-9d0c-2c1c7b0f6f11",
        "meta": {"plan": "pro", "roles": ["admin", "editor"]},
    }
    token = jwt.encode(claims, signing_key, algorithm=name)  # type: ignore[arg-type]
    verifier = TokenVerifier(Key(verifying_key, algorithm=name))

    def ours() -> object:
        return verifier.verify(token)

    def theirs() -> object:
        return jwt.decode(token, verifying_key, algorithms=[name])

    pairs = [(per_call(ours), per_call(theirs)) for _ in range(ROUNDS)]
    our_time, their_time = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"{name}: {our_time:7.1f} us, jwt.decode {their_time:7.1f} us: {our_time / their_time:.2f}"
    )


def main() -> None:
    """Compare one algorithm of each kind."""
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ec_key = ec.generate_private_key(ec.SECP256R1())
    secret = "a secret of thirty-two bytes or more"
    compare("HS256", signing_key=secret, verifying_key=secret)
    for name, key in (("RS256", rsa_key), ("ES256", ec_key)):
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        compare(name, signing_key=key, verifying_key=pem.decode())


if __name__ == "__main__":
    main()

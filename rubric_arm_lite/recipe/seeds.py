"""Seeds derived from names, so that no draw depends on global state or on what was drawn before."""

from __future__ import annotations

import hashlib
import json


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from ``parts``, for example (run seed, cycle, role, step, pair id)."""
    # JSON keeps parts and types apart: no text equals two parts, and 1 is not "1".
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1

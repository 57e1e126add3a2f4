"""Words and numbers that came from a server: untrusted, so checked and cleaned before they are used or shown."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

MAX_MESSAGE = 300
LONGEST_WAIT = 120.0
"""Most seconds that a server's ``Retry-After`` is obeyed for."""


def clean(text: str, limit: int = MAX_MESSAGE) -> str:
    """Untrusted text for one line of an error: no control, format or unassigned characters, none beyond ``limit``."""
    shown = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: 16 * limit])
    line = " ".join(shown.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def parse_json(data: bytes) -> Any:
    """JSON of UTF-8 bytes.

    Raises:
        ValueError: if it is not, or nests too deep.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it nests too deep") from None


def seconds_to_wait(header: str | None) -> float | None:
    """Seconds that a ``Retry-After`` asks for (a number, or a date), between 0 and :data:`LONGEST_WAIT`."""
    if header is None:
        return None
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", header.strip(), re.ASCII):
        return min(float(header), LONGEST_WAIT)
    try:
        then = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return min(max((then - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT)


def message_of(body: bytes) -> str:
    """The server's own words in the body of an error: OpenAI's form, FastAPI's, or the text as it is."""
    try:
        found = parse_json(body)
    except ValueError:
        return body.decode("utf-8", "replace")
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else body.decode("utf-8", "replace")


def named(status: int) -> str:
    """A status with its usual name."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def quoted(said: str) -> str:
    """What a server said, to stand behind a status; nothing if it said nothing."""
    return f' ("{said}")' if said else ""

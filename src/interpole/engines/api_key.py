"""The API key of an endpoint: taken from the environment, sent, and found again in what a server says, however it spells it.

A server that is sent the key knows it, and may say it back in any code of its own making; what is found are the usual ones.
"""

from __future__ import annotations

import base64
import codecs
import html
import json
import os
import re
from urllib.parse import quote

from interpole.errors import EngineError

__all__ = ["ApiKey"]

SHORTEST_SECRET = 8  # characters; a shorter key ("EMPTY", "x") is none, and would be found in any text


class ApiKey:
    """The API key: sent, never shown."""

    def __init__(self, variable: str) -> None:
        """Take it from the environment, without the line end it may have come with.

        Raises:
            EngineError: no name of a variable, or its value is no key.
        """
        if not re.fullmatch(r"[A-Za-z_]\w*", variable):  # it may be the key itself: not quoted
            raise EngineError("api_key_env is no name of an environment variable", remedy="give the name, not the key")
        self._key = os.environ.get(variable, "").strip()
        if not re.fullmatch(r"[!-~]*", self._key):
            raise EngineError(f"the value of {variable} is no API key", remedy="it has blanks or odd characters in it")
        self._spelt = _pattern(self._key) if len(self._key) >= SHORTEST_SECRET else None

    @property
    def headers(self) -> dict[str, str]:
        """What it makes of a request."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def redacted(self, text: str) -> str:
        """`text` without the key: as it is, escaped, in hexadecimal digits or base64, forwards or backwards, in any case."""
        return self._spelt.sub("[API key]", text) if self._spelt else text


def _pattern(key: str) -> re.Pattern[str]:
    """Finds the spellings of a key."""
    spellings = set()
    for text in (key, key[::-1], codecs.encode(key, "rot13")):
        data = text.encode()
        spellings |= {text, quote(text, safe=""), json.dumps(text)[1:-1], text.replace("/", r"\/"), html.escape(text)}
        spellings |= {data.hex(sep) for sep in (" ", ":", "-")} | {data.hex()}
        spellings |= {"".join(f"{before}{byte:02x}" for byte in data) for before in ("%", "\\x", "\\u00", "0x")}
        spellings |= {
            ", ".join(f"{before}{byte:{kind}}" for byte in data) for before, kind in (("0x", "02x"), ("", "d"))
        }
        spellings |= {"".join(f"&#{before}{byte:{kind}};" for byte in data) for before, kind in (("x", "x"), ("", "d"))}
        spellings |= {between.join(text) for between in (" ", "-", "\n", ", ", "\0")} | {repr(text)[1:-1]}
        for number in range(3):  # what stands before it decides where its base64 begins
            coded = base64.b64encode(b"\0" * number + data).decode().rstrip("=")
            whole = coded[(0, 2, 3)[number] : len(coded) - ((number + len(data)) % 3 > 0)]
            spellings |= {whole, whole[::-1]}
            spellings |= {one.translate(str.maketrans("+/", "-_")) for one in (whole, whole[::-1])}
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)

"""Standard streams that take any text, whatever their encoding."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from typing import TextIO

HANDLER = "ftbench.plain"
_PLAIN = {
    "±": "+/-",
    "≈": "~",
    "≠": "!=",
    "≤": "<=",
    "≥": ">=",
    "×": "x",
    "·": ".",
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "…": "...",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "━": "-",
    "─": "-",
    "╸": "-",
    "╺": "-",
    "α": "alpha",
    "β": "beta",
    "λ": "lambda",
    "µ": "u",
}


def take_any_text() -> None:
    """Let the standard streams write what they cannot encode in plain letters.

    An ascii terminal shows ``91.0 +/- 2.5``; no character costs the text around it.
    """
    codecs.register_error(HANDLER, _plainly)
    # A stream that is closed is None: what goes there is lost, and nothing else.
    sys.stdout, sys.stderr = sys.stdout or nowhere(), sys.stderr or nowhere()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a stream of a caller's own may have none
            reconfigure(errors=HANDLER)


def nowhere() -> TextIO:
    """Return a stream that takes text and keeps none."""
    return open(os.devnull, "w", encoding="utf-8")


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    refused = error.object[error.start : error.end]
    return "".join(_plain(character) for character in refused), error.end


def _plain(character: str) -> str:
    """Return a character in ascii; its number where nothing reads like it."""
    if character in _PLAIN:
        return _PLAIN[character]
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return base or character.encode("ascii", "backslashreplace").decode()

"""Tokens as a page shows them."""

import unicodedata

_SIGNS = {
    "\n": "↵",
    "\r": "␍",
    "\t": "⇥",
    "": "∅",
    "\u2028": "↵",
    "\u2029": "↵",
    "\u00a0": "⍽",
}


def legible(token: str) -> str:
    """A token as it can be seen: newlines as ↵, tabs as ⇥, invisible characters by their code."""
    if token.isprintable() and token:
        return token
    if not token:
        return _SIGNS[""]
    return "".join(_sign(character) for character in token)


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if character == " " or unicodedata.category(character)[0] not in "CZ":
        return character
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))  # Unicode's pictures of the control characters
    return f"⟨U+{ord(character):04X}⟩"

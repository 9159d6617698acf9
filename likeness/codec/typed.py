"""Secrets as people type, paste and save them: every encoding and Unicode form of the same text.

Source:
    Unicode normalization forms, UAX #15.
"""

import codecs
import re
import unicodedata

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LETTERS = re.compile(r"[^\W\d_]+")
_UNSEEN = "\ufeff\u200b"
"""What no keyboard has: a byte-order mark and a blank without width."""


def encoding_of(start: bytes, otherwise: str = "utf-8") -> str:
    """The encoding of a text that begins with these four bytes or fewer."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    if start[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if start[:1] == b"\0" else otherwise


def text_of(data: bytes) -> str:
    """The text of a file, whatever program saved it, with plain line ends.

    Raises:
        UnicodeDecodeError: It is neither UTF-8 nor UTF-16.
    """
    text = data.decode(encoding_of(data[:4]))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def passphrase_bytes(passphrase: str) -> bytes:
    """What a new passphrase is kept as: NFKC, without blanks at its ends, in UTF-8."""
    return _plain(passphrase).encode()


def passphrase_forms(passphrase: str) -> tuple[bytes, ...]:
    """What a passphrase may have been kept as, most likely first.

    Stores made before there was one form of it kept each as it was typed.
    """
    stripped = _stripped(passphrase)
    forms = [_plain(passphrase), passphrase]
    forms += [unicodedata.normalize(form, stripped) for form in ("NFC", "NFD")]
    forms += [unicodedata.normalize(form, passphrase) for form in ("NFC", "NFD")]
    return tuple(dict.fromkeys(form.encode() for form in forms))


def each_word(text: str) -> list[str]:
    """The words of a text, in lower case; numbers, commas and line ends only part them."""
    return _LETTERS.findall(unicodedata.normalize("NFKC", text).lower())


def _plain(passphrase: str) -> str:
    return _stripped(unicodedata.normalize("NFKC", passphrase))


def _stripped(text: str) -> str:
    return text.strip().strip(_UNSEEN).strip()

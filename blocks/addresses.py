"""Mail addresses as people write them, and as mail servers take them."""

from email.errors import HeaderParseError
from email.headerregistry import Address
from email.policy import SMTPUTF8

_MAX_USER, _MAX_ADDRESS = 64, 254  # characters, RFC 5321
_TWO_MEANINGS = frozenset("\u00df\u03c2\u200c\u200d")
"""Letters that the older and the newer rule for domains write differently: write ``xn--`` then."""
_PARTS = "an address is a name, an @ and a domain, such as ops@example.com"


def addresses_in(rows: list[str]) -> list[Address]:
    """Every address in these rows, each once.

    A row may hold several, parted by commas or semicolons, and a name before each, such as
    ``Doe, Jane <jane@example.com>``.

    Raises:
        ValueError: Something in a row is no address; the sentence says what.
    """
    found: dict[str, Address] = {}
    for row in rows:
        for address in _in_row(row):
            found.setdefault(address.addr_spec.casefold(), address)
    return list(found.values())


def needs_smtputf8(addresses: list[Address]) -> list[str]:
    """Those whose part before the @ is not ASCII: not every server can be given them."""
    return [each.addr_spec for each in addresses if not each.username.isascii()]


def _in_row(row: str) -> list[Address]:
    if any(ord(c) < 32 and c != "\t" for c in row):
        raise ValueError(f"{row!r} has a line end or another control character in it; {_PARTS}")
    found = [_address(text) for text in _parted(row)]
    if not found:
        raise ValueError(f"an empty row is nobody's address; remove it, or {_PARTS}")
    return found


def _parted(row: str) -> list[str]:
    """The row, cut after each address; a comma inside a name cuts nothing."""
    texts, rest = [""], row
    quoted = bracketed = False
    for at, c in enumerate(rest):
        quoted ^= c == '"' and rest[max(at - 1, 0)] != "\\"
        bracketed = not quoted and (c == "<" or (bracketed and c != ">"))
        if c in ",;" and not quoted and not bracketed and ("@" in texts[-1] or c == ";"):
            texts.append("")
        elif c in ",;" and not texts[-1].strip():
            continue
        else:
            texts[-1] += c
    return [text.strip() for text in texts if text.strip()]


def _address(text: str) -> Address:
    """One address, by the library's own parser; its domain as the mail system writes it."""
    name, spec = "", text
    if text.endswith(">"):
        name, _, spec = text[:-1].rpartition("<")
        name = name.strip().removeprefix('"').removesuffix('"').replace('\\"', '"')
    user, _, domain = spec.strip().rpartition("@")
    try:
        domain = ".".join(_label(label) for label in domain.split("."))
        plain = "".join(c if c.isascii() else "x" for c in user)
        Address(addr_spec=f"{plain}@{domain}")  # looks whether it can be one
        address = Address(name, user.strip('"'), domain)
        SMTPUTF8.header_factory("To", str(address))
    except (HeaderParseError, ValueError, IndexError) as cause:
        raise ValueError(f"{text!r} is no mail address; {_PARTS}") from cause
    if len(user) > _MAX_USER or len(address.addr_spec) > _MAX_ADDRESS:
        raise ValueError(f"{text[:40]!r}... is too long for a mail address")
    return address


def _label(label: str) -> str:
    if set(label) & _TWO_MEANINGS:
        raise ValueError(label)
    ascii_label = label.encode("idna").decode()
    if not ascii_label.replace("-", "").replace("_", "").isalnum():
        raise ValueError(label)
    return ascii_label

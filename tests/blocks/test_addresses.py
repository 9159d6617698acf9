"""Mail addresses as people write them; what cannot be sent is refused where it is written."""

from typing import Any

import pytest
from pydantic import ValidationError

from blocks import Mail
from blocks.addresses import addresses_in

WRITTEN = [
    ("ops@example.com", ["ops@example.com"]),
    (" <ops@example.com> ", ["ops@example.com"]),
    ("Doe, Jane <jane@example.com>", ['"Doe, Jane" <jane@example.com>']),
    (
        '"Doe; Jane" <jane@example.com>; Ops <ops@example.com>',
        ['"Doe; Jane" <jane@example.com>', "Ops <ops@example.com>"],
    ),
    ("a@x.de,b@y.de; c@z.de; A@X.de;", ["a@x.de", "b@y.de", "c@z.de"]),
    ("M\u00fcller, J\u00f6rg <j@x.de>, k@x.de", ['"M\u00fcller, J\u00f6rg" <j@x.de>', "k@x.de"]),
    ("info@b\u00fccher.example", ["info@xn--bcher-kva.example"]),
    ("b\u00fcro@b\u00fccher.example", ["b\u00fcro@xn--bcher-kva.example"]),
    ("root@localhost", ["root@localhost"]),
]
NO_ADDRESS = [
    *("", " ", ";", "nobody", "x@", "@x", "a@b@c.de", "a b@c.de", "a@b..de", "a@-", "a.@x.de"),
    *("a@x.de b@y.de", "Ops ops@x.de", "Jane <jane@x.de", "a@x.de\nBcc: b@y.de", "a@x.de\0"),
    *("a" * 65 + "@x.de", "a@" + "b" * 64 + ".de", "a@stra\u00dfe.de", "a@x.de, nobody"),
]


@pytest.mark.parametrize(("row", "meant"), WRITTEN, ids=[row for row, _ in WRITTEN])
def test_an_address_is_taken_however_it_is_written(row: str, meant: list[str]) -> None:
    assert list(map(str, addresses_in([row]))) == meant


@pytest.mark.parametrize("row", NO_ADDRESS)
@pytest.mark.parametrize("field", ["sender", "recipients"])
def test_what_cannot_be_sent_is_refused_at_the_block(row: str, field: str) -> None:
    said = refused({field: row if field == "sender" else ["b@x.de", row]}, field)

    assert "address" in said


def test_mails_come_from_one_address() -> None:
    assert "mails come from one" in refused({"sender": "a@x.de, b@x.de"}, "sender")


def refused(fields: dict[str, Any], field: str) -> str:
    """What the block says of one of its fields."""
    with pytest.raises(ValidationError) as refusal:
        Mail.model_validate({"sender": "a@x.de", "recipients": ["b@x.de"], **fields})
    (said,) = (each["msg"] for each in refusal.value.errors() if each["loc"][0] == field)
    return said

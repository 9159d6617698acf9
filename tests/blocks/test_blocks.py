"""Blocks are forms: each describes itself, and none shows what it keeps secret."""

from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect_email import EmailServerCredentials  # type: ignore[import-untyped]
from pydantic import SecretStr

import blocks
from blocks import CatalogFile, DataStoreShare, Mail, Site, Vault, XenPool

OURS: list[type[Block]] = [getattr(blocks, name) for name in blocks.__all__]
MARKER = "hunter2-do-not-show"
all_blocks = pytest.mark.parametrize("block", OURS, ids=lambda block: block.__name__)


def a_site(folder: Path) -> Site:
    return Site(
        installation="0123456789abcdef" * 2,
        xen_pool=XenPool(url="https://xen1.example", password=SecretStr(MARKER)),
        data_store=DataStoreShare(
            place="smb://nas/backup/ads",
            username="likeness",
            password=SecretStr(MARKER),
            key_file=str(folder / "store.key"),
        ),
        catalog=CatalogFile(folder=str(folder)),
        vault=Vault(place="smb://far/vault", username="likeness", password=SecretStr(MARKER)),
        mail=Mail(
            server=EmailServerCredentials(
                smtp_server="mail.example", username="likeness", password=SecretStr(MARKER)
            ),
            sender="likeness@example.com",
            recipients=["ops@example.com"],
        ),
    )


@all_blocks
def test_a_block_says_what_it_is(block: type[Block]) -> None:
    description = block.get_description()

    assert description
    assert description.rstrip().endswith(".")
    assert "Example" not in description
    assert block.get_block_type_slug().startswith("likeness-")


@all_blocks
def test_every_field_has_a_title_and_a_full_sentence(block: type[Block]) -> None:
    for name, field in block.model_fields.items():
        if not name.startswith("_"):
            assert field.title, f"{block.__name__}.{name} has no title"
            assert field.description, f"{block.__name__}.{name} has no description"
            assert field.description.endswith("."), f"{block.__name__}.{name}: {field.description}"


def test_the_form_of_a_site_finds_the_blocks_it_is_made_of() -> None:
    """Prefect finds a nested block by its schema's title; another gives a bare text box."""
    schema = Site.model_json_schema()

    nested = ("XenPool", "DataStoreShare", "CatalogFile", "Vault", "Mail")
    assert [schema["definitions"][name]["title"] for name in nested] == list(nested)


@all_blocks
def test_the_example_loads_the_block_under_its_own_name(block: type[Block]) -> None:
    example = block.get_code_example()

    assert example is not None
    assert f"from blocks import {block.__name__}" in example
    assert f'{block.__name__}.load("BLOCK_NAME")' in example
    compile(example.replace("```python", "").replace("```", ""), block.__name__, "exec")


def test_every_secret_field_is_marked_as_one() -> None:
    suspicious = {
        (block.__name__, name)
        for block in OURS
        for name, field in block.model_fields.items()
        if any(word in name for word in ("password", "token", "passphrase", "words"))
        and field.annotation is not SecretStr
    }

    assert suspicious == set()
    assert _secret_fields(Site) == [
        "data_store.password",
        "mail.server.password",
        "vault.password",
        "xen_pool.password",
    ]


def _secret_fields(block: type[Block]) -> list[str]:
    schema: dict[str, Any] = block.model_json_schema()
    return sorted(schema["secret_fields"])


def test_a_site_shows_no_password(tmp_path: Path) -> None:
    site = a_site(tmp_path)

    shown = [repr(site), str(site), f"{site!r}", repr(site.xen_pool), repr(site.vault)]
    shown += [site.model_dump_json(), repr(site.model_dump()), repr(site.data_store.__dict__)]

    assert [text for text in shown if MARKER in text] == []
    assert site.xen_pool.password.get_secret_value() == MARKER


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [
        ("30 days", True),
        ("1 day", True),
        ("2 weeks", True),
        ("12 hours", True),
        ("always", True),
        ("never", True),
        ("0 days", False),
        ("days", False),
        ("-1 days", False),
        ("30", False),
        ("3 months", False),
    ],
)
def test_how_old_a_check_may_be_is_said_in_words(
    tmp_path: Path, setting: str, *, accepted: bool
) -> None:
    fields = {**a_site(tmp_path).__dict__, "revalidate_after": setting}

    def accept() -> bool:
        try:
            Site(**{name: fields[name] for name in Site.model_fields if name in fields})
        except ValueError:
            return False
        return True

    assert accept() is accepted


def test_a_catalog_is_made_once_and_then_kept(tmp_path: Path) -> None:
    from likeness.clock import system_clock

    block = CatalogFile(folder=str(tmp_path / "here"))
    made = block.ready(system_clock).path.stat()
    again = block.ready(system_clock).path.stat()

    assert made.st_ino == again.st_ino
    assert (tmp_path / "here").stat().st_mode & 0o777 == 0o700
    assert made.st_mode & 0o777 == 0o600

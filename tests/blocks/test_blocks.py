"""Blocks are forms: each describes itself, and none shows what it keeps secret."""

import re
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect_email import EmailServerCredentials  # type: ignore[import-untyped]
from pydantic import SecretStr

import blocks
from blocks import CatalogFile, DataStoreShare, Mail, Site, Vault, XenPool
from blocks.loading import masked_fields
from blocks.site import SiteSettings
from likeness.errors import BadInput

OURS: list[type[Block]] = [getattr(blocks, name) for name in blocks.__all__ if name != "Site"]
MARKER = "hunter2-do-not-show"
all_blocks = pytest.mark.parametrize("block", OURS, ids=lambda block: block.__name__)


def a_site(folder: Path) -> Site:
    account = EmailServerCredentials(
        smtp_server="mail.example", username="likeness", password=SecretStr(MARKER)
    )
    return Site(
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
            server="mail-server", sender="likeness@example.com", recipients=["ops@example.com"]
        ).with_account(account),
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


def test_new_fields_come_after_those_of_saved_blocks() -> None:
    """Their order is part of the schema that Prefect knows a saved block by."""
    shared = ["place", "username", "password", "encrypt"]
    added = ["endpoint", "region", "path_style", "ca_file"]
    fields = {
        kind: [each for each in kind.model_fields if not each.startswith("_")]
        for kind in (DataStoreShare, Vault)
    }
    delegates = ["drop_box_username", "drop_box_password"]
    ways = ["most_mib_a_second", "at_hours", "read_back_after", "locked_days", "keep"]
    assert fields == {
        DataStoreShare: [*shared, "key_file", *added, *delegates, "read_only"],
        Vault: [*shared, *added, *ways],
    }


@all_blocks
def test_no_form_nests_a_block(block: type[Block]) -> None:
    """Prefect's editor saves a nested block inline, with asterisks in place of its passwords."""
    schema: dict[str, Any] = block.model_json_schema()

    assert schema["block_schema_references"] == {}
    assert [name for name in schema["secret_fields"] if "." in name] == []


@all_blocks
def test_the_schema_is_made_once_and_is_what_prefect_makes(
    block: type[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect asks for each field of each block it writes down: a third of a job's CPU."""
    made: dict[str, Any] = Block.model_json_schema.__func__(block)  # type: ignore[attr-defined]
    assert block.model_json_schema() == made

    block.model_json_schema()["properties"].clear()  # what one caller does no other sees
    monkeypatch.setattr(Block, "model_json_schema", lambda *_: pytest.fail("made again"))
    assert block.model_json_schema() == made


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


def test_a_site_shows_no_password(tmp_path: Path) -> None:
    site = a_site(tmp_path)

    shown = [repr(site), str(site), f"{site!r}", repr(site.xen_pool), repr(site.vault)]
    shown += [site.model_dump_json(), repr(site.model_dump()), repr(site.data_store.__dict__)]
    shown += [repr(site.mail), site.mail.model_dump_json() if site.mail else ""]

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
def test_how_old_a_check_may_be_is_said_in_words(setting: str, *, accepted: bool) -> None:
    def accept() -> bool:
        try:
            SiteSettings(revalidate_after=setting)
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


def test_an_installation_gets_its_id_once_and_from_its_store_when_the_folder_was_lost(
    tmp_path: Path,
) -> None:
    block, owner = CatalogFile(folder=str(tmp_path / "here")), "ab" * 16

    made = block.installation(lambda: "")

    assert re.fullmatch(r"[0-9a-f]{32}", made)
    assert block.installation(lambda: owner) == made
    assert CatalogFile(folder=str(tmp_path / "new")).installation(lambda: owner) == owner
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["installation"]
    (tmp_path / "here" / "installation").write_text("none")
    with pytest.raises(BadInput, match="does not hold the 32 hex digits"):
        block.installation(lambda: owner)


@pytest.mark.parametrize(
    ("password", "is_mask"), [("********", True), ("*****", False), ("", False)]
)
def test_a_password_that_is_only_a_forms_mask_is_recognised(
    password: str, *, is_mask: bool
) -> None:
    pool = XenPool(url="https://xen1.example", password=SecretStr(password))

    assert masked_fields(pool) == (["password"] if is_mask else [])


def test_a_block_that_cannot_be_used_stops_only_what_needs_it(tmp_path: Path) -> None:
    whole = a_site(tmp_path)
    site = Site(
        xen_pool=whole.xen_pool,
        data_store=whole.data_store,
        catalog=whole.catalog,
        vault="the Vault block 'main-vault' holds asterisks instead of its password",
    )

    assert site.data_store.place == "smb://nas/backup/ads"
    assert site.mail is None
    with pytest.raises(BadInput, match="Vault block 'main-vault' holds asterisks"):
        _ = site.vault

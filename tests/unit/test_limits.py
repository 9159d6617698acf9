"""Beyond every limit a backup goes on, or is refused in a sentence before anything is written."""

import json
from dataclasses import replace

import pytest

from likeness.errors import BadInput
from likeness.model.disk import VmFacts
from likeness.model.ids import PackId, random_name
from likeness.store.format.documents import MAX_CONFIGURATION, MAX_DISKS, MAX_TEXT
from likeness.store.prune.sweeping import delete_redundant_packs, deleted_packs
from likeness.store.read.versions import Version, read_version
from likeness.store.write.free_text import cut_texts, fitting, fitting_configuration
from likeness.store.write.receipts import TransferReceipt
from tests.unit.workshop import CHUNK, Workshop, changed, noise

DISK = noise(1, 3 * CHUNK)
LONG = "Ein Vermerk, der nicht endet. " * 500
ODD = [LONG, "ä" * 5000, "\U0001f5a5" * 5000, "\0" * 5000, "half \ud800 a pair", '"\\\n' * 2000]


def with_text(receipt: TransferReceipt, text: str) -> TransferReceipt:
    """The same, with one text wherever a person or a pool may write one."""
    disks = tuple(
        replace(each, facts=replace(each.facts, name=text, position=text)) for each in receipt.disks
    )
    return replace(
        receipt,
        vm=replace(receipt.vm, name=text),
        disks=disks,
        job=text,
        note=text,
        consistency=text,
        consistency_asked=text,
    )


def again(workshop: Workshop, version: Version) -> Version:
    return read_version(workshop.store, version.name)


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:4].encode("unicode_escape").decode())
def test_no_text_keeps_a_vm_from_being_backed_up(workshop: Workshop, text: str) -> None:
    receipt = with_text(workshop.transfer(DISK), text)

    version = workshop.commit(receipt)

    record = again(workshop, version).record
    assert workshop.restore(version) == DISK
    for kept in (record.vm_name, record.note, record.job, record.disks[0].name):
        assert len(kept) <= MAX_TEXT
        assert kept[:4] == text[:4]
    assert ("remark", text) in list(cut_texts(receipt))


def test_a_text_that_fits_is_kept_as_it_is_and_a_cut_one_says_so() -> None:
    assert fitting("x" * MAX_TEXT) == "x" * MAX_TEXT
    cut = fitting("x" * (MAX_TEXT + 1))
    assert len(cut) == MAX_TEXT
    assert cut.endswith("x ... (4097 characters in all)")


def test_the_next_version_of_a_vm_with_long_names_lies_on_the_first(workshop: Workshop) -> None:
    workshop.commit(with_text(workshop.transfer(DISK), LONG))
    disk = changed(DISK, (0, b"new"))

    second = workshop.commit(with_text(workshop.transfer(disk), LONG))

    assert second.record.disks[0].deltas == 1
    assert workshop.restore(second) == disk


def described(long: object) -> str:
    return json.dumps({"format": 1, "VM": {"name_label": "web", "long": long}, "disks": [1, 2]})


@pytest.mark.parametrize(
    "long",
    [
        "x" * (MAX_CONFIGURATION + 1),
        "\0\1" * 2_000_000,
        {f"key {at}": "value" * 10 for at in range(300_000)},
        ["x" * 100_000] * 200,
        {"y" * 17_000_000: 1},
    ],
    ids=["text", "controls", "many keys", "many texts", "a long key"],
)
def test_a_description_that_is_too_long_is_kept_without_its_long_parts(
    workshop: Workshop, long: object
) -> None:
    receipt = workshop.transfer(DISK)
    facts = VmFacts(receipt.vm.vm, "web", described(long))

    version = workshop.commit(replace(receipt, vm=facts))

    kept = json.loads(again(workshop, version).record.configuration)
    assert kept["format"] == 1
    assert kept["VM"]["name_label"] == "web"
    assert kept["disks"] == [1, 2]
    assert type(kept["VM"]["long"]) is type(long)


@pytest.mark.parametrize("text", ["x" * 17_000_000, '"' * 17_000_000, "[" * 17_000_000])
def test_a_description_that_is_no_json_keeps_nobody_from_anything(text: str) -> None:
    kept = json.loads(fitting_configuration(text))

    assert kept["left out"] == "17000000 characters"
    assert fitting_configuration("[" * 100) == "[" * 100, "a short one is nobody's business here"


def test_a_vm_with_too_many_disks_is_refused_in_a_sentence(workshop: Workshop) -> None:
    receipt = workshop.transfer(DISK)
    many = replace(receipt, disks=receipt.disks * (MAX_DISKS + 1))

    with pytest.raises(BadInput, match=r"VM 'web' has 1025 disks.*leave some out"):
        workshop.commit(many)
    assert not workshop.names("packs")
    assert not workshop.names("maps")


def test_a_map_of_many_parts_is_written_in_full_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likeness.store.write.commit.MAX_PARTS", 3)
    deltas = []
    disk = DISK
    for at in range(8):
        disk = changed(disk, (at, b"new"))
        version = workshop.back_up(disk)
        deltas.append(version.record.disks[0].deltas)
        assert workshop.restore(version) == disk

    assert deltas == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_statement_of_very_many_packs_is_made_in_several(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likeness.store.prune.sweeping._MAX_PACKS", 2)
    kept = workshop.transport
    packs = [PackId(random_name()) for _ in range(5)]
    holder = PackId(random_name())
    kept.create(f"packs/{holder[:2]}/{holder}", [b"pack"])

    delete_redundant_packs(
        workshop.store,
        lambda: {pack: {holder: 4} for pack in packs},
        reason="a test",
        clock=workshop.clock,
    )

    assert deleted_packs(workshop.store) == set(packs)
    assert len(workshop.names("gc")) == 3

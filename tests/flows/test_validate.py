"""Validation: what is damaged turns red wherever it is needed; what cannot be read says nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact

from catalog.values import DocumentCheck, Verdict
from likeness.errors import CatalogBusy
from tasks.proving import Prover
from tests.flows.scene import MIB, Scene, noise

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))


def verdicts_of(site: Scene, vm: str) -> list[Verdict]:
    return [row.verdict for row in site.listed(vm)]


def test_a_damaged_pack_turns_every_version_that_needs_it_red_and_the_next_job_heals_it(
    site: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.back_up("web", "db", validated=True)
    held_nothing = 3 * MIB  # so that both versions need all that the first one brought
    site.pool.write("web", disk=0, offset=held_nothing, data=noise("changed", 4096))
    site.back_up("web", "db", validated=True)
    assert set(site.verdicts()) == {Verdict.GOOD}
    site.revalidate_always()
    _a_store_that_is_away_turns_nothing_red(site)
    packs = {path: path.stat().st_size for path in site.packs()}
    largest_of_web = max(packs, key=lambda path: packs[path])
    flip(largest_of_web, packs[largest_of_web] // 2)

    ended = site.validate()

    assert (ended.name, ended.is_failed()) == ("Failed", True)
    assert ended.message
    assert "damage found" in ended.message
    red = {row.vm_name for row in site.listed() if row.verdict is Verdict.BAD}
    assert red == {"web"}
    assert verdicts_of(site, "web") == [Verdict.BAD, Verdict.BAD]
    assert verdicts_of(site, "db") == [Verdict.GOOD, Verdict.GOOD]
    for row in site.listed("web"):
        assert row.version[:8] in ended.message
    with pytest.raises(Exception, match=r"web|disk"):
        site.restore(site.newest("web").version)

    site.back_up("web", "db", validated=True)
    site.validate()

    assert set(site.verdicts()) == {Verdict.GOOD}
    for vm in ("web", "db"):
        assert site.restore(site.newest(vm).version) == site.disks(vm)
    _damage_found_by_an_attempt_that_broke_off_is_not_forgotten(site, monkeypatch)


def _a_store_that_is_away_turns_nothing_red(site: Scene) -> None:
    away = site.place.rename(site.folder / "away")

    ended = site.validate()
    away.rename(site.place)

    assert ended.is_failed()
    assert set(site.verdicts()) == {Verdict.GOOD}
    assert site.validate().is_completed()


def _damage_found_by_an_attempt_that_broke_off_is_not_forgotten(
    site: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = max(site.packs(), key=lambda path: path.stat().st_size)
    flip(pack, pack.stat().st_size // 3)
    documents, looked = Prover.documents, []

    def once_busy(prover: Prover, *given: Any, **more: Any) -> list[DocumentCheck]:
        looked.append(prover)
        if len(looked) == 1:
            raise CatalogBusy("somebody else has it")
        return documents(prover, *given, **more)

    monkeypatch.setattr(Prover, "documents", once_busy)
    ended = site.validate()

    assert len(looked) == 2
    assert ended.is_failed()
    assert "damage found" in str(ended.message)


def artifacts(key: str) -> list[Artifact]:
    known = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=known)


def test_a_run_is_validated_by_its_id_the_list_is_kept_once_and_each_site_shows_its_own(
    new_site: Callable[..., Scene],
) -> None:
    north, south = new_site({"north": [noise("north", MIB)]}), new_site({"south": [MIB]})
    north.back_up("north")
    run = UUID(north.newest("north").run)

    for unknown in (str(uuid4()), "nightly"):
        refused = north.validate(run=unknown)
        assert refused.is_failed()
        assert f"no backup run {unknown!r} is known" in str(refused.message)
    assert north.verdicts() == [Verdict.UNCHECKED]
    assert north.validate(run=str(run)).is_completed()
    assert north.verdicts() == [Verdict.GOOD]

    for _ in range(2):
        (only,) = artifacts(f"versions-{north.name}")
        assert "✅" in str(json.loads(str(only.data)))
        north.validate()

    south.back_up("south", validated=True)
    for site, vm, other in ((north, "north", "south"), (south, "south", "north")):
        (versions,) = artifacts(f"versions-{site.name}")
        (row,) = json.loads(str(versions.data))
        pages = {str(page.data) for page in artifacts(f"dashboard-{site.name}")}
        assert row["VM"] == vm
        assert any(f"artifacts/artifact/{versions.id}" in page and vm in page for page in pages)
        assert not any(other in page for page in pages)

    _a_pack_that_is_missing_turns_its_versions_red(north)


def _a_pack_that_is_missing_turns_its_versions_red(site: Scene) -> None:
    (lost,) = site.packs()
    lost.unlink()

    ended = site.validate()

    assert ended.is_failed()
    assert site.verdicts() == [Verdict.BAD]

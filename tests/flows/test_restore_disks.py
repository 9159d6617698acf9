"""Images of a version: what is damaged comes from the vault, or is told byte by byte."""

import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from catalog.locations_of_disk import locations_of_disk
from flows.restore import restore_disks
from flows.restore_vm import restore_vm
from likeness.errors import ShareUnreachable
from likeness.store.format.documents import DiskRecord
from likeness.store.read.restoring import restore_disk
from tasks.outcomes import DamageAccepted
from tests.flows.scene import Scene, open_scene, sha256
from tests.flows.test_validate import artifacts

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


@pytest.fixture(scope="module")
def kept(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """A version of a VM with two disks, that was proved; tests leave it as it is."""
    with open_scene(tmp_path_factory.mktemp("kept") / "site") as made:
        assert made.back_up("web", validated=True).is_completed()
        yield made


def test_the_vault_stands_in_for_a_damaged_block_and_for_a_lost_store_and_damage_is_accepted(
    site: Scene,
) -> None:
    site.back_up("web", validated=True, vault=True)
    for pack in site.packs():
        content = bytearray(pack.read_bytes())
        content[len(content) // 3] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(content)

    def restore(folder: str, **more: Any) -> Any:
        return restore_disks(
            "last good",
            str(site.folder / folder),
            site=site.name,
            vm="web",
            return_state=True,
            **more,
        )

    mended = restore("mended")
    assert mended.name == "CompletedWithWarnings", mended.message
    assert "a data block was taken from" in mended.message
    assert [sha256(disk.path.read_bytes()) for disk in mended.result()] == site.disks("web")

    one = restore_vm("web", new_name="one", site=site.name, return_state=True)
    assert one.name == "CompletedWithWarnings"
    assert "a data block was taken from" in str(one.message)
    assert site.disks("one") == site.disks("web")
    away = site.place.rename(site.folder / "away")
    two = restore_vm("web", new_name="two", site=site.name, return_state=True)
    assert two.name == "CompletedWithWarnings", two.message
    assert "the data store cannot be read, the vault is instead" in str(two.message)
    assert site.disks("two") == site.disks("web")

    away.rename(site.place)
    shutil.rmtree(site.folder / "vault")
    refused = restore("refused")
    assert refused.is_failed()
    assert "ranges, the first at byte" in refused.message
    left = {path.name for path in (site.folder / "refused").iterdir()}
    assert len(left) < len(site.disks("web"))  # no image of the damaged disk

    accepted = restore("accepted", accept_damage=True)
    assert (accepted.is_failed(), accepted.name) == (True, "CompletedWithErrors")
    problem = accepted.result(raise_on_failure=False)
    assert isinstance(problem, DamageAccepted)
    (hurt, *_) = [disk for disk in problem.disks if disk.lost_bytes]
    told = json.loads(hurt.path.with_name(f"{hurt.path.name}.damage.json").read_text())
    assert told["lost_bytes"] == hurt.lost_bytes
    assert f"{hurt.path.name}.damage.json" in accepted.message
    image = hurt.path.read_bytes()
    assert not any(
        image[each["offset"] : each["offset"] + each["length"]].strip(b"\0")
        for each in told["lost"]
    )


def test_the_catalog_says_where_everything_is_and_the_index_is_not_needed(
    kept: Scene,
) -> None:
    site, version = kept, kept.newest("web")
    for disk in version.disks:
        known = locations_of_disk(site.site.catalog.file, version.version, disk.disk)
        assert len(known.positions) == {"0": 12, "1": 8}[disk.plugged_at]
        assert {pack.name for pack in site.packs()} >= set(known.packs)
    index = (site.place / "index").rename(site.folder / "index")
    (site.place / "index").mkdir()

    folder = str(site.folder / "by the catalog")
    done: Any = restore_disks(version.version, folder, site=site.name, return_state=True)
    (site.place / "index").rmdir()
    index.rename(site.place / "index")

    assert done.name == "Completed", done.message
    assert [sha256(disk.path.read_bytes()) for disk in done.result()] == site.disks("web")


def test_files_are_named_by_vm_date_and_position_and_never_overwritten(kept: Scene) -> None:
    site, row = kept, kept.newest("web")
    folder = site.folder / "restored"
    restore_disks(row.version, str(folder), site=site.name)

    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"web-{row.taken_at:%Y-%m-%d-%H%M%S}-disk{n}.raw" for n in (0, 1)]
    shown = max(artifacts(f"restore-{site.name}"), key=lambda each: str(each.created))
    assert [each["disk"][:6] for each in json.loads(str(shown.data))] == ["disk 0", "disk 1"]

    again = restore_disks(row.version, str(folder), site=site.name, return_state=True)
    unknown = restore_disks("0000000", str(folder), site=site.name, return_state=True)
    nowhere = restore_disks(row.version, "restored", site=site.name, return_state=True)

    assert "exists already" in str(again.message)
    assert "no version begins with '0000000'" in str(unknown.message)
    assert "a folder from the root on" in str(nowhere.message)
    assert not Path("restored").exists()


def test_a_restore_that_is_tried_again_goes_on_with_the_disks_that_are_left(
    kept: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def once_away(store: Any, disk: DiskRecord, writer: Any, **more: Any) -> None:
        begun.append(disk.name)
        if len(begun) == 2:
            writer.abandon()
            raise ShareUnreachable("the share went away")
        restore_disk(store, disk, writer, **more)

    monkeypatch.setattr("tasks.restore.restore_disk", once_away)

    assert kept.restore(kept.newest("web").version) == kept.disks("web")
    assert len(begun) == 3

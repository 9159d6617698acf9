"""Images of a version: what is damaged comes from the vault, or is told byte by byte."""

import json
import shutil
from typing import Any

import pytest

from catalog.locations_of_disk import locations_of_disk
from flows.restore import restore_disks
from tasks.outcomes import DamageAccepted
from tests.flows.scene import Scene, sha256

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def test_damage_is_taken_from_the_vault_and_said_or_accepted_with_a_map(site: Scene) -> None:
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


def test_the_catalog_says_where_everything_is_and_the_index_is_not_needed(site: Scene) -> None:
    site.back_up("web", validated=True)
    version = site.newest("web")
    for disk in version.disks:
        known = locations_of_disk(site.site.catalog.file, version.version, disk.disk)
        assert len(known.positions) == {"0": 12, "1": 8}[disk.plugged_at]
        assert {pack.name for pack in site.packs()} >= set(known.packs)
    for path in (site.place / "index").iterdir():
        path.unlink()

    folder = str(site.folder / "by the catalog")
    done: Any = restore_disks(version.version, folder, site=site.name, return_state=True)

    assert done.name == "Completed", done.message
    assert [sha256(disk.path.read_bytes()) for disk in done.result()] == site.disks("web")

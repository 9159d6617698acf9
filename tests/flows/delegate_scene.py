"""A site whose store is on a real share, and whose pool has a template for delegates."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from blocks import DataStoreShare, XenPool
from flows.set_up import set_up_site
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.model.ids import random_name
from likeness.xen.delegates import DEFAULT_TAG
from tests.flows.scene import NOTHING_LEFT, QUICK, Scene, image
from tests.smb.server import SmbServer


@contextmanager
def delegate_scene(
    folder: Path,
    server: SmbServer,
    vms: Mapping[str, Sequence[bytes]],
    *,
    store: Mapping[str, Any] | None = None,
    **pool_fields: Any,
) -> Generator[Scene, None, None]:
    """Some VMs, a template, and a site that keeps versions on a share, while the `with` lasts.

    Args:
        folder: A new folder for everything.
        server: Where the share is.
        vms: Names of VMs to the content of their disks.
        store: Other fields of the data store's block.
        pool_fields: More fields of the Xen Pool block.
    """
    (folder / "here").mkdir(parents=True)
    pool = Pool(Settings(**QUICK, guest_tag=DEFAULT_TAG))
    for name, disks in vms.items():
        pool.add_vm(name, [image(folder, f"{name}-{at}", disk) for at, disk in enumerate(disks)])
    pool.add_template("abd", tag=DEFAULT_TAG)
    with LabServer(pool) as lab:
        yield _a_site(lab, folder, server, store or {}, pool_fields)


def _a_site(
    lab: LabServer,
    folder: Path,
    server: SmbServer,
    store: Mapping[str, Any],
    pool_fields: Mapping[str, Any],
) -> Scene:
    """Its store is a folder of the share."""
    name = f"enhanced-{random_name()[:12]}"
    fields: dict[str, Any] = {
        "place": f"smb://127.0.0.1:{server.port}/ads/{name}",
        "username": server.username,
        "password": SecretStr(server.password),
        "key_file": str(folder / "here" / "store.key"),
        "drop_box_username": server.username,
        "drop_box_password": SecretStr(server.password),
    }
    made = set_up_site(
        name,
        pool=XenPool(
            url=lab.url,
            username=lab.username,
            password=SecretStr(lab.password),
            **pool_fields,
        ),
        data_store=DataStoreShare(**(fields | dict(store))),
        folder=folder / "here",
    )
    return Scene(name, made.site, lab, folder, made.recovery_words)


def left(scene: Scene) -> dict[str, int]:
    """What is left of runs: in the pool, and of the guests in delegates."""
    db = scene.pool.db
    return scene.left_in_the_pool() | {
        "delegates": sum("ABD for" in db.get("VM", ref, "name_label") for ref in db.refs("VM")),
        "guests": len(scene.pool.guests.running),
        "disks of VMs": len(db.where("VDI", is_a_snapshot=False, managed=True)),
        "drives": db.count("VBD"),
    }


def nothing(scene: Scene) -> dict[str, int]:
    """The same of a pool where no run has been."""
    db = scene.pool.db
    disks = sum(len(db.get("VM", ref, "VBDs")) for ref in db.where("VM", is_a_snapshot=False))
    return NOTHING_LEFT | {"delegates": 0, "guests": 0, "disks of VMs": disks, "drives": disks}

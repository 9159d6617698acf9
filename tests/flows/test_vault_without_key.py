"""A vault host that holds no key of the data store, beside a share that it may only read."""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from catalog.values import VersionRow
from flows.protect import protect, rehearse
from likeness.codec.documents import Frame, Kind, write_document
from likeness.codec.slots import read_key_file
from likeness.store.format.documents import NeedsDocument, decode, encode
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.versions import find_version
from likeness.transport.local import LocalTransport
from tests.cli.conftest import ROOT
from tests.flows.scene import Scene, noise
from tests.smb.server import SmbServer

pytestmark = [pytest.mark.prefect, pytest.mark.smb, pytest.mark.lab]
FAR = """
import sys
from blocks import Site
from catalog.vault_reading import vault_ages
from catalog.versions import list_versions
from flows.vault import check_vault, vault
from likeness.clock import system_clock
from likeness.errors import BadInput
name, site = sys.argv[1], Site.named(sys.argv[1])
try:
    with site.data_store.open():
        print("OPENED")
except BadInput as cause:
    print(cause)
for flow in (vault, check_vault, vault):
    ended = flow(site=name, return_state=True)
    print(flow.name, ended.name, ended.message, sep=": ")
ages = vault_ages(site.catalog.file, site.place_of("vault"))
print("there and read back", ages.there, ages.read_back)
for row in list_versions(site.catalog.file, system_clock(), None):
    print("version", row.version, row.vm_name, row.vaults != (), len(row.read_back))
"""


@pytest.fixture
def server(site: Scene) -> Generator[SmbServer, None, None]:
    """Gives the site's data store out, to be read only."""
    made = SmbServer()
    try:
        made.use_folder("ads", site.place)
        made.set_read_only("ads")
        made.start()
        yield made
    finally:
        made.remove()


class FarHost:
    """The host of the vault: processes of its own, and a folder without any key."""

    def __init__(self, site: Scene, server: SmbServer) -> None:
        self.site, self.server = site, server
        self.name = f"{site.name}-far"
        self.folder, self.vault = site.folder / "far-here", site.folder / "far"
        self.folder.mkdir(mode=0o700)
        self.vault.mkdir()

    def run(self, *command: str, given: str = "") -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
            input=given,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def set_up(self) -> None:
        """As docs/operating.md says: a file made where the key is, and then `likeness pull`."""
        made = self.folder / "store.vault"
        key = self.site.site.data_store.key_file
        place = str(self.site.place)
        words = ("-m", "likeness", "vault-file", "--store", place, "--key-file", key)
        self.run(*words, "--to", str(made))
        share = f"smb://127.0.0.1:{self.server.port}/ads"
        words = ("-m", "likeness", "pull", "--name", self.name, "--store", share)
        words = (*words, "--store-account", self.server.username, "--vault-file", str(made))
        words = (*words, "--vault", str(self.vault), "--folder", str(self.folder))
        self.run(*words, given=f"{self.server.password}\n")

    def fill(self) -> list[str]:
        """Run `vault`, `check-vault` and `vault` there; what came of it."""
        return self.run("-c", FAR, self.name).splitlines()

    def holds(self, secret: bytes) -> bool:
        """Whether any file of the host or its vault has these bytes, or their digits."""
        places = (self.folder, self.vault)
        files = (path for each in places for path in each.rglob("*") if path.is_file())
        wanted = (secret, secret.hex().encode())
        return any(each in path.read_bytes() for path in files for each in wanted)


def short_of_a_pack(site: Scene) -> Path:
    """Put a list in place that the store signed, and that omits a pack; where it lies."""
    (path, *_) = sorted((site.place / "needs").glob("*/*"))
    name = str(path.relative_to(site.place))
    with site.store() as store:
        frame = Frame.parse(path.read_bytes(), name=name)
        said = decode(frame.clear, NeedsDocument, name=name)
        clear = encode(
            NeedsDocument(
                vm=said.vm,
                made_at=said.made_at,
                versions=said.versions,
                maps=said.maps,
                packs=said.packs[1:],
            )
        )
        data = write_document(Kind.NEEDS, name, clear, keys=store.keys, suite=store.suite)
    path.chmod(0o600)
    path.write_bytes(data)
    return path


def test_a_host_without_any_key_fills_a_vault_from_which_every_version_restores(
    site: Scene, server: SmbServer
) -> None:
    far = FarHost(site, server)
    far.set_up()
    assert site.back_up("web", "db", validated=True).name == "Completed"
    disks = {site.newest(vm).version: site.disks(vm) for vm in ("web", "db")}
    with site.store() as store:
        master, chunks = store.keys.master, store.keys.chunk_id_key

    said = far.fill()

    assert "this machine holds no key of the data store" in said[0]
    assert [line.split(": ")[:2] for line in said[1:4]] == [
        ["vault", "Completed"],
        ["check-vault", "Completed"],
        ["vault", "Completed"],
    ], said
    assert "there and read back 2 2" in said
    site.pool.write("db", disk=0, offset=0, data=noise("second", 300_000))
    assert site.back_up("db", validated=True).name == "Completed"
    disks[site.newest("db").version] = site.disks("db")
    assert "there and read back 3 3" in far.fill()

    for secret in (master, chunks, read_key_file(Path(site.site.data_store.key_file))):
        assert not far.holds(secret)
    rows: list[VersionRow] = site.listed()
    key = site.folder / "kept.key"
    shutil.copy(site.site.data_store.key_file, key)
    shutil.rmtree(site.place)
    copied = open_store_with_key_file(LocalTransport(far.vault), key)
    assert {row.version for row in rows} == disks.keys()
    for version, content in disks.items():
        assert site.read_back(find_version(copied, version), place=far.vault) == content


def test_a_list_that_omits_data_is_found_where_the_key_is_and_the_vault_gets_the_rest(
    site: Scene, server: SmbServer
) -> None:
    far = FarHost(site, server)
    far.set_up()
    assert site.back_up("db").name == "Completed"
    version, content = site.newest("db").version, site.disks("db")
    assert rehearse(site=site.name, return_state=True).is_completed()
    lie = short_of_a_pack(site)
    assert "there and read back 1 1" in far.fill(), "without a key nobody can know"

    found = rehearse(site=site.name, return_state=True)

    assert found.is_failed()
    assert f"omits what versions need: {version[:8]}" in str(found.message)
    assert not lie.exists()
    assert rehearse(site=site.name, return_state=True).is_completed()
    assert "there and read back 1 1" in far.fill()
    copied = open_store_with_key_file(
        LocalTransport(far.vault), Path(site.site.data_store.key_file)
    )
    assert site.read_back(find_version(copied, version), place=far.vault) == content
    assert protect(site=site.name, return_state=True).is_completed()
    assert len(list((site.place / "needs").glob("*/*"))) == 1


def test_a_pack_that_was_damaged_before_it_was_fetched_holds_nothing_up_once_it_is_healed(
    site: Scene, server: SmbServer
) -> None:
    far = FarHost(site, server)
    far.set_up()
    assert site.back_up("web", "db").name == "Completed"
    pack = site.packs()[0]
    spoilt = bytearray(pack.read_bytes())
    spoilt[len(spoilt) // 3] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(spoilt)

    said = far.fill()

    assert "a pack it needs is damaged in the data store" in said[1]
    assert "there and read back 1 1" in said
    site.validate()
    assert site.back_up("web", "db", validated=True).name == "Completed"
    said = far.fill()
    assert "there and read back 4 4" in said
    copied = open_store_with_key_file(
        LocalTransport(far.vault), Path(site.site.data_store.key_file)
    )
    for row in site.listed():
        version = find_version(copied, row.version)
        assert site.read_back(version, place=far.vault) == site.disks(row.vm_name)

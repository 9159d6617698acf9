"""A vault host that holds no key of the data store, beside a share that it may only read."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from blocks import DataStoreShare, Site, Vault
from catalog.values import VersionRow
from catalog.vault_reading import vault_ages
from flows.protect import protect, rehearse
from flows.pull import set_up_pull
from flows.vault import check_vault, vault
from likeness.codec.documents import Frame, Kind, write_document
from likeness.codec.slots import read_key_file
from likeness.store.format.documents import NeedsDocument, decode, encode
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.versions import find_version
from likeness.transport.local import LocalTransport
from tests.cli.conftest import ROOT, Shell
from tests.flows.scene import Scene, noise
from tests.smb.server import SmbServer

pytestmark = [pytest.mark.prefect, pytest.mark.smb, pytest.mark.lab]
FAR = """
import sys
from pathlib import Path
from blocks import Site
from catalog.vault_reading import vault_ages
from flows.pull import COMMAND
from flows.vault import check_vault, vault
from likeness.cli.running import run_alone
from likeness.errors import BadInput
name, *words = sys.argv[1:]
sys.argv[1:] = ["--name", name, *words]
assert run_alone(COMMAND) == 0
site = Site.named(name)
try:
    with site.data_store.open():
        print("OPENED")
except BadInput as cause:
    print(cause, flush=True)
for _ in sys.stdin:
    for flow in (vault, check_vault, vault):
        ended = flow(site=name, return_state=True)
        print(flow.name, ended.name, ended.message, sep=": ")
    ages = vault_ages(site.catalog.file, site.place_of("vault"))
    print("there and read back", ages.there, ages.read_back, flush=True)
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
    """The host of the vault: a folder without any key."""

    def __init__(self, site: Scene) -> None:
        self.site = site
        self.name = f"{site.name}-far"
        self.folder, self.vault = site.folder / "far-here", site.folder / "far"
        self.folder.mkdir(mode=0o700)
        self.vault.mkdir()
        self.file = self.folder / "far.vault"
        words = ["--store", site.place, "--key-file", site.site.data_store.key_file]
        done = Shell(site.folder).run("vault-file", *words, "--to", self.file)
        assert done.returncode == 0, done.stderr

    def set_up(self) -> None:
        """As `likeness pull` does, in this process, and with the store's folder itself."""
        set_up_pull(
            self.name,
            data_store=DataStoreShare(place=str(self.site.place), key_file=str(self.file)),
            vault=Vault(place=str(self.vault)),
            folder=self.folder,
        )

    def fill(self) -> tuple[str, int]:
        """Run `vault` and `check-vault` here; what the first said, and what is whole there."""
        said = str(vault(site=self.name, return_state=True).message)
        check_vault(site=self.name, return_state=True)
        ages = vault_ages(Site.named(self.name).catalog.file, str(self.vault))
        assert ages.there == ages.read_back
        return said, ages.there

    def holds(self, secret: bytes) -> bool:
        """Whether any file of the host or its vault has these bytes, or their digits."""
        places = (self.folder, self.vault)
        files = (path for each in places for path in each.rglob("*") if path.is_file())
        wanted = (secret, secret.hex().encode())
        return any(each in path.read_bytes() for path in files for each in wanted)


@contextmanager
def in_its_own_process(far: FarHost, server: SmbServer) -> Generator[Callable[[], list[str]], None]:
    """`likeness pull` from the share, and then `vault`, `check-vault` and `vault` when called."""
    share = f"smb://127.0.0.1:{server.port}/ads"
    words = ["--store", share, "--store-account", server.username, "--vault-file", str(far.file)]
    words += ["--vault", str(far.vault), "--folder", str(far.folder)]
    process = subprocess.Popen(
        [sys.executable, "-c", FAR, far.name, *words],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    given, answers = process.stdin, process.stdout
    assert given
    assert answers
    given.write(f"{server.password}\n")
    assert any("this machine holds no key of the data store" in line for line in answers)

    def fill() -> list[str]:
        given.write("again\n")
        said: list[str] = []
        for line in answers:
            said.append(line.rstrip())
            if line.startswith("there and read back"):
                break
        return said

    try:
        yield fill
    finally:
        given.close()
        answers.close()
        process.wait(60)


def short_of_a_pack(site: Scene, vm: str) -> Path:
    """Put a list in place that the store signed, and omitting all packs of a VM; where it lies."""
    (path,) = (site.place / "needs" / vm).iterdir()
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
                packs=(),
            )
        )
        data = write_document(Kind.NEEDS, name, clear, keys=store.keys, suite=store.suite)
    path.chmod(0o600)
    path.write_bytes(data)
    return path


def test_a_host_without_any_key_fills_a_vault_from_which_every_version_restores(
    site: Scene, server: SmbServer
) -> None:
    far = FarHost(site)
    assert site.back_up("web", "db").name == "Completed"
    disks = {site.newest(vm).version: site.disks(vm) for vm in ("web", "db")}
    with site.store() as store:
        master, chunks = store.keys.master, store.keys.chunk_id_key

    with in_its_own_process(far, server) as fill:
        said = fill()
        assert [line.split(": ")[:2] for line in said[-4:-1]] == [
            ["vault", "Completed"],
            ["check-vault", "Completed"],
            ["vault", "Completed"],
        ], said
        assert said[-1] == "there and read back 2 2"
        site.pool.write("db", disk=0, offset=0, data=noise("second", 300_000))
        assert site.back_up("db").name == "Completed"
        disks[site.newest("db").version] = site.disks("db")
        assert fill()[-1] == "there and read back 3 3"

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


def test_what_was_damaged_or_left_out_of_a_list_comes_to_the_vault_once_it_is_mended(
    site: Scene,
) -> None:
    far = FarHost(site)
    far.set_up()
    held = {vm: site.disks(vm) for vm in ("web", "db")}
    _a_pack_that_was_damaged_holds_nothing_up_once_it_is_healed(site, far)
    _a_list_that_omits_data_is_found_where_the_key_is(site, far)
    copied = open_store_with_key_file(
        LocalTransport(far.vault), Path(site.site.data_store.key_file)
    )
    newest = site.newest("db").version
    for row in site.listed():
        version = find_version(copied, row.version)
        wanted = site.disks("db") if row.version == newest else held[row.vm_name]
        assert site.read_back(version, place=far.vault) == wanted


def _a_pack_that_was_damaged_holds_nothing_up_once_it_is_healed(site: Scene, far: FarHost) -> None:
    assert site.back_up("web", "db").name == "Completed"
    pack = site.packs()[0]
    spoilt = bytearray(pack.read_bytes())
    spoilt[len(spoilt) // 3] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(spoilt)

    said, whole = far.fill()

    assert "a pack it needs is damaged in the data store" in said
    assert whole == 1
    site.validate()
    assert site.back_up("web", "db", validated=True).name == "Completed"
    assert far.fill()[1] == 4


def _a_list_that_omits_data_is_found_where_the_key_is(site: Scene, far: FarHost) -> None:
    site.pool.write("db", disk=0, offset=0, data=noise("third", 300_000))
    assert site.back_up("db").name == "Completed"
    version = site.newest("db").version
    assert rehearse(site=site.name, return_state=True).is_completed()
    lie = short_of_a_pack(site, site.newest("db").vm)
    assert far.fill()[1] == 5, "without a key nobody can know"

    found = rehearse(site=site.name, return_state=True)

    assert found.is_failed()
    assert "omits what versions need: " in str(found.message)
    assert version[:8] in str(found.message)
    assert not lie.exists()
    assert rehearse(site=site.name, return_state=True).is_completed()
    assert far.fill()[1] == 5
    assert protect(site=site.name, return_state=True).is_completed()
    assert len(list((site.place / "needs").glob("*/*"))) == 2, "one for each VM"

"""A new site: refused before anything is made, or made whole."""

import signal
import time
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import DataStoreShare, Vault, XenPool
from flows.backup import backup_job
from flows.set_up import NewSite, set_up_site
from likeness.codec.slots import SlotKind, from_words
from likeness.errors import BadInput, LoginRefused, NoVault, StoreMissing
from likeness.model.job import BackupJob
from likeness.store.format.opening import open_store
from likeness.transport.local import LocalTransport
from tests.flows.installation import free_port
from tests.flows.killing import FORKS
from tests.flows.scene import Scene, open_scene

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """The one that is there already."""
    with open_scene(tmp_path_factory.mktemp("set-up") / "site") as made:
        yield made


def begin(api: str, name: str, url: str, password: str, new: Path) -> None:
    """In a process of its own, which is killed."""
    with temporary_settings({PREFECT_API_URL: api}):
        set_up_site(
            name,
            pool=XenPool(url=url, password=SecretStr(password)),
            folder=new / "there",
            data_store=DataStoreShare(
                place=str(new / "new"), key_file=str(new / "there" / "another.key")
            ),
        )


def set_up(
    site: Scene,
    folder: Path,
    *,
    password: str = "",
    name: str = "",
    vault: Vault | None = None,
) -> NewSite:
    """Beside `folder`, in `new`."""
    pool = site.site.xen_pool
    right = pool.password.get_secret_value()
    return set_up_site(
        name or f"another-than-{site.name}",
        pool=XenPool(url=pool.url, password=SecretStr(password or right)),
        data_store=DataStoreShare(
            place=str(folder.parent / "new"), key_file=str(folder / "another.key")
        ),
        folder=folder,
        vault=vault,
    )


class Refusing(BaseHTTPRequestHandler):
    """A server that wants another login."""

    def _refuse(self) -> None:
        self.send_error(401, "Unauthorized")

    do_GET = do_POST = _refuse  # their names there

    def log_message(self, format: str, *args: object) -> None:
        del format, args


def test_a_prefect_that_refuses_the_login_is_told_before_anything_is_made(
    site: Scene, tmp_path: Path
) -> None:
    folder = tmp_path / "there"
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        api = f"http://127.0.0.1:{server.server_port}/api"
        with (
            temporary_settings({PREFECT_API_URL: api}),
            pytest.raises(BadInput, match=rf"Prefect at {api} refuses this \(401\).*AUTH_STRING"),
        ):
            set_up(site, folder)
        server.shutdown()

    assert not folder.exists()


def test_a_site_that_cannot_be_made_leaves_nothing_and_tells_why(
    site: Scene, tmp_path: Path
) -> None:
    place, folder = tmp_path / "new", tmp_path / "there"
    place.mkdir()

    with pytest.raises(BadInput, match="holds a catalog already; choose another folder"):
        set_up(site, site.site.catalog.file.path.parent)
    with pytest.raises(LoginRefused):
        set_up(site, folder, password="wrong-horse")
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}),
        pytest.raises(BadInput, match=r"Prefect does not answer at http://127\.0\.0\.1:\d+/api"),
    ):
        set_up(site, folder)

    with pytest.raises(BadInput, match=r"a site cannot be called 'A_b'; use lower-case letters"):
        set_up(site, folder, name="A_b")
    with pytest.raises(BadInput, match=f"there is a site '{site.name}' already"):
        set_up(site, folder, name=site.name)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"):
        set_up(site, tmp_path / "file" / "there")
    for wrong, why in (("nowhere", StoreMissing), ("link", NoVault)):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(place)
        with pytest.raises(why):
            set_up(site, folder, vault=Vault(place=str(tmp_path / wrong)))

    assert list(place.iterdir()) == []
    assert not folder.exists()
    assert len(set_up(site, folder).recovery_words.split()) == 24
    assert (folder / "another.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("sign", ["keys", "ADS-FORMAT"])
def test_a_second_try_goes_on_where_the_first_was_killed(
    site: Scene, tmp_path: Path, sign: str
) -> None:
    place, folder = tmp_path / "new", tmp_path / "there"
    place.mkdir()
    name, pool = f"the-{sign.lower()}-of-{site.name}", site.site.xen_pool
    given = (name, pool.url, pool.password.get_secret_value(), tmp_path)
    first = FORKS.Process(target=begin, args=(PREFECT_API_URL.value(), *given))
    first.start()
    while not (place / sign).exists() and first.is_alive():
        time.sleep(0.0005)
    first.kill()
    first.join()
    assert first.exitcode == -signal.SIGKILL
    assert (folder / "set-up").exists()

    made = set_up(site, folder, name=name)

    assert not (folder / "set-up").exists()
    job = BackupJob.model_validate({"name": "first", "vms": ["db"]})
    assert backup_job(job, site=name, return_state=True).is_completed()
    store = open_store(
        LocalTransport(place), from_words(made.recovery_words), SlotKind.RECOVERY_WORDS
    )
    assert store.keys.public().fingerprint == made.fingerprint
    with pytest.raises(BadInput, match="holds a catalog already"):
        set_up(site, folder, name=name)

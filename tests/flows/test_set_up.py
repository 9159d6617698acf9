"""A new site: refused before anything is made, or made whole."""

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import DataStoreShare, XenPool
from flows.set_up import NewSite, set_up_site
from likeness.errors import BadInput, LoginRefused
from tests.flows.installation import free_port
from tests.flows.scene import Scene

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def set_up(site: Scene, folder: Path, *, password: str = "") -> NewSite:
    pool = site.site.xen_pool
    right = pool.password.get_secret_value()
    return set_up_site(
        f"another-than-{site.name}",
        pool=XenPool(url=pool.url, password=SecretStr(password or right)),
        data_store=DataStoreShare(
            place=str(site.folder / "new"), key_file=str(folder / "another.key")
        ),
        folder=folder,
    )


def test_a_site_that_cannot_be_made_leaves_nothing_and_tells_why(site: Scene) -> None:
    place, folder = site.folder / "new", site.folder / "there"
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

    assert list(place.iterdir()) == []
    assert not folder.exists()
    assert len(set_up(site, folder).recovery_words.split()) == 24
    assert (folder / "another.key").stat().st_mode & 0o777 == 0o600

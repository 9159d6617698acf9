"""A site's settings: changed without a secret at hand; what a form may have spoilt is said."""

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, get_current_settings
from pydantic import SecretStr

from blocks import Site, SiteBlock, Vault
from flows.settings import COMMAND, change_settings
from likeness.cli.running import main
from likeness.errors import BadInput
from tests.flows.scene import Scene, open_scene

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
ROOT = Path(__file__).resolve().parents[2]


def settings_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, against the server of these tests."""
    return subprocess.run(
        [sys.executable, "-m", "flows.settings", *arguments],
        cwd=ROOT,
        env={**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """One for all, that each test leaves in working order."""
    with open_scene(tmp_path_factory.mktemp("settings") / "site") as made:
        yield made


def test_settings_are_changed_by_a_command_and_the_next_job_runs(site: Scene) -> None:
    done = settings_command(
        "--name", site.name, "--revalidate-after", "2 weeks", "--revalidate-at-hours", "22-6"
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "revalidate-after        2 weeks" in done.stdout
    found = Site.named(site.name)
    assert (found.revalidate_after, found.revalidate_at_hours) == ("2 weeks", "22-6")
    assert found.xen_pool.password == site.site.xen_pool.password
    assert site.back_up("db").is_completed()


def test_what_cannot_be_is_refused_and_nothing_is_changed(site: Scene) -> None:
    before = Site.named(site.name)
    with pytest.raises(BadInput, match="cannot be like that: revalidate_after"):
        change_settings(site.name, revalidate_after="3 months")
    with pytest.raises(BadInput, match="there is no Mail block 'nobody'"):
        change_settings(site.name, mail="nobody")
    with pytest.raises(BadInput, match="there is no Site block 'elsewhere'"):
        change_settings("elsewhere", webhook="")

    found = Site.named(site.name)
    assert (found.revalidate_after, found.mail) == (before.revalidate_after, None)


def test_a_password_that_a_form_masked_is_said_with_its_block_and_hinders_nothing_else(
    site: Scene,
) -> None:
    site.back_up("db")
    for block in (site.site.xen_pool, site.site.vault):
        assert block is not None
        name = f"{site.name}-{'vault' if isinstance(block, Vault) else 'xen-pool'}"
        type(block).delete(name)  # Prefect keeps the password of a block that is there
        block.model_copy(update={"password": SecretStr("********")}).save(name)
    pool = f"Xen Pool block '{site.name}-xen-pool' holds asterisks instead of its password"

    ended = site.back_up("db")

    assert ended.is_failed()
    assert pool in str(ended.message)
    assert "enter it again in the UI under Blocks" in str(ended.message)
    assert site.restore(site.newest("db").version) == site.disks("db")
    with pytest.raises(BadInput, match=f"Vault block '{site.name}-vault' holds asterisks"):
        site.restore(site.newest("db").version, from_vault=True)
    for block, name in ((site.site.xen_pool, "xen-pool"), (site.site.vault, "vault")):
        assert block is not None
        type(block).delete(f"{site.name}-{name}")
        block.save(f"{site.name}-{name}")


def test_a_site_with_whole_blocks_in_it_is_said_and_mended_by_the_command(
    site: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Prefect's editor saved it while a site had its blocks nested."""
    inline = {"url": "https://xen1.example", "username": "root", "password": "********"}
    with get_client(sync_client=True) as client:
        slug = SiteBlock.get_block_type_slug()
        saved = client.read_block_document_by_name(site.name, slug)
    address = f"{PREFECT_API_URL.value()}/block_documents/{saved.id}"
    changed = {"data": {**saved.data, "xen_pool": inline}}
    httpx.patch(address, json=changed, timeout=60).raise_for_status()

    ended = site.back_up("db")

    assert ended.is_failed()
    assert f"Site block '{site.name}' holds whole blocks" in str(ended.message)
    assert "correct xen_pool with likeness settings" in str(ended.message)
    code = main(["--name", site.name, "--xen-pool", f"{site.name}-xen-pool"], COMMAND)
    assert code == 0, capsys.readouterr().err
    assert site.back_up("db").is_completed()


def test_no_site_is_loaded_from_nowhere() -> None:
    assert PREFECT_API_URL.value()
    with pytest.raises(BadInput, match="there is no Site block 'nowhere'"):
        Site.named("nowhere")

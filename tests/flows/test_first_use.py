"""Setting a site up at a terminal: a certificate nobody vouches for is shown, and confirmed."""

import hashlib
import io
import ssl
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from blocks import Site
from flows.set_up import COMMAND
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.cli.running import main
from likeness.model.ids import random_name
from tests.flows.scene import QUICK

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


@pytest.fixture
def lab() -> Generator[LabServer, None, None]:
    with LabServer(Pool(Settings(**QUICK)), tls=True) as server:
        yield server


def shown_by(lab: LabServer) -> str:
    (pem,) = lab.pool.certificates.values()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


@pytest.fixture
def set_up(
    lab: LabServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[int, str]]:
    """Run the command as a person would who answers the question; its exit code and the site."""
    (tmp_path / "store").mkdir()

    def run(answer: str) -> tuple[int, str]:
        name = f"site-{random_name()[:12]}"
        words = ["--name", name, "--pool", lab.url, "--store", str(tmp_path / "store")]
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{answer}\n{lab.password}\n"))
        return main([*words, "--folder", str(tmp_path / "here")], COMMAND), name

    return run


def test_a_confirmed_certificate_is_pinned_from_then_on(
    set_up: Callable[[str], tuple[int, str]],
    lab: LabServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, name = set_up("yes")

    printed = capsys.readouterr().err
    pinned = Site.named(name).xen_pool.fingerprint
    assert code == 0
    assert pinned.replace(":", "").lower() == shown_by(lab)
    assert pinned in printed
    assert "openssl x509 -noout -fingerprint" in printed
    with Site.named(name).xen_pool.open() as xen:
        assert xen.coordinator.fingerprints


def test_what_is_not_confirmed_gets_no_password_and_nothing_is_made(
    set_up: Callable[[str], tuple[int, str]],
    lab: LabServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _ = set_up("no")

    assert code == 2
    assert "was not confirmed, so nothing was made" in capsys.readouterr().err
    assert list((tmp_path / "store").iterdir()) == []
    assert lab.pool.journal.counts() == {}

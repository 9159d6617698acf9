"""A host is known before anything is sent to it."""

import ssl
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from likeness.errors import BadInput, CertificateRefused, HostUnreachable
from likeness.xen.endpoints import (
    endpoint,
    fingerprint_of_pem,
    fingerprint_to_confirm,
    normal_fingerprint,
    shown_fingerprint,
)
from likeness.xen.session import XenSession
from tests.xen.conftest import Stage, read_disk
from tests.xen.tls_front import TlsFront, fingerprint_of, self_signed


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


@pytest.fixture
def front(stage: Stage, certificate: Path) -> Generator[TlsFront, None, None]:
    with TlsFront(urlsplit(stage.server.url).port or 0, certificate) as front:
        yield front


def login(stage: Stage, front: TlsFront, fingerprint: str | list[str] | None) -> XenSession:
    return XenSession.login(
        front.url,
        username=stage.server.username,
        password=stage.server.password,
        fingerprint=fingerprint,
        patience_seconds=1.0,
    )


def test_a_confirmed_certificate_opens_the_pool_and_carries_disks(
    stage: Stage, front: TlsFront, certificate: Path
) -> None:
    disk = stage.snapshot().disks[0]

    with login(stage, front, fingerprint_of(certificate)) as xen:
        assert read_disk(xen, disk) == stage.web


def test_an_unknown_certificate_is_refused_showing_its_fingerprint(
    stage: Stage, front: TlsFront, certificate: Path
) -> None:
    before = stage.pool.journal.counts()["session.login_with_password"]

    with pytest.raises(CertificateRefused, match="no authority this machine trusts") as refused:
        login(stage, front, None)

    shown = shown_fingerprint(fingerprint_of(certificate))
    assert refused.value.fingerprint == shown
    assert shown in str(refused.value)
    assert stage.pool.journal.counts()["session.login_with_password"] == before


def test_another_certificate_than_the_confirmed_one_is_refused(
    stage: Stage, front: TlsFront
) -> None:
    before = stage.pool.journal.counts()["session.login_with_password"]

    with pytest.raises(CertificateRefused, match="never confirmed"):
        login(stage, front, "ab" * 32)

    assert stage.pool.journal.counts()["session.login_with_password"] == before


def test_any_of_several_confirmed_certificates_will_do(
    stage: Stage, front: TlsFront, certificate: Path
) -> None:
    with login(stage, front, ["ab" * 32, fingerprint_of(certificate)]) as xen:
        assert xen.call("pool.get_all")


def test_a_certificate_that_a_trusted_authority_vouches_for_needs_no_fingerprint(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = self_signed(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))

    with TlsFront(urlsplit(stage.server.url).port or 0, trusted) as front:
        with XenSession.login(
            f"https://localhost:{front.port}",
            username=stage.server.username,
            password=stage.server.password,
        ) as xen:
            assert xen.call("pool.get_all")
        with pytest.raises(CertificateRefused):
            login(stage, front, None)  # the same certificate, under another name


def test_the_fingerprint_can_be_seen_before_it_is_confirmed(
    front: TlsFront, certificate: Path
) -> None:
    shown = fingerprint_to_confirm(front.url)

    assert normal_fingerprint(shown) == fingerprint_of(certificate)
    assert fingerprint_of_pem(_certificate_part(certificate)) == fingerprint_of(certificate)


def test_where_nothing_answers_there_is_no_fingerprint(stage: Stage) -> None:
    with pytest.raises(HostUnreachable, match="does not answer"):
        fingerprint_to_confirm(stage.server.url.replace("http:", "https:"))


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "ab" * 31])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="SHA-256 fingerprint"):
        normal_fingerprint(text)


def test_a_fingerprint_may_be_written_in_any_usual_form() -> None:
    digits = "0123456789abcdef" * 4

    forms = (digits, shown_fingerprint(digits), f"SHA256:{digits}", digits.upper())
    assert {normal_fingerprint(form) for form in forms} == {digits}
    assert endpoint("xen1", f"{digits}, {'ab' * 32}").fingerprints == {digits, "ab" * 32}


def test_an_address_without_a_scheme_is_https() -> None:
    place = endpoint("xen1.example")

    assert (place.scheme, place.host, place.port) == ("https", "xen1.example", 443)
    assert place.url == "https://xen1.example"
    assert endpoint("http://[::1]:8080").url == "http://[::1]:8080"


def _certificate_part(pem: Path) -> str:
    text = pem.read_text()
    return text[text.index("-----BEGIN CERTIFICATE") :]


def test_the_tls_of_the_tests_is_real(front: TlsFront) -> None:
    with pytest.raises(ssl.SSLError):
        ssl.get_server_certificate(
            ("127.0.0.1", front.port), ca_certs=ssl.get_default_verify_paths().cafile
        )

"""Where a host is, and how it proves to be the right one before anything is sent to it.

XenServer's certificates are usually self-signed, so a host is known by the SHA-256 fingerprint of
its certificate: shown once, confirmed by a person, compared ever after. Without a fingerprint the
certificate must be vouched for by an authority this machine trusts. There is no third way but
one: plain HTTP on the loopback interface, where there is no network to listen on.
"""

import hashlib
import hmac
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from likeness.errors import BadInput, CertificateRefused, HostUnreachable

_FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host's XAPI service.

    Attributes:
        scheme: ``https``, or ``http`` for the loopback interface alone.
        host: Name or address.
        port: TCP port.
        fingerprints: Certificates that are accepted, 64 lower-case hex digits each; empty: the
            certificate must come from an authority this machine trusts.
    """

    scheme: str
    host: str
    port: int
    fingerprints: frozenset[str] = field(default=frozenset())

    @property
    def url(self) -> str:
        """The address as a person writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = _PORTS[self.scheme] == self.port
        return f"{self.scheme}://{host}" + ("" if usual else f":{self.port}")

    def at(self, address: str, *, fingerprints: Iterable[str] = ()) -> "Endpoint":
        """The same service on another host of the pool: same scheme, same port if none is given.

        Raises:
            BadInput: It would be plain HTTP over a network.
        """
        host, port = _host_and_port(address, self.port)
        other = replace(
            self,
            host=host,
            port=port,
            fingerprints=self.fingerprints | frozenset(fingerprints),
        )
        return _must_be_private(other)


def endpoint(url: str, fingerprint: str | Iterable[str] | None = None) -> Endpoint:
    """Read an address a person gave.

    Args:
        url: Such as ``https://xen1.example``; without a scheme, https.
        fingerprint: SHA-256 of the host's certificate in hex, colons allowed; several for a pool
            whose hosts are all confirmed.

    Raises:
        BadInput: No address, a scheme nobody speaks, plain HTTP over a network, or no fingerprint.
    """
    parts = urlsplit(url if "://" in url else f"https://{url}")
    try:
        port = parts.port
    except ValueError:
        raise BadInput(
            f"{_without_account(url)!r} is no address of a XenServer: its port is no number"
        ) from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        raise BadInput(
            f"{_without_account(url)!r} is no address of a XenServer; "
            "write it like https://xen1.example"
        )
    found = Endpoint(
        scheme=parts.scheme,
        host=parts.hostname,
        port=_PORTS[parts.scheme] if port is None else port,
        fingerprints=_fingerprints(fingerprint),
    )
    return _must_be_private(found)


def normal_fingerprint(text: str) -> str:
    """A fingerprint as it is compared: 64 lower-case hex digits.

    Raises:
        BadInput: It is none.
    """
    digits = text.lower().replace(":", "").replace(" ", "").removeprefix("sha256")
    if not _FINGERPRINT.match(digits):
        raise BadInput(
            f"{text!r} is no SHA-256 fingerprint: 64 hex digits are needed, colons allowed"
        )
    return digits


def shown_fingerprint(digits: str) -> str:
    """A fingerprint as it is shown to a person: ``AB:CD:...``."""
    return ":".join(re.findall("..", digits.upper()))


def fingerprint_to_confirm(url: str, *, deadline_seconds: float = 15.0) -> str:
    """The fingerprint a person has to confirm before a host may be talked to.

    Returns:
        ``AB:CD:...``; empty when an authority this machine trusts vouches for the host, or when
        it is this machine.

    Raises:
        HostUnreachable: Nobody answers there.
        BadInput: The address is none.
    """
    place = endpoint(url)
    try:
        open_socket(place, deadline_seconds=deadline_seconds).close()
    except CertificateRefused as refused:
        return refused.fingerprint
    except OSError as cause:
        raise HostUnreachable(
            f"{place.url} does not answer: {cause}; check the address, and that the pool is up and"
            " can be reached from here"
        ) from cause
    return ""


def fingerprint_of_pem(pem: str) -> str:
    """SHA-256 of a certificate in PEM form, as 64 lower-case hex digits.

    Raises:
        ValueError: It is no certificate.
    """
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")).hexdigest()


def open_socket(place: Endpoint, *, deadline_seconds: float) -> socket.socket:
    """Connect, and know the host before anything is sent.

    Args:
        place: Where to.
        deadline_seconds: For connecting and the handshake; it stays the socket's timeout.

    Raises:
        OSError: Nobody answers.
        CertificateRefused: The host is not the one that was confirmed.
    """
    plain = socket.create_connection((place.host, place.port), timeout=deadline_seconds)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if place.scheme == "http":
            return plain
        if place.fingerprints:
            return pinned_tls(plain, place.fingerprints, name=place.url, server=place.host)
        return _vouched_tls(plain, place, deadline_seconds)
    except BaseException:
        plain.close()
        raise


def pinned_tls(
    plain: socket.socket, fingerprints: Iterable[str], *, name: str, server: str
) -> ssl.SSLSocket:
    """Start TLS and accept exactly these certificates.

    Args:
        plain: A connected socket; it is closed when the host is refused.
        fingerprints: 64 lower-case hex digits each.
        name: How messages call the host.
        server: The name asked for in the handshake.

    Raises:
        CertificateRefused: The host showed another certificate.
    """
    secured = _any_certificate().wrap_socket(plain, server_hostname=server)
    shown = hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
    if any(hmac.compare_digest(shown, expected) for expected in fingerprints):
        return secured
    secured.close()
    raise CertificateRefused(
        f"{name} shows a certificate that was never confirmed: SHA-256 "
        f"{shown_fingerprint(shown)}. Either its certificate was replaced or somebody is in "
        "between; compare the fingerprint on the host itself before you confirm it",
        fingerprint=shown_fingerprint(shown),
    )


def _vouched_tls(plain: socket.socket, place: Endpoint, deadline_seconds: float) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        return context.wrap_socket(plain, server_hostname=place.host)
    except ssl.SSLCertVerificationError as cause:
        shown = shown_fingerprint(_fingerprint_at(place, deadline_seconds))
        raise CertificateRefused(
            f"{place.url} shows a certificate that no authority this machine trusts vouches for "
            f"({cause.verify_message}). Its SHA-256 fingerprint is {shown}; compare it on the "
            "host itself and, if it is the same, enter it as the host's fingerprint",
            fingerprint=shown,
        ) from cause


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the caller compares the fingerprint before it sends
    return context


def _fingerprint_at(place: Endpoint, deadline_seconds: float) -> str:
    try:
        with (
            socket.create_connection((place.host, place.port), timeout=deadline_seconds) as plain,
            _any_certificate().wrap_socket(plain, server_hostname=place.host) as secured,
        ):
            return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
    except OSError as cause:
        raise HostUnreachable(f"{place.url} shows no certificate: {cause}") from cause


def _fingerprints(given: str | Iterable[str] | None) -> frozenset[str]:
    if given is None:
        return frozenset()
    texts = re.split(r"[,;\s]+", given.strip()) if isinstance(given, str) else list(given)
    return frozenset(normal_fingerprint(text) for text in texts if text)


def _host_and_port(address: str, port: int) -> tuple[str, int]:
    if address.count(":") > 1 and not address.startswith("["):
        return address, port  # a bare IPv6 address
    parts = urlsplit(f"//{address}")
    return parts.hostname or address, port if parts.port is None else parts.port


def _must_be_private(place: Endpoint) -> Endpoint:
    if place.scheme == "https" or is_loopback(place.host):
        return place
    raise BadInput(
        f"{place.url} is plain HTTP: the password and every disk would travel in the clear; "
        "use https and confirm the host's fingerprint"
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, so that nothing travels over a network."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_account(url: str) -> str:
    return re.sub(r"//.*@", "//", url)

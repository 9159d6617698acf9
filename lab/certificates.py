"""Self-signed certificates, as hosts make them for themselves."""

import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFETIME = timedelta(days=3650)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, both as PEM; the key never leaves this process."""

    pem: str
    key_pem: bytes

    def server_context(self, folder: Path) -> ssl.SSLContext:
        """Make a context that presents the certificate.

        Args:
            folder: Where the two may lie for a moment, because OpenSSL reads files only.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with tempfile.NamedTemporaryFile(dir=folder, prefix="certificate-") as file:
            file.write(self.key_pem + self.pem.encode())
            file.flush()
            context.load_cert_chain(file.name)
        return context


def _alternative(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def make_certificate(name: str, addresses: list[str]) -> Certificate:
    """Make a certificate for a host.

    Args:
        name: Its host name, which becomes subject and a DNS name.
        addresses: Its IP addresses, or further names.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(name), *map(_alternative, addresses)]
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM).decode()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(pem, key_pem)

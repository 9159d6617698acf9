"""Certificates: whom the pool trusts, and what its hosts show."""

import re

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from lab.calls import Call
from lab.certificates import Certificate, describe
from lab.database import Record
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import Value

_NAME = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]*\Z")


def _require_name(name: str, code: str) -> None:
    if not _NAME.match(name):
        raise XapiFailure(code, name)


# -- whom the pool trusts --------------------------------------------------------------------------


def _held(call: Call, name: str) -> list[str]:
    return call.db.where("Certificate", type="ca", name=name)


def _install(call: Call, name: str, pem: str) -> None:
    _require_name(name, "CERTIFICATE_NAME_INVALID")
    with call.db.lock:
        if _held(call, name):
            raise XapiFailure("CERTIFICATE_ALREADY_EXISTS", name)
        try:
            fields = describe(pem, "ca", name)
        except ValueError as cause:
            raise XapiFailure("CERTIFICATE_CORRUPT", name) from cause
        call.db.create("Certificate", **fields)


@message("pool.install_ca_certificate", "pool.certificate_install")
def install_ca(call: Call, name: str, cert: str) -> None:
    """Trust whom this certificate signed."""
    _install(call, name, cert)


@message("host.install_ca_certificate")
def install_ca_on_host(call: Call, host: str, name: str, cert: str) -> None:
    """The same; a host alone trusts nobody here."""
    del host
    _install(call, name, cert)


def _uninstall(call: Call, name: str, *, force: bool) -> None:
    with call.db.lock:
        held = _held(call, name)
        if not held and not force:
            raise XapiFailure("CERTIFICATE_DOES_NOT_EXIST", name)
        for ref in held:
            call.db.destroy("Certificate", ref)


@message("pool.uninstall_ca_certificate", "pool.certificate_uninstall")
def uninstall_ca(call: Call, name: str, *force: bool) -> None:
    """Trust it no longer."""
    _uninstall(call, name, force=any(force))


@message("host.uninstall_ca_certificate")
def uninstall_ca_on_host(call: Call, host: str, name: str, *force: bool) -> None:
    """The same."""
    del host
    _uninstall(call, name, force=any(force))


@message("pool.certificate_list", "host.certificate_list")
def list_certificates(call: Call, *host: str) -> Value:
    """Name the trusted certificates."""
    del host
    refs = call.db.where("Certificate", type="ca")
    return sorted(call.db.get("Certificate", ref, "name") for ref in refs)


@message("pool.install_trusted_certificate")
def install_trusted(call: Call, pool: str, *given: Value) -> None:
    """Trust a certificate, by itself or as one that signs others, for some purposes or all."""
    del pool
    ca, pem, purpose = given
    with call.db.lock:
        try:
            fields: Record = describe(pem, "ca" if ca else "pinned", "")
        except ValueError as cause:
            raise XapiFailure("TRUSTED_CERTIFICATE_INVALID") from cause
        if call.db.where("Certificate", fingerprint=fields["fingerprint"], type=fields["type"]):
            raise XapiFailure("TRUSTED_CERTIFICATE_ALREADY_EXISTS", fields["fingerprint"])
        call.db.create("Certificate", **fields | {"purpose": purpose})


@message("pool.uninstall_trusted_certificate")
def uninstall_trusted(call: Call, pool: str, certificate: str) -> None:
    """Trust it no longer."""
    del pool
    with call.db.lock:
        if call.db.get("Certificate", certificate, "type") not in ("ca", "pinned"):
            raise XapiFailure("NOT_TRUSTED_CERTIFICATE", certificate)
        call.db.destroy("Certificate", certificate)


# -- lists of what is revoked ----------------------------------------------------------------------


def _install_crl(call: Call, name: str, pem: str) -> None:
    _require_name(name, "CRL_NAME_INVALID")
    with call.db.lock:
        if name in call.pool.crls:
            raise XapiFailure("CRL_ALREADY_EXISTS", name)
        try:
            x509.load_pem_x509_crl(pem.encode())
        except ValueError as cause:
            raise XapiFailure("CRL_CORRUPT", name) from cause
        call.pool.crls[name] = pem


def _uninstall_crl(call: Call, name: str) -> None:
    if call.pool.crls.pop(name, None) is None:
        raise XapiFailure("CRL_DOES_NOT_EXIST", name)


@message("pool.crl_install", "host.crl_install")
def install_crl(call: Call, *given: str) -> None:
    """Keep a list of revoked certificates."""
    _install_crl(call, *given[-2:])


@message("pool.crl_uninstall", "host.crl_uninstall")
def uninstall_crl(call: Call, *given: str) -> None:
    """Forget one."""
    _uninstall_crl(call, given[-1])


@message("pool.crl_list", "host.crl_list")
def list_crls(call: Call, *host: str) -> Value:
    """Name them."""
    del host
    return sorted(call.pool.crls)


# -- what hosts show -------------------------------------------------------------------------------


@message("host.reset_server_certificate", "host.refresh_server_certificate")
def renew(call: Call, host: str) -> None:
    """Let a host make itself a new certificate; whoever pinned the old one sees another."""
    call.pool.renew_certificate(host)


@message("host.emergency_reset_server_certificate")
def renew_own(call: Call) -> None:
    """The same for the host that was asked."""
    call.pool.renew_certificate(call.host or call.db.refs("host")[0])


@message("host.install_server_certificate")
def install_server(call: Call, host: str, certificate: str, key: str, chain: str) -> None:
    """Let a host show a certificate that somebody else made."""
    try:
        read = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError as cause:
        raise XapiFailure("SERVER_CERTIFICATE_INVALID") from cause
    try:
        own = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError) as cause:
        raise XapiFailure("SERVER_CERTIFICATE_KEY_INVALID") from cause
    if own.public_key() != read.public_key():
        raise XapiFailure("SERVER_CERTIFICATE_KEY_MISMATCH")
    try:
        _ = chain and x509.load_pem_x509_certificates(chain.encode())
    except ValueError as cause:
        raise XapiFailure("SERVER_CERTIFICATE_CHAIN_INVALID") from cause
    call.pool.show_certificate(host, Certificate(certificate + chain, key.encode()))


@message("host.emergency_disable_tls_verification", "host.emergency_reenable_tls_verification")
def verify_tls(call: Call) -> None:
    """Let the host that was asked believe others without looking, or look again."""
    host = call.host or call.db.refs("host")[0]
    call.db.put("host", host, tls_verification_enabled="reenable" in call.name)


@message("pool.disable_ssl_legacy")
def disable_old_tls(call: Call, pool: str) -> None:
    """Speak no old TLS: none ever is spoken here."""
    del pool
    for host in call.db.refs("host"):
        call.db.put("host", host, ssl_legacy=False)

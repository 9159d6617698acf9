"""host.*: the pool's hosts."""

from lab.calls import Call
from lab.registry import message
from lab.wire.values import Value, date_of


@message("host.get_servertime", "host.get_server_localtime")
def get_servertime(call: Call, host: str) -> Value:
    """The host's clock."""
    call.db.row("host", host)
    return date_of(call.pool.settings.now())


@message("host.get_server_certificate")
def get_server_certificate(call: Call, host: str) -> str:
    """The host's certificate, as PEM."""
    call.db.row("host", host)
    return call.pool.hosts.certificates.get(host, "")

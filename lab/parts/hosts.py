"""The hosts of a pool: who is the coordinator, what they show, where they can be reached."""

import ssl
from pathlib import Path
from typing import Protocol

from lab.certificates import make_certificate
from lab.database import Database
from lab.wire.values import Value


class SeesStorage(Protocol):
    """What hosts need of the storage."""

    folder: Path

    def srs_seen_by(self, host: str) -> set[str]:
        """The SRs attached to a host."""


class EndsSessions(Protocol):
    """What hosts need of the sessions."""

    def end_all(self) -> int:
        """Expire every session at once."""


class Hosts:
    """The hosts of one pool.

    Attributes:
        certificates: PEM by host reference, empty before the pool is served.
        scheme: `http` or `https`; with `port` and `nbd_port` where the hosts listen, 0 before that.
    """

    def __init__(self, db: Database, storage: SeesStorage, sessions: EndsSessions) -> None:
        self.db = db
        self.certificates: dict[str, str] = {}
        self.scheme, self.port, self.nbd_port = "http", 0, 0
        self._storage = storage
        self._sessions = sessions
        self._moved_to = ""

    def certify(self, host: str) -> ssl.SSLContext:
        """Let a host make itself a certificate; returns how it shows it."""
        record = self.db.record("host", host)
        certificate = make_certificate(record["hostname"], [record["address"]])
        self.certificates[host] = certificate.pem
        return certificate.server_context(self._storage.folder)

    # -- the coordinator -------------------------------------------------------------------------

    def set_coordinator(self, host: str = "", *, address: str = "") -> None:
        """Move the coordinator to another host, or to an address outside; all sessions end."""
        if host:
            self.db.put("pool", self.db.refs("pool")[0], master=host)
        self._moved_to = address
        self._sessions.end_all()

    def coordinator_address(self, asked: str = "") -> str:
        """Where to log in instead of the host that was asked; empty if it is the right one."""
        if self._moved_to:
            return self._moved_to
        master = self.db.get("pool", self.db.refs("pool")[0], "master")
        here = asked or self.db.refs("host")[0]
        return "" if here == master else str(self.db.get("host", master, "address"))

    # -- NBD -------------------------------------------------------------------------------------

    def nbd_addresses(self, vdi: str, session: str) -> list[Value]:
        """Where a disk can be read over NBD, as `VDI.get_nbd_info` answers."""
        record, found = self.db.record("VDI", vdi), []
        with self.db.lock:
            for host in self.db.refs("host"):
                if not self.nbd_port or record["SR"] not in self._storage.srs_seen_by(host):
                    continue
                for pif in self.db.get("host", host, "PIFs"):
                    card = self.db.record("PIF", pif)
                    if card["IP"] and self.db.get("network", card["network"], "purpose"):
                        found.append(
                            {
                                "exportname": f"/{record['uuid']}?session_id={session}",
                                "address": card["IP"],
                                "port": self.nbd_port,
                                "cert": self.certificates.get(host, ""),
                                "subject": self.db.get("host", host, "hostname"),
                            }
                        )
        return found

    def nbd_purpose(self) -> str:
        """`nbd` (with TLS), `insecure_nbd`, or empty when no network has a purpose."""
        with self.db.lock:
            held = [
                p for n in self.db.refs("network") for p in self.db.get("network", n, "purpose")
            ]
        return str(held[0]) if held else ""

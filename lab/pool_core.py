"""What all parts of a pool stand on."""

import shutil
import ssl
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from lab.calls import Journal
from lab.certificates import Certificate, describe, make_certificate
from lab.database import Database
from lab.events import EventStream
from lab.facts import load_facts
from lab.faults import Faults
from lab.metrics import Metrics
from lab.operations import Operations
from lab.other_classes import with_other_classes
from lab.sessions import Sessions
from lab.settings import Settings
from lab.shelf import Shelf
from lab.storage.disk import Disk
from lab.storage.layers import Layer
from lab.tasks import Tasks

STORAGE_MIGRATIONS = 3
Plugin = Callable[[str, dict[str, str]], str]


class PoolCore:
    """The objects of a pool and the services around them.

    Attributes:
        db: Records of all objects.
        disks: Data of the VDIs, by reference.
        shelf: Disks and SRs that were forgotten and not removed.
        folder: Where overlays live; removed on `close` if it was made here.
        faults: What is set to go wrong.
        journal: The calls so far.
        guest_store: What each running guest sees of xenstore, by VM reference.
        certificates: PEM by host reference, empty before the pool is served; `tls` shows them.
        scheme: `http` or `https`; with `port` and `nbd_port` where the hosts listen, 0 before that.
        plugins: What `host.call_plugin` runs, by plug-in and function: (host, arguments) to text.
    """

    def __init__(self, settings: Settings | None = None, folder: Path | None = None) -> None:
        self.settings = settings or Settings()
        self.facts = with_other_classes(load_facts())
        self.db = Database(self.facts)
        self.sessions = Sessions(self.db, self.settings)
        self.tasks = Tasks(self.db, self.settings)
        self.events = EventStream(self.db)
        self.operations = Operations(self.db, self.settings)
        self.journal = Journal()
        self.faults = Faults()
        self.disks: dict[str, Disk] = {}
        self.shelf = Shelf(self.db)
        self.hidden: dict[Layer, str] = {}
        self.guest_store: dict[str, dict[str, str]] = {}
        self.vtpm_contents: dict[str, str] = {}
        self.blob_contents: dict[str, bytes] = {}
        self.metrics = Metrics(self)
        self.plugins: dict[tuple[str, str], Plugin] = {}
        self.domains_begun = 0
        self.storage_migrations = threading.BoundedSemaphore(STORAGE_MIGRATIONS)
        self.certificates: dict[str, str] = {}
        self.tls: dict[str, ssl.SSLContext] = {}
        self.crls: dict[str, str] = {}
        self.host_words: dict[tuple[str, str], str] = {}
        self.scheme, self.port, self.nbd_port = "http", 0, 0
        self.closed = threading.Event()
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="lab-"))

    def show_certificate(self, host: str, certificate: Certificate) -> None:
        """Let a host show a certificate to whoever connects from now on."""
        record = self.db.record("host", host)
        if host in self.tls:
            certificate.load_into(self.tls[host], self.folder)
        else:
            self.tls[host] = certificate.server_context(self.folder)
        with self.db.lock:
            self.certificates[host] = certificate.pem
            for old in record["certificates"]:
                self.db.destroy("Certificate", old)
            self.db.create("Certificate", **describe(certificate.pem, "host", "", host))

    def renew_certificate(self, host: str) -> None:
        """Let a host make itself a certificate and show it."""
        record = self.db.record("host", host)
        self.show_certificate(host, make_certificate(record["hostname"], [record["address"]]))

    def close(self) -> None:
        """End what hangs and remove what was made on disk."""
        self.closed.set()
        self.faults.clear()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

"""All parts of one pool, put together."""

from pathlib import Path

from lab.database import Database
from lab.journal import Journal
from lab.other_classes import all_facts
from lab.parts.counters import Counters
from lab.parts.events import EventStream
from lab.parts.faults import Faults
from lab.parts.guests import Guests
from lab.parts.hosts import Hosts
from lab.parts.machines import Machines
from lab.parts.operations import Operations
from lab.parts.sessions import Sessions
from lab.parts.storage import Storage
from lab.parts.tasks import Tasks
from lab.settings import Settings


class Parts:
    """What a message may use of its pool.

    Attributes:
        db: Records of all objects.
        faults: What is set to go wrong.
        journal: The calls so far.
    """

    def __init__(self, settings: Settings, folder: Path | None) -> None:
        self.settings = settings
        self.db = Database(all_facts())
        self.facts = self.db.facts
        self.sessions = Sessions(self.db, settings)
        self.tasks = Tasks(self.db, settings)
        self.events = EventStream(self.db)
        self.operations = Operations(self.db, settings)
        self.journal = Journal()
        self.counts = Counters(self.db, lambda: self.journal)
        self.faults = Faults()
        self.storage = Storage(self.db, settings, folder)
        self.machines = Machines(self.db, settings, self.storage)
        self.guests = Guests(self.db, settings, self.storage, self.machines)
        self.hosts = Hosts(self.db, self.storage, self.sessions)

    def close(self) -> None:
        """End what hangs and remove what was made on disk."""
        self.storage.closed.set()
        self.faults.clear()
        self.guests.close()
        self.storage.close()

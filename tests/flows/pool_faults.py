"""A pool in which something goes wrong at an exact moment of a job, and a count of what is left."""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.journal import Journal
from lab.parts.faults import Caller, Faults
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from lab.wire.values import Value
from likeness.model.ids import from_uuid
from likeness.model.outcome import VmOutcome
from likeness.store.read.versions import Version, last_version, read_version, record_names, vms
from tests.flows.scene import QUICK, Scene, image, new_scene, noise
from tests.flows.waiting import wait_until

KIB = 1 << 10
PHASES = ("snapshot", "transfer", "commit")
CALM = "calm"
VMS = (*PHASES, CALM)
"""Three VMs, each called like the phase in which it is hit, and one that never is."""

SECONDS = {"operation_seconds": 3, "silence_seconds": 2}
_NOT_OURS = ("message", "session")
_WATCHED = {
    "VM": ("name_label", "power_state", "tags", "other_config", "blocked_operations", "VBDs"),
    "VDI": ("name_label", "tags", "other_config", "type", "managed"),
}


class TimedFaults(Faults):
    """Faults that can also do something else, at an exact call."""

    def __init__(self) -> None:
        super().__init__()
        self._due: list[list[Any]] = []
        self.never_struck: list[str] = []

    def when(self, method: str, act: Callable[[], object], *, number: int = 1) -> None:
        """Do something just before a message is answered for the `number`-th time from now on."""
        self._due.append([method, number, act])

    def strike(self, call: Caller, at: str = "") -> None:
        for due in [each for each in self._due if each[0] == (at or call.name)]:
            due[1] -= 1
            if due[1] == 0:
                self._due.remove(due)
                due[2]()
        super().strike(call, at)

    def end(self) -> None:
        """Forget all faults, and note those that were set in vain."""
        calls = self.listing()["calls"]
        self.never_struck += [each["method"] for each in calls if each["seen"] < each["at"]]
        self.never_struck += [each[0] for each in self._due]
        self._due = []
        self.clear()


class PhaseWatch(Journal):
    """A journal that sees a VM's phases begin, each by its first call.

    Right for jobs with one VM at a time.

    Attributes:
        called: Messages that were called, by VM and phase.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool
        self._due: dict[tuple[str, str], Callable[[], object]] = {}
        self._phase_now = ("", "")
        self.called: dict[tuple[str, str], set[str]] = defaultdict(set)

    def at(self, vm: str, phase: str, act: Callable[[], object]) -> None:
        """Do something when a phase of a VM begins for the next time."""
        self._due[vm, phase] = act

    def forget(self) -> None:
        """Begin anew, with nothing to do."""
        self._phase_now = ("", "")
        self._due.clear()

    def not_begun(self) -> list[tuple[str, str]]:
        """Phases that something was to be done at, and that never began."""
        return list(self._due)

    @contextmanager
    def writing(self, method: str, parameters: tuple[Value, ...]) -> Iterator[None]:
        begun = self._phase(method, parameters)
        if begun != self._phase_now:
            self._begin(begun)
        if not method.startswith("session."):
            self.called[self._phase_now].add(method.removeprefix("Async."))
        with super().writing(method, parameters):
            yield

    def _phase(self, method: str, parameters: tuple[Value, ...]) -> tuple[str, str]:
        """The VM and phase that a call belongs to."""
        db, (vm, phase) = self._pool.db, self._phase_now
        if method == "VM.get_record" and not db.get("VM", str(parameters[0]), "is_a_snapshot"):
            return str(db.get("VM", str(parameters[0]), "name_label")), "snapshot"
        if phase == "snapshot" and method in ("Async.VDI.list_changed_blocks", "VDI.get_nbd_info"):
            return vm, "transfer"
        if phase == "transfer" and method in ("VDI.set_other_config", "VM.get_record"):
            return vm, "commit"
        if (
            phase == "commit"
            and method == "Async.VDI.destroy"
            and db.get("VDI", str(parameters[0]), "type") == "cbt_metadata"
        ):
            return vm, "settle"  # the version is in the store by then
        return vm, phase

    def _begin(self, phase: tuple[str, str]) -> None:
        self._phase_now = phase
        act = self._due.pop(phase, None)
        if act is not None:
            act()


@dataclass
class Stage:
    """VMs that were backed up once, on a pool with two hosts.

    Attributes:
        baseline: Every object of the pool before the first job.
    """

    scene: Scene
    faults: TimedFaults
    watch: PhaseWatch
    baseline: dict[str, dict[str, dict[str, Any]]] = field(repr=False)
    _held: list[object] = field(default_factory=list)

    def hold(self, vdi: str) -> None:
        """Let dom0 keep a disk plugged in, as after a transfer that never lets go of it."""
        plugged = self.pool.attached_to_dom0(vdi, writing=False)
        plugged.__enter__()
        self._held.append(plugged)  # it unplugs the disk when nobody knows it any more

    @property
    def pool(self) -> Pool:
        return self.scene.pool

    def guests_write(self, seed: str) -> dict[str, list[str]]:
        """Change some of each VM's first disk; what the disks hold from now on."""
        for vm in VMS:
            self.pool.write(vm, disk=0, offset=64 * KIB, data=noise(vm + seed, 64 * KIB))
        return {vm: self.scene.disks(vm) for vm in VMS}

    def begin_anew(self) -> None:
        """With no fault set."""
        self.faults.end()
        self.faults.never_struck = []
        self.watch.forget()

    def lacking(self) -> list[str]:
        """VMs of whose last version a disk has nothing left that the next run could compare."""
        there = self.references()
        return [vm for vm, disks in self._last_disks().items() if disks - there]

    def version(self, outcome: VmOutcome) -> Version:
        """A version by what the job said of it."""
        with self.scene.store() as store:
            (name,) = [n for n in record_names(store, outcome.vm) if outcome.version in n]
            return read_version(store, name)

    def references(self) -> set[tuple[str, str]]:
        """Of each frozen disk without data: the disk it was frozen from, and the run."""
        db, found = self.pool.db, set()
        for ref in db.where("VDI", type="cbt_metadata"):
            live = db.get("VDI", db.get("VDI", ref, "snapshot_of"), "uuid")
            found.add((from_uuid(live), str(db.get("VDI", ref, "other_config")["likeness:run"])))
        assert len(found) == len(db.where("VDI", type="cbt_metadata")), "one is there twice"
        return found

    def wanted_references(self, *without: str) -> set[tuple[str, str]]:
        """What the next run compares with: each disk of each VM's last version."""
        kept = (disks for vm, disks in self._last_disks().items() if vm not in without)
        return set().union(*kept)

    def _last_disks(self) -> dict[str, set[tuple[str, str]]]:
        with self.scene.store() as store:
            last = [version.record for vm in vms(store) if (version := last_version(store, vm))]
        return {each.vm_name: {(disk.disk, each.run) for disk in each.disks} for each in last}

    # -- what is left ----------------------------------------------------------------------------

    def left(self) -> list[str]:
        """Everything that was not there before the first job, or is not as it was, in words.

        Of all classes but two: messages are the pool's own, and a session that nobody closed ends
        by itself. Frozen disks without data are counted by `references`.
        """
        now, found = census(self.pool), []
        for name, objects in now.items():
            for ref, record in objects.items():
                before = self.baseline[name].get(ref)
                if name == "VDI" and record["type"] == "cbt_metadata":
                    continue
                if before is None:
                    found.append(f"new {name} {record.get('name_label', ref)}")
                    continue
                found += _changes(name, before, record)
                if _marked(record):
                    found.append(f"{name} {record['uuid']} carries our mark")
        gone = [f"{n} {ref} is gone" for n, o in self.baseline.items() for ref in o.keys() - now[n]]
        return [*found, *gone]

    def must_be_clean(self) -> None:
        """Nothing may be left, as soon as the pool itself is done with what it was asked."""
        try:
            wait_until(lambda: not self.left(), "nothing is left", seconds=20)
        except AssertionError:
            assert self.left() == []


def census(pool: Pool) -> dict[str, dict[str, dict[str, Any]]]:
    """Every object of the pool by class and reference."""
    with pool.db.lock:
        return {
            name: {ref: pool.db.record(name, ref) for ref in pool.db.refs(name)}
            for name in pool.facts.classes
            if name not in _NOT_OURS
        }


def _marked(record: dict[str, Any]) -> bool:
    texts = [
        record.get("name_label", ""),
        record.get("name_description", ""),
        *record.get("tags", ()),
        *(f"{key} {value}" for key, value in record.get("other_config", {}).items()),
        *record.get("blocked_operations", {}).values(),
    ]
    return any("likeness" in str(text).lower() for text in texts)


def _changes(name: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    busy = [f"{name} {now['uuid']} is busy"] if now.get("current_operations") else []
    return busy + [
        f"{name} {now['uuid']}: {each} was {before[each]!r} and is {now[each]!r}"
        for each in _WATCHED.get(name, ())
        if before[each] != now[each]
    ]


@contextmanager
def open_stage(folder: Path, **settings: Any) -> Generator[Stage, None, None]:
    """Two hosts and four VMs, of which the one hit in its snapshot has two disks."""
    for name in ("images", "store", "vault", "here"):
        (folder / name).mkdir(parents=True)
    pool = Pool(Settings(**{**QUICK, **settings}), hosts=2)
    faults, watch = TimedFaults(), PhaseWatch(pool)
    pool.faults, pool.journal = faults, watch
    for vm in VMS:
        sizes = (512 * KIB, 256 * KIB) if vm == PHASES[0] else (512 * KIB,)
        disks = [noise(f"{vm}{number}", size) for number, size in enumerate(sizes)]
        pool.add_vm(
            vm, [image(folder / "images", f"{vm}{number}", d) for number, d in enumerate(disks)]
        )
    with LabServer(pool) as lab:
        scene = new_scene(folder, lab)
        scene.save(xen_pool=SECONDS)
        yield Stage(scene, faults, watch, census(pool))

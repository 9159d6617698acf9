"""Inside a guest: which disks it has, and how they are read as of one moment.

What lies on LVM is read from LVM snapshots, before which device-mapper lets the file systems write
out. What is mounted from a plain partition cannot be frozen under way; whether anything was written
to it meanwhile is counted, and said.
"""

import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from likeness.agent import lvm
from likeness.agent.commands import ScriptResult, run_script
from likeness.agent.patched import Patch
from likeness.agent.protocol import FoundDisk, Frozen, GuestOrder
from likeness.clock import stopwatch
from likeness.errors import BadInput, LikenessError, TransferBroken
from likeness.stopping import StopToken

_NO_DISKS = ("dm-", "fd", "loop", "md", "nbd", "ram", "sr", "zram")
_FLUSH_BUFFERS = 0x1261
STANDARD, UNFROZEN = "standard", "unfrozen"


def find_disks(wanted: Sequence[str] = ()) -> tuple[FoundDisk, ...]:
    """The disks of this machine, or those that are named.

    Raises:
        BadInput: There is none, or one of these cannot be read.
    """
    paths = list(wanted) or [f"/dev/{name}" for name in _own_disks()]
    if not paths:
        raise BadInput("the guest shows no disk that could be read; name its disks in its block")
    found = []
    for at, path in enumerate(paths):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as cause:
            raise BadInput(
                f"the guest's disk {path} cannot be read ({cause.strerror}); see that the account"
                " may read disks, or correct the disks in the guest's block"
            ) from cause
        try:
            size = os.lseek(handle, 0, os.SEEK_END)
        finally:
            os.close(handle)
        name = Path(path).name
        found.append(FoundDisk(path=path, name=name, position=_position(name, at), size_bytes=size))
    return tuple(found)


def _own_disks() -> list[str]:
    names = []
    for entry in sorted(lvm.BLOCKS.iterdir(), key=lambda each: (len(each.name), each.name)):
        hidden = entry.name.startswith(_NO_DISKS) or (entry / "partition").exists()
        if not hidden and int((entry / "size").read_text()):
            names.append(entry.name)
    return names


def _position(name: str, at: int) -> str:
    """As the pool counts: xvda is 0."""
    return str(ord(name[3]) - ord("a")) if name.startswith("xvd") and len(name) == 4 else str(at)


class Freezing:
    """Some disks, frozen as far as it goes while the `with` lasts.

    Attributes:
        patches: For each disk, what is read from elsewhere.
        scripts: What became of the commands.
    """

    def __init__(
        self, disks: Sequence[str], quiet: GuestOrder, stop: StopToken, say: Callable[[str], None]
    ) -> None:
        """Freeze nothing yet; `say` is told what could not be frozen, and why."""
        self._disks, self._quiet, self._stop, self._say = disks, quiet, stop, say
        self.patches: list[list[Patch]] = [[] for _ in disks]
        self.scripts: list[ScriptResult] = []
        self._made: list[lvm.Snapshot] = []
        self._watched: dict[str, tuple[Path, str]] = {}
        self._begun = stopwatch()

    def __enter__(self) -> "Freezing":
        try:
            try:
                self._script("before", self._quiet.before)
                self._freeze()
            finally:
                self._script("after", self._quiet.after)
        except BaseException:
            self._drop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def close_patches(self) -> None:
        """Let go of what is read from elsewhere, so that it can be dropped."""
        for patches in self.patches:
            for patch in patches:
                patch.close()

    def result(self) -> Frozen:
        """How it was read, and what to say of it; asked after the last byte was read.

        Raises:
            TransferBroken: A snapshot ran full meanwhile, so what was read of it is not true.
        """
        for snapshot in self._made:
            if not lvm.is_whole(snapshot):
                raise TransferBroken(
                    f"the guest's snapshot of {snapshot.volume} ran full; leave more room in"
                    f" volume group {snapshot.group}, or back up when less is written"
                )
        changed = [
            where for where, (device, before) in self._watched.items() if _writes(device) != before
        ]
        said = []
        if self._made:
            said.append(f"in LVM snapshots: {', '.join(each.volume for each in self._made)}")
        still = [where for where in self._watched if where not in changed]
        if mounted := [where for where in still if not where.startswith("/dev/")]:
            said.append(f"not written to meanwhile: {', '.join(mounted)}")
        if changed:
            said.append(f"read while it was written to, so not of one moment: {', '.join(changed)}")
        for script in self.scripts:
            said.append(script.sentence())
        return Frozen(
            consistency=UNFROZEN if changed else STANDARD,
            note="; ".join(said)[:1000],
            seconds=round(stopwatch() - self._begun, 3),
        )

    def _script(self, which: str, command: str) -> None:
        if not command:
            return
        result = run_script(which, command, self._quiet.script_seconds, self._stop)
        self.scripts.append(result)
        if result.code == 0:
            return
        if which == "before":
            raise BadInput(f"{result.sentence()}; nothing was read. See the script in the guest")
        self._say(result.sentence())

    def _freeze(self) -> None:
        os.sync()
        for disk in self._disks:
            _forget_cached(disk)
        lvm.drop_left_over(self._quiet.mark)
        volumes = lvm.volumes_on(self._disks)
        for volume in volumes:
            self._snapshot(volume)
        os.sync()
        self._watch()

    def _watch(self) -> None:
        """Count what is written to whatever was not frozen, but for swap."""
        mounts = _mounts()
        left_out = _swaps() | {each.device for each in self._made}
        left_out |= {Path(os.path.realpath(each.path)).name for each in self._made}
        for disk in self._disks:
            start = lvm.BLOCKS / Path(os.path.realpath(disk)).name
            for device in _leaves(start, left_out):
                where = mounts.get(device.name, f"/dev/{device.name}")
                self._watched[where] = (device, _writes(device))

    def _snapshot(self, volume: lvm.LogicalVolume) -> None:
        try:
            made = lvm.take_snapshot(volume, self._quiet.mark)
        except LikenessError as cause:
            self._say(str(cause))
            return
        self._made.append(made)
        for at, patch in volume.metadata:
            if patch not in self.patches[at]:
                self.patches[at].append(patch)
        for piece in volume.pieces:
            self.patches[piece.disk].append(
                Patch.of_device(piece.offset, piece.length, made.path, piece.volume_offset)
            )

    def _drop(self) -> None:
        self.close_patches()
        for snapshot in self._made:
            with suppress(LikenessError):
                lvm.remove(snapshot)


def _leaves(device: Path, left_out: Collection[str]) -> Iterator[Path]:
    """Block devices over a disk that lie under no other one, whoever uses them and how."""
    if device.name in left_out or not device.exists():
        return
    above = [each.name for each in device.iterdir() if (each / "partition").exists()]
    with suppress(OSError):
        above += [each.name for each in (device / "holders").iterdir()]
    if not above:
        yield device
    for name in above:
        yield from _leaves(lvm.BLOCKS / name, left_out)


def _mounts() -> dict[str, str]:
    """Where block devices are mounted, by their names in the kernel."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, source = left.split(), right.split()[1]
        name = Path(os.path.realpath(f"/sys/dev/block/{fields[2]}")).name
        if ":" in name:  # a file system over several devices
            name = Path(os.path.realpath(source)).name
        found.setdefault(name, fields[4])
    return found


def _swaps() -> set[str]:
    lines = Path("/proc/swaps").read_text().splitlines()[1:]
    return {Path(os.path.realpath(line.split()[0])).name for line in lines}


def _writes(device: Path) -> str:
    """How much was ever written to a device."""
    with suppress(OSError, IndexError):
        return (device / "stat").read_text().split()[6]
    return "unknown"


def _forget_cached(path: str) -> None:
    """Have a device read anew: what is mounted from it is written past what is cached of it."""
    with suppress(OSError), Path(path).open("rb") as device:  # who cannot read it hears it later
        with suppress(OSError):
            fcntl.ioctl(device, _FLUSH_BUFFERS)
        os.posix_fadvise(device.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

"""A disk of a version as an image of another format, streamed and proved on its way.

`qemu-img` reads the disk over NBD and writes the image: its formats are its own to keep right.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from likeness.errors import BadInput, LikenessError
from likeness.model.ids import random_name
from likeness.serving.exports import Export
from likeness.serving.nbd import NbdServer
from likeness.stopping import StopToken

FORMATS: dict[str, tuple[str, ...]] = {
    "qcow2": ("-O", "qcow2"),
    "vhd": ("-O", "vpc", "-o", "subformat=dynamic,force_size=on"),
}
"""What is written beside raw images, and what `qemu-img` is told for it."""
_LOOK_SECONDS = 0.2


class _Watched:
    """A disk that remembers why it could not be read, since NBD has only a number for that."""

    def __init__(self, disk: Export, progress: Callable[[int], None]) -> None:
        self._disk, self._progress = disk, progress
        self.problem: LikenessError | None = None

    @property
    def size_bytes(self) -> int:
        return self._disk.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = self._disk.read(offset, length)
        except LikenessError as problem:
            self.problem = self.problem or problem
            raise
        self._progress(len(data))
        return data

    def is_zero(self, offset: int, length: int) -> bool:
        asked = getattr(self._disk, "is_zero", None)
        return bool(asked and asked(offset, length))


def require_converter() -> str:
    """Where `qemu-img` is.

    Raises:
        BadInput: It is not installed.
    """
    found = shutil.which("qemu-img")
    if found is None:
        raise BadInput(
            "only raw images can be written here, since qemu-img is not installed; install"
            " qemu-utils, or take raw"
        )
    return found


def require_format(image_format: str, *, accept_damage: bool) -> None:
    """Leave if images of a format can be written, with or without damage.

    Raises:
        BadInput: Not so.
    """
    if image_format == "raw":
        return
    require_converter()
    if accept_damage:
        raise BadInput(
            "only a raw image can have a map of what is lost; accept damage with the format raw,"
            " then convert the image"
        )


def convert_disk(
    disk: Export,
    image: Path,
    image_format: str,
    *,
    stop: StopToken,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a disk as an image; it has its name only when it is whole.

    Args:
        disk: What to read; each byte proved by whoever gives it.
        image: A new file.
        image_format: One of `FORMATS`.
        stop: Ends it.
        progress: Told of bytes read.

    Raises:
        BadInput: There is such a file, it cannot be written, or `qemu-img` is not installed.
        DataLost: Some bytes are not to be had; no image is left.
        Stopped: On request.
    """
    tool = require_converter()
    partial = image.with_name(f"{image.name}.{random_name()[:8]}.partial")
    watched = _Watched(disk, progress)
    try:
        _require_free(image)
        partial.touch(mode=0o600, exist_ok=False)
        with (
            tempfile.TemporaryDirectory(prefix="likeness-") as folder,  # a socket's path is short
            NbdServer({"disk": watched}, socket_path=Path(folder, "nbd")) as server,
        ):
            words = [tool, "convert", "-f", "raw", *FORMATS[image_format]]
            said = _run([*words, server.uri("disk"), str(partial)], stop)
        if watched.problem is not None:
            raise watched.problem
        if said:
            raise BadInput(f"{image} cannot be written: {said}; see to that, then restore again")
        _flush(partial)
        _require_free(image)
        partial.rename(image)
    except OSError as cause:
        raise BadInput(
            f"{image} cannot be written: {cause.strerror}; choose another place"
        ) from cause
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _require_free(image: Path) -> None:
    if image.exists():
        raise BadInput(f"{image} exists already; restore to another name or remove it first")


def _run(words: list[str], stop: StopToken) -> str:
    """Run it to its end; what it complains of, or nothing."""
    with subprocess.Popen(  # noqa: S603  # its words are ours, and no shell reads them
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            while True:
                stop.check()
                try:
                    _, said = process.communicate(timeout=_LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.kill()
            raise
    if process.returncode == 0:
        return ""
    lines = said.strip().splitlines() or [f"qemu-img ended with {process.returncode}"]
    return lines[-1].removeprefix("qemu-img: ")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

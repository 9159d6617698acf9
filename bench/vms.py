"""One step of a series over several disks: our engine, or the bare work without it.

    python -m bench.vms FOLDER STEP sampled|all|bare

*bare* is what a backup cannot do without: read, tell zeros and what is as before, hash, compress,
seal, write packs and flush them; it keeps no index and proves nothing. It is no program to back up
with, but what ours is measured by.
"""

import os
import pickle
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zstandard
from blake3 import blake3
from nacl.bindings import crypto_aead_aegis256_encrypt

from bench.data_path import backup
from bench.images import NAMES
from bench.restoring import store_in
from bench.settling import copies, known_ids, prove_all, settle
from likeness.agent.reader import FileDiskReader
from likeness.agent.transfer import SEGMENT_BYTES
from likeness.codec.records import Check
from likeness.model.disk import Segment
from likeness.model.ids import VmId
from likeness.transport.tuning import keep_large_buffers

VMS = {name: VmId(f"{at:032x}") for at, name in enumerate(NAMES, start=1)}
_CHUNK = 256 << 10
_PACK = 16 << 20
_ZEROS = bytes(_CHUNK)


def main() -> None:
    """Do what the arguments say."""
    folder, step, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    keep_large_buffers()
    if how == "bare":
        _Bare(folder).run()
        return
    store = store_in(folder)
    if step == "verify everything":
        prove_all(store)
    elif step == "settle":
        settle(store, folder)
    else:
        for name, vm in VMS.items():
            backup(
                store,
                folder,
                disk=f"{name}.raw",
                vm=vm,
                check=Check(how),
                known=known_ids(folder),
                copies=copies(folder),
            )


class _Bare:
    """The bare work of a backup, in as many threads as there are cores."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._key = folder, os.urandom(32)
        self._before = folder / "bare-ids"
        old: tuple[bytes, dict[tuple[str, int], bytes], set[bytes]] = (
            pickle.loads(self._before.read_bytes())  # we wrote it a moment ago
            if self._before.exists()
            else (os.urandom(32), {}, set())
        )
        self._id_key, self._ids, self._seen = old
        self._own, self._lock = threading.local(), threading.Lock()
        self._room = threading.Semaphore(2 * (os.cpu_count() or 1))
        self._packs = folder / "bare"
        self._packs.mkdir(exist_ok=True)
        self._pack: list[bytes] = []
        self._size = 0

    def run(self) -> None:
        """All disks, one after the other."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = [pool.submit(self._work, name, segment) for name, segment in self._segments()]
        for each in done:
            each.result()
        self._write(self._pack)
        self._before.write_bytes(pickle.dumps((self._id_key, self._ids, self._seen)))

    def _segments(self) -> Iterator[tuple[str, Segment]]:
        for name in NAMES:
            reader = FileDiskReader(self._folder / f"{name}.raw")
            for segment in reader.segments(SEGMENT_BYTES):
                self._room.acquire()
                yield name, segment
            reader.close()

    def _work(self, name: str, segment: Segment) -> None:
        compressor = self._own.__dict__.setdefault("zstd", zstandard.ZstdCompressor(level=1))
        for at in range(0, len(segment.data), _CHUNK):
            data = segment.data[at : at + _CHUNK]
            if data == _ZEROS[: len(data)]:
                continue
            chunk = blake3(data, key=self._id_key).digest()
            place = (name, segment.offset + at)
            if self._ids.get(place) == chunk:
                continue
            self._ids[place] = chunk
            with self._lock:
                known = chunk in self._seen
                self._seen.add(chunk)
            if not known:
                frame = compressor.compress(data)
                nonce = os.urandom(32)
                self._add(nonce + crypto_aead_aegis256_encrypt(frame, chunk, nonce, self._key))
        self._room.release()

    def _add(self, record: bytes) -> None:
        with self._lock:
            self._pack.append(record)
            self._size += len(record)
            if self._size < _PACK:
                return
            full, self._pack, self._size = self._pack, [], 0
        self._write(full)

    def _write(self, records: list[bytes]) -> None:
        with (self._packs / os.urandom(8).hex()).open("wb") as file:
            file.writelines(records)
            file.flush()
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()

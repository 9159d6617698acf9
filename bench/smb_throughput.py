"""How fast do sealed packs reach an SMB share, beside what Debian's own smbclient reaches?

    python -m bench.smb_throughput [--packs 16] [--rounds 5] [--signing-only] [--folder DIR]

One real smbd on loopback, one run, the same bytes: 16 MiB packs as a backup makes them. In every
round smbclient puts them all over one connection, and a fresh Python process creates them all with
`SmbTransport`, over one connection and over two. smbclient's rate is the one it prints, which
leaves out connecting; it flushes nothing. Ours counts the whole of `create`: write, FLUSH of the
file, FLUSH of its folder.

Client and server share this machine, so the CPU of both is shown. "Share of SMB" is the CPU that
sending takes of all the CPU that the writer of a pack uses: naming, compressing, sealing, proving
and sending.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.results import keep
from likeness.codec.aead import Suite
from likeness.codec.hashing import chunk_id
from likeness.codec.keys import SessionKey, StoreKeys
from likeness.codec.records import Sealer
from likeness.model.ids import StoreId, random_name
from likeness.store.format.pack import PACK_TARGET_BYTES, PackBuilder
from likeness.transport.smb import SmbTransport
from tests.smb.server import SmbServer, program

MIB = 1 << 20
CHUNK_BYTES = 256 << 10
PART_BYTES = 200 << 10  # about a sealed chunk
ENOUGH = 0.8


@dataclass(frozen=True)
class Rate:
    """One measurement."""

    mib_per_second: float
    cpu_seconds_per_gib: float
    """CPU of the client."""
    cpu_share: float
    """CPU of the client by wall time: 1.0 is one core busy."""


@dataclass(frozen=True)
class Work:
    """What a fresh process is asked to do."""

    port: int
    username: str
    encrypt: bool
    connections: int
    folder: str
    packs: Sequence[str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--signing-only", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the share lies; default: in memory")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.work:
        write_packs(Work(**json.loads(asked.work)))
        return 0
    memory = Path("/dev/shm")  # only as the place of a private folder
    home = asked.folder or (memory if memory.is_dir() else Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix="likeness-bench-", dir=home) as folder:
        return compare(
            Path(folder), packs=asked.packs, rounds=asked.rounds, encrypt=not asked.signing_only
        )


def compare(folder: Path, *, packs: int, rounds: int, encrypt: bool) -> int:
    """Run all rounds and print the table.

    Returns:
        0 when one connection reaches `ENOUGH` of smbclient's rate.
    """
    files, sealing = seal_packs(folder / "packs", packs)
    total = sum(path.stat().st_size for path in files)
    server = SmbServer(encryption="required" if encrypt else "off")
    share = folder / "share"
    share.mkdir()
    server.use_folder("ads", share)
    found: dict[str, list[Rate]] = {"smbclient put": [], "likeness x1": [], "likeness x2": []}
    server_cpu = dict.fromkeys(found, 0.0)
    try:
        server.start()
        for number in range(rounds):
            for name, rates in found.items():
                before = cpu_of(server)
                inside = f"{name.replace(' ', '-')}-{number}"
                if name == "smbclient put":
                    rates.append(with_smbclient(server, files, inside, encrypt=encrypt))
                else:
                    connections = int(name[-1])
                    rates.append(with_likeness(server, files, inside, connections, encrypt=encrypt))
                server_cpu[name] += cpu_of(server) - before
                empty(share)
    finally:
        server.remove()
    return tell(found, server_cpu, sealing, total, encrypt=encrypt)


def tell(
    found: dict[str, list[Rate]],
    server_cpu: dict[str, float],
    sealing_cpu: float,
    total: int,
    *,
    encrypt: bool,
) -> int:
    """Print the table and keep it."""
    gib = total / (1 << 30)
    medians = {
        name: statistics.median(rate.mib_per_second for rate in rates)
        for name, rates in found.items()
    }
    base = medians["smbclient put"]
    lines = [
        "| | MiB/s (least to most) | ratio | client, CPU s/GiB | client, share of a core"
        " | server, CPU s/GiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, rates in found.items():
        speeds = sorted(rate.mib_per_second for rate in rates)
        cpu = statistics.median(rate.cpu_seconds_per_gib for rate in rates)
        share = statistics.median(rate.cpu_share for rate in rates)
        lines.append(
            f"| {name} | {medians[name]:.0f} ({speeds[0]:.0f} to {speeds[-1]:.0f})"
            f" | {medians[name] / base:.2f} | {cpu:.2f} | {share:.0%}"
            f" | {server_cpu[name] / len(rates) / gib:.2f} |"
        )
    smb = statistics.median(rate.cpu_seconds_per_gib for rate in found["likeness x1"])
    lines.append(
        f"\nSealing takes {sealing_cpu / gib:.2f} CPU s/GiB, so sending over one connection is"
        f" {smb / (smb + sealing_cpu / gib):.0%} of the CPU of whoever writes a pack."
    )
    text = "\n".join(lines)
    print(text)
    keep(
        "smb_throughput",
        f"{total / MIB:.0f} MiB of sealed packs to a real smbd on loopback,"
        f" {'encrypted' if encrypt else 'signed only'}, medians of {len(found['likeness x1'])}"
        f" rounds. At least {ENOUGH} of smbclient is wanted over one connection.",
        text,
    )
    return 0 if medians["likeness x1"] / base >= ENOUGH else 1


def seal_packs(folder: Path, count: int) -> tuple[list[Path], float]:
    """Make packs as a backup does, from chunks that shrink to about three quarters.

    Returns:
        The files, and the CPU seconds it took to name, compress, seal and prove.
    """
    folder.mkdir()
    store = StoreId(random_name())
    keys = StoreKeys(store, os.urandom(32))
    session = SessionKey.fresh(keys.public().box)
    sealer = Sealer(store, session, suite=Suite.AEGIS_256, level=3)
    builder = PackBuilder(store, session, Suite.AEGIS_256)
    files: list[Path] = []
    spent = 0.0
    while len(files) < count:
        plaintext = os.urandom(CHUNK_BYTES * 3 // 4) + bytes(CHUNK_BYTES // 4)
        begun = time.process_time()
        name = chunk_id(plaintext, id_key=bytes(32))
        builder.add(name, sealer.seal(name, plaintext))
        pack = builder.finish() if builder.size_bytes >= PACK_TARGET_BYTES else None
        spent += time.process_time() - begun
        if pack is not None:
            path = folder / pack.receipt.pack
            path.write_bytes(b"".join(pack.parts))
            files.append(path)
    return files, spent


def with_smbclient(server: SmbServer, files: list[Path], inside: str, *, encrypt: bool) -> Rate:
    login = server.home / "login"
    login.touch(mode=0o600)
    login.write_text(f"username={server.username}\npassword={server.password}\n")
    orders = [f"mkdir {inside}", f"cd {inside}", *(f"put {path} {path.name}" for path in files)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = subprocess.run(
        [
            program("smbclient"),
            "//127.0.0.1/ads",
            f"--port={server.port}",
            f"--authentication-file={login}",
            f"--configfile={server.configuration}",
            "--max-protocol=SMB3_11",
            f"--client-protection={'encrypt' if encrypt else 'sign'}",
            "--command=" + "; ".join(orders),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    kib_per_second = float(re.findall(r"\(average ([\d.]+) kb/s\)", told.stdout + told.stderr)[-1])
    total = sum(path.stat().st_size for path in files)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    speed = kib_per_second / 1024
    return Rate(speed, cpu / (total / (1 << 30)), cpu / (total / MIB / speed))


def with_likeness(
    server: SmbServer, files: list[Path], inside: str, connections: int, *, encrypt: bool
) -> Rate:
    work = Work(
        server.port, server.username, encrypt, connections, inside, [str(path) for path in files]
    )
    done = subprocess.run(
        [sys.executable, "-m", "bench.smb_throughput", "--work", json.dumps(asdict(work))],
        input=server.password,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Rate(**json.loads(done.stdout))


def write_packs(work: Work) -> None:
    """In a process of its own: create every pack, print the rate."""
    transport = SmbTransport(
        "127.0.0.1",
        "ads",
        work.folder,
        username=work.username,
        password=sys.stdin.read(),
        port=work.port,
        encrypt=work.encrypt,
        connections=work.connections,
    )
    packs = {Path(name).name: cut(Path(name).read_bytes()) for name in work.packs}
    total = sum(len(part) for parts in packs.values() for part in parts)
    with ThreadPoolExecutor(work.connections) as threads:
        list(threads.map(lambda _: transport.space(), range(work.connections)))  # connect
        begun, cpu_begun = time.monotonic(), time.process_time()
        list(threads.map(lambda item: transport.create(*item), packs.items()))
        wall, cpu = time.monotonic() - begun, time.process_time() - cpu_begun
    transport.close()
    print(json.dumps(asdict(Rate(total / MIB / wall, cpu / (total / (1 << 30)), cpu / wall))))


def cut(data: bytes) -> list[bytes]:
    return [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]


def cpu_of(server: SmbServer) -> float:
    """CPU seconds of a server so far, those of its ended children included."""
    ticks = 0
    for pid in server.pids():
        try:
            told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(told[number]) for number in (11, 12, 13, 14))
    return ticks / os.sysconf("SC_CLK_TCK")


def empty(share: Path) -> None:
    for folder in share.iterdir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())

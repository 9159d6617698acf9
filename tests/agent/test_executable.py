"""The agent with nothing around it: only what its pins name, and as one file on a bare machine."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from likeness.errors import ShareUnreachable, TransferBroken
from likeness.model.ids import VmId, random_name
from tests.agent.orders import Ordered
from tests.unit.workshop import CHUNK, MIB, Workshop, changed, noise

ROOT = Path(__file__).parents[2]
# Nothing can be imported but Python, the agent's pins and the engine.
FENCED = """
import sys
allowed = set(sys.argv[1].split(","))
class Fence:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{name} does not travel with the agent", name=name)
sys.meta_path.insert(0, Fence())
from likeness.agent.working import work
sys.exit(work(0, 1))
"""


def pinned_modules() -> set[str]:
    pins = re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements/agent.txt").read_text(), re.M)
    return {
        module
        for module, owners in packages_distributions().items()
        if any(re.sub("[._]", "-", owner.lower()) in pins for owner in owners)
    }


def backs_up(workshop: Workshop, command: tuple[str, ...]) -> None:
    vm = VmId(random_name())
    disk = noise(1, 20 * CHUNK) + bytes(8 * CHUNK) + noise(2, 512)
    for now in (disk, changed(disk, (2 * CHUNK + 7, b"written"))):
        attempt = Ordered.of(workshop, now, vm=vm).attempt(command=command)
        done = attempt.run()
        version = workshop.commit(attempt.receipt(done))
        assert workshop.restore_in_memory(version) == now
        assert attempt.code == 0
        assert 0 < done.peak_bytes < 150 * MIB


def test_the_agent_needs_no_more_than_its_pins_name(workshop: Workshop) -> None:
    modules = pinned_modules() | {"likeness"}
    assert {"nacl", "zstandard", "smbprotocol"} < modules
    fenced = (sys.executable, "-c", FENCED, ",".join(modules))
    backs_up(workshop, fenced)
    attempt = Ordered.of(workshop, noise(1, CHUNK)).attempt(
        command=fenced, place="smb://127.0.0.1:1/share", username="a", trial="in/x"
    )
    with pytest.raises(ShareUnreachable):
        attempt.run()


@pytest.fixture(scope="module")
def executable() -> Path:
    subprocess.run(["make", "agent"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return ROOT / "dist" / "likeness-agent"


@pytest.fixture
def bare(executable: Path, tmp_path: Path) -> tuple[str, ...]:
    """What runs the executable where there is nothing else: no Python, no C library, no shell."""
    if os.geteuid() != 0:
        pytest.skip("only root can change into another root folder")
    jail = tmp_path / "jail"
    inside = jail / tmp_path.relative_to("/")
    for folder in (jail / "proc", jail / "tmp", jail / "etc", inside):
        folder.mkdir(parents=True)
    (jail / "etc" / "hosts").write_text("127.0.0.1 nas\n")
    (jail / "likeness-agent").write_bytes(executable.read_bytes())
    (jail / "likeness-agent").chmod(0o755)
    mounts = f"mount -t proc proc {jail}/proc; mount --bind {tmp_path} {inside}"
    return ("unshare", "-m", "sh", "-ec", f"{mounts}; exec chroot {jail} /likeness-agent")


@pytest.mark.torture
def test_one_file_on_a_machine_without_python(
    workshop: Workshop, bare: tuple[str, ...], tmp_path: Path
) -> None:
    backs_up(workshop, bare)
    ordered = Ordered.of(workshop, noise(1, 48 * MIB))
    with pytest.raises(ShareUnreachable) as refused:  # the name is found without the machine's help
        ordered.attempt(command=bare, place="smb://nas:1/share", username="a", trial="in/x").run()
    assert "refused" in str(refused.value)

    def terminated(process: object) -> None:
        assert hasattr(process, "pid")
        pid, until = int(process.pid), time.monotonic() + 120

        def when_it_works() -> None:
            while not any((tmp_path / "jail" / "tmp").rglob("*.map")):
                assert time.monotonic() < until
                time.sleep(0.1)
            os.kill(pid, signal.SIGTERM)

        threading.Thread(target=when_it_works, daemon=True).start()

    attempt = Ordered.of(workshop, noise(2, 48 * MIB)).attempt(
        command=bare, bytes_per_second=4 * MIB
    )
    with pytest.raises(TransferBroken):
        attempt.run(terminated)
    left = {each.name for each in (tmp_path / "jail" / "tmp").iterdir()}
    assert left <= {tmp_path.parts[2]}, "only the folder of this test, where that is below /tmp"

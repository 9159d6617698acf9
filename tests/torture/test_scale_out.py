"""Two workers, each with a scratch of its own, one core and no catalog: the same proof.

Each lives in a mount namespace in which the folder of catalog and claims is an empty one that holds
nothing but a copy of the key file.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lab.demo_disks import some_text
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.figures import FIGURES
from tests.flows.installation import Installation
from tests.flows.scene import MIB, QUICK, image, noise
from tests.flows.waiting import wait_until
from tests.torture.test_operator_day import PASSWORD, job, start_deployed

pytestmark = [
    pytest.mark.torture,
    pytest.mark.prefect,
    pytest.mark.lab,
    pytest.mark.needs("unshare", "taskset"),
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made by root"),
    pytest.mark.timeout(2400),
]
DISK_MIB = 1024
CHANGE = """
import json, sys
from flows.settings import change_settings
change_settings("main", **json.loads(sys.argv[1]))
print("{}")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scale")
    for name in ("images", "store", "vault", "here", "owner", "key"):
        (made / name).mkdir()
    return made


@pytest.fixture(scope="module")
def lab(folder: Path) -> Generator[LabServer, None, None]:
    pool = Pool(Settings(**QUICK, password=PASSWORD))
    with (folder / "images" / "web.raw").open("wb") as disk:
        for number in range(DISK_MIB // 64):
            disk.write(some_text(number, 64 * MIB))
    pool.add_vm("web", [folder / "images" / "web.raw"])
    pool.add_vm("db", [image(folder / "images", "db", noise("db", 4 * MIB))])
    with LabServer(pool) as server:
        yield server


@pytest.fixture(scope="module")
def installation(folder: Path, lab: LabServer) -> Generator[Installation, None, None]:
    made = Installation(folder / "owner")
    try:
        start_deployed(made, lab, "here", "others")
        for each in ("prove-packs/prove-packs", "work-elsewhere/work-elsewhere"):
            known = made.get(f"/deployments/name/{each}")["id"]
            made.post(f"/deployments/{known}", {"work_pool_name": "others"}, method="PATCH")
        for each in made.post("/automations/filter", {}):
            if each["name"] == "vault what was validated":  # only when a test says so
                made.post(f"/automations/{each['id']}", None, method="DELETE")
        shutil.copy(folder / "here" / "store.key", folder / "key" / "store.key")
        made.start_worker()
        run = made.run("backup-job/nightly", job("nightly", "web"))
        assert made.ended(run, seconds=900)["name"] == "Completed"
        wait_until(lambda: made.runs_of("validate"), "the event starts a validation")
        (validation,) = made.runs_of("validate")
        assert made.ended(validation["id"], seconds=900)["name"] == "Completed"
        made.python(CHANGE, json.dumps({"prove_on_workers": 2}))
        yield made
    finally:
        made.stop()


@contextmanager
def elsewhere(
    installation: Installation, folder: Path, count: int
) -> Generator[list[int], None, None]:
    """Workers on machines of their own, each with one core; their processes."""
    here, key = folder / "here", folder / "key" / "store.key"
    setting = f"mount -t tmpfs none {here} && cp --preserve {key} {here}/store.key && exec "
    with ExitStack() as held:
        started = []
        for number in range(count):
            within = ("unshare", "--mount", "sh", "-c", setting + '"$0" "$@"')
            pid = installation.start_worker(
                "others", f"other{number}", core=number, within=within, limit=1
            )
            held.callback(installation.stop_process, pid)
            started.append(pid)
        yield started
        for pid in started:
            with suppress(OSError):  # one was killed
                left = {each.name for each in Path(f"/proc/{pid}/root{here}").iterdir()}
                assert "catalog.duckdb" not in left, left


def validated(installation: Installation) -> tuple[str, float]:
    """Prove everything again; how the run ended, and after how many seconds."""
    run = installation.run("validate/check-everything", {})
    ended = installation.ended(run, seconds=900)
    found = installation.flow_run(run)
    begun, over = (datetime.fromisoformat(found[key]) for key in ("start_time", "end_time"))
    return str(ended["name"]), (over - begun).total_seconds()


def proving_runs(installation: Installation) -> list[dict[str, Any]]:
    return installation.runs_of("prove-packs")


def test_two_workers_share_what_is_to_be_proved(installation: Installation, folder: Path) -> None:
    """How much sooner they are done is measured by `python -m bench scale_out`."""
    seconds = {}
    for count in (1, 2):
        before = {each["id"] for each in proving_runs(installation)}
        with elsewhere(installation, folder, count):
            name, seconds[count] = validated(installation)
        assert name == "Completed"
        new = [each for each in proving_runs(installation) if each["id"] not in before]
        assert {each["state"]["name"] for each in new} == {"Completed"}
        packs = {path.name for path in (folder / "store" / "packs").rglob("*") if path.is_file()}
        given = [pack for each in new for pack in each["parameters"]["packs"]]
        assert sorted(given) == sorted(packs)
    FIGURES.append(
        f"{DISK_MIB} MiB proved by runs elsewhere, their beginning included: by one worker"
        f" {seconds[1]:.1f} s, by two {seconds[2]:.1f} s"
    )


def kill_one_that_proves(
    installation: Installation, workers: Sequence[int], runs: Callable[[], Sequence[dict[str, Any]]]
) -> bool:
    """Kill a worker and its run in the midst of it; whether one was in the midst."""
    proving = [each["id"] for each in runs() if each["state"]["type"] == "RUNNING"]
    for run in proving:
        with suppress(ValueError, OSError):  # it has just ended
            process = installation.process_of_run(run)
            os.kill(process, signal.SIGSTOP)  # so that it does not end while it is looked at
            if is_at_work(installation, run):
                (worker,) = {*workers} & {*ancestors(process)}
                for pid in (worker, process):
                    os.kill(pid, signal.SIGKILL)
                return True
            os.kill(process, signal.SIGCONT)
    return False


def is_at_work(installation: Installation, run: str) -> bool:
    """Whether a run goes on, and has not handed back yet what it found."""
    left = installation.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    going_on = installation.flow_run(run)["state"]["type"] == "RUNNING"
    return going_on and bool(left) and not any(each["data"] for each in left)


def ancestors(pid: int) -> list[int]:
    """Who began a process, who began that, and so on."""
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def test_what_a_killed_worker_had_is_proved_by_the_other_and_damage_is_found(
    installation: Installation, folder: Path
) -> None:
    victim = max((folder / "store" / "packs").rglob("*"), key=lambda path: path.stat().st_size)
    whole = victim.read_bytes()
    hurt = bytearray(whole)
    hurt[len(hurt) // 2] ^= 0xFF
    known = {each["id"] for each in proving_runs(installation)}

    def new() -> list[dict[str, Any]]:
        return [each for each in proving_runs(installation) if each["id"] not in known]

    with elsewhere(installation, folder, 2) as workers:
        victim.write_bytes(hurt)
        run = installation.run("validate/check-everything", {})
        wait_until(
            lambda: kill_one_that_proves(installation, workers, new),
            "one is killed",
            seconds=300,
            pause=0.05,
        )
        ended = installation.ended(run, seconds=900)
    assert ended["type"] == "FAILED", ended
    table = json.loads(installation.artifact("versions")["data"])
    assert [row["verdict"] for row in table] == ["❌"]
    packs = {path.name for path in (folder / "store" / "packs").rglob("*") if path.is_file()}
    given = [pack for each in new() for pack in each["parameters"]["packs"]]
    assert set(given) == packs
    assert len(given) > len(packs), "what the dead one had was handed to the other"

    victim.write_bytes(whole)
    name, _ = validated(installation)  # and with no worker elsewhere at all
    assert name == "Completed"
    table = json.loads(installation.artifact("versions")["data"])
    assert [row["verdict"] for row in table] == ["✅"]


def test_without_any_catalog_they_restore_look_into_files_and_vault(
    installation: Installation, lab: LabServer, folder: Path
) -> None:
    run = installation.run("backup-job/nightly", job("small", "db"))
    assert installation.ended(run, seconds=300)["name"] == "Completed"
    installation.python(CHANGE, json.dumps({"restore_on_workers": True, "vault_on_workers": 2}))
    wanted: dict[str, dict[str, Any]] = {
        "restore-vm/restore-vm": {
            "vm": "db",
            "version": version_of(installation, "db"),
            "new_name": "db again",
        },
        "restore-disks/restore": {
            "vm": "db",
            "version": version_of(installation, "db"),
            "folder": str(folder / "restored"),
        },
        "files/files": {"vm": "db", "version": version_of(installation, "db")},
        "vault/vault": {},
    }
    with elsewhere(installation, folder, 2):
        for deployment, parameters in wanted.items():
            run = installation.run(deployment, parameters)
            ended = installation.ended(run, seconds=600)
            assert ended["name"] == "Completed", (deployment, ended)
    works = installation.runs_of("work-elsewhere")
    assert sorted(each["parameters"]["work"] for each in works) == [
        "copy to the vault",
        "copy to the vault",
        "look into files",
        "restore a VM",
        "restore disks",
    ]
    assert {each["state"]["name"] for each in works} == {"Completed"}
    content = noise("db", 4 * MIB)
    assert lab.pool.disk_of("db again", 0).read(0, 4 * MIB) == content
    (restored,) = (folder / "restored").iterdir()
    assert restored.read_bytes() == content
    installation.python(CHANGE, json.dumps({"restore_on_workers": False}))
    parameters = {
        **wanted["restore-disks/restore"],
        "from_vault": True,
        "folder": str(folder / "from-vault"),
    }
    run = installation.run("restore-disks/restore", parameters)
    assert installation.ended(run)["name"] == "Completed"
    (restored,) = (folder / "from-vault").iterdir()
    assert restored.read_bytes() == content


def version_of(installation: Installation, vm: str) -> str:
    """The id of a VM's version, as the page has it."""
    table = json.loads(installation.artifact("versions")["data"])
    (found,) = [row["version"] for row in table if row["VM"] == vm]
    return str(found)

"""A catalog that a power cut tore is set aside; the best copy takes its place, and people know."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from catalog.audits import open_troubles
from catalog.connection import reading
from catalog.messages import undelivered
from catalog.reconciling import store_of
from catalog.session import catalog_session
from catalog.staging import private_folder, sweep_left
from catalog.values import Verdict
from likeness.claims import claim, forget_claims, is_claimed
from likeness.clock import system_clock
from likeness.errors import Damaged, ShareUnreachable, StoreMissing
from likeness.model.ids import RunId, random_name
from likeness.model.job import BackupJob
from tasks.catch_up import catch_up
from tasks.journal import journaled
from tasks.protect_catalog import copy_catalog
from tests.unit.workshop import CHUNK, noise
from tests.validation.house import DAY, House, settings_of

ROOT = Path(__file__).parents[2]
GOOD, UNCHECKED = Verdict.GOOD, Verdict.UNCHECKED

DIES_WITH_A_LOG = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from catalog.connection import CatalogLocation, opened, transaction
catalog = CatalogLocation(Path(sys.argv[2]))
with opened(catalog, catalog.path, read_only=False) as connection:
    for at in range(3):
        with transaction(connection):
            connection.execute("INSERT INTO audits SELECT now()::TIMESTAMP, 1, 0, false"
                               " FROM range(300)")
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def _no_logger() -> Generator[None, None, None]:
    with disable_run_logger():
        yield


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> House:
    house = House(tmp_path_factory.mktemp("lived") / "house")
    house.clock.now = system_clock()
    house.site = settings_of(house.site, webhook="slack-webhook/ops")
    with disable_run_logger(), catalog_session(house.catalog):
        house.back_up("web", noise("web", 3 * CHUNK))
        house.back_up("db", noise("db", 2 * CHUNK))
        house.validate()
        catch_up.fn(site=house.site)
        copy_catalog.fn(RunId(random_name()), site=house.site)
        house.back_up("web", noise("web again", 3 * CHUNK))
        house.validate()
        assert house.verdicts() == {"web": [GOOD, GOOD], "db": [GOOD]}
    return house


@pytest.fixture
def lived(two_nights: House, tmp_path: Path) -> House:
    """Two validated versions that a copy in the store knows, and a third that is newer."""
    return two_nights.copied(tmp_path / "house")


def write_a_log(house: House) -> Path:
    """A process that is killed before the log is brought into the file."""
    code = [sys.executable, "-c", DIES_WITH_A_LOG, str(ROOT), str(house.catalog.path)]
    assert subprocess.run(code, check=False).returncode == -signal.SIGKILL
    log = house.catalog.path.with_name("catalog.duckdb.wal")
    assert log.stat().st_size > 1000
    return log


def log_ends_in_zeros(house: House) -> None:
    with write_a_log(house).open("ab") as file:
        file.write(bytes(4096))


def log_is_half_zeros(house: House) -> None:
    log = write_a_log(house)
    data = log.read_bytes()
    log.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def log_ends_in_garbage(house: House) -> None:
    log = write_a_log(house)
    data = log.read_bytes()
    log.write_bytes(data[:-500] + random.Random(7).randbytes(500))


def file_is_empty(house: House) -> None:
    house.catalog.path.write_bytes(b"")


def file_is_cut(house: House) -> None:
    os.truncate(house.catalog.path, house.catalog.path.stat().st_size // 2)


def file_is_garbage(house: House) -> None:
    house.catalog.path.write_bytes(random.Random(7).randbytes(1 << 20))


def file_is_hurt_inside(house: House) -> None:
    data = bytearray(house.catalog.path.read_bytes())
    for at in range(3 * 4096 + 100, len(data), 50_000):
        data[at] ^= 0xFF
    house.catalog.path.write_bytes(data)


BY_ITS_OWN_FILE = [log_ends_in_zeros, log_is_half_zeros, log_ends_in_garbage]
BY_THE_COPY = [file_is_empty, file_is_cut, file_is_garbage, file_is_hurt_inside]


@pytest.mark.parametrize("tear", [*BY_ITS_OWN_FILE, *BY_THE_COPY], ids=lambda tear: tear.__name__)
def test_a_torn_catalog_is_set_aside_and_the_work_goes_on(
    lived: House, tear: Callable[[House], None]
) -> None:
    tear(lived)
    torn = lived.catalog.path.read_bytes()

    catch_up.fn(site=lived.site)

    newest = GOOD if tear in BY_ITS_OWN_FILE else UNCHECKED  # the copy does not know it
    assert lived.verdicts() == {"web": [GOOD, newest], "db": [GOOD]}
    (kept,) = (p for p in lived.catalog.path.parent.glob("*.set-aside-*") if p.suffix != ".wal")
    assert kept.read_bytes() == torn
    (letter,) = undelivered(lived.catalog)
    assert "was set aside" in letter.message.body
    (trouble,) = open_troubles(lived.catalog)
    assert trouble.name == f"catalog: {kept.name}"

    catch_up.fn(site=lived.site)  # said once
    assert len(undelivered(lived.catalog)) == 1
    lived.clock.now = system_clock()
    lived.validate()
    assert {v for each in lived.verdicts().values() for v in each} == {GOOD}


def test_without_a_copy_everything_comes_back_grey(lived: House) -> None:
    for copy in (lived.folder / "store" / "catalog").iterdir():
        copy.unlink()
    file_is_cut(lived)
    assert catch_up.fn(site=lived.site) == 3
    assert lived.verdicts() == {"web": [UNCHECKED, UNCHECKED], "db": [UNCHECKED]}


def rows_of_versions_are_hurt(house: House) -> None:
    """One bit, in the block that holds the table's rows; DuckDB's blocks follow three headers."""
    with reading(house.catalog) as connection:
        found = connection.execute(
            "SELECT max(block_id) FROM pragma_storage_info('versions')"
        ).fetchone()
    assert found
    data = bytearray(house.catalog.path.read_bytes())
    data[3 * 4096 + found[0] * (256 << 10) + 5000] ^= 0x01
    house.catalog.path.write_bytes(data)


def test_damage_that_shows_in_the_middle_is_mended_by_the_next_run(lived: House) -> None:
    """The head of the file is well, so only who reads the damaged table meets it."""
    rows_of_versions_are_hurt(lived)
    assert store_of(lived.catalog), "it opens, and other tables are read"
    assert not lived.catalog.doubt.exists()
    with pytest.raises(Damaged, match="sets it aside"):
        lived.rows()
    assert lived.catalog.doubt.exists()

    catch_up.fn(site=lived.site)

    assert lived.verdicts() == {"web": [GOOD, UNCHECKED], "db": [GOOD]}
    assert not lived.catalog.doubt.exists()
    assert len(list(lived.catalog.path.parent.glob("*.set-aside-*"))) == 1


def test_a_doubt_that_is_unfounded_ends_with_reading_everything(lived: House) -> None:
    lived.catalog.doubt.touch()
    catch_up.fn(site=lived.site)
    assert not lived.catalog.doubt.exists()  # it was read through, and is well
    assert open_troubles(lived.catalog) == []


def test_a_torn_catalog_waits_for_a_store_that_is_away(lived: House) -> None:
    file_is_cut(lived)
    torn = lived.catalog.path.read_bytes()
    store = lived.folder / "store"
    store.rename(lived.folder / "away")
    with pytest.raises((StoreMissing, ShareUnreachable)):
        catch_up.fn(site=lived.site)
    assert lived.catalog.path.read_bytes() == torn
    (lived.folder / "away").rename(store)
    catch_up.fn(site=lived.site)
    assert len(lived.rows()) == 3


def test_a_job_begins_with_a_torn_catalog(lived: House) -> None:
    file_is_empty(lived)
    run = RunId(random_name())
    job = BackupJob.model_validate({"name": "nightly", "vms": ["web"]})
    with journaled(run, job, site=lived.site):
        pass
    assert len(lived.rows()) == 2


def test_what_killed_processes_left_beside_the_catalog_is_swept(house: House) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from catalog.connection import CatalogLocation
from catalog.staging import staged
with staged(CatalogLocation(Path({str(house.catalog.path)!r}))) as stage:
    stage.rows("some", [(1, 2)] * 100)
    os.kill(os.getpid(), 9)
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=False)
    (house.catalog.scratch / "duckdb_temp_storage_DEFAULT-0.tmp").write_bytes(b"spilled")
    house.catalog.path.with_name("catalog.duckdb.new").write_bytes(b"half")
    with private_folder(house.catalog) as mine:
        assert sweep_left(house.catalog) == 4
        assert list(house.catalog.scratch.iterdir()) == [mine]
    assert list(house.catalog.scratch.iterdir()) == []


def test_old_claims_are_forgotten_and_held_ones_are_not(tmp_path: Path) -> None:
    held, old, young = (f"run-{random_name()}" for _ in range(3))
    later = system_clock() + DAY
    with claim(tmp_path, held):
        for name in (old, young):
            with claim(tmp_path, name):
                pass
        past = (later - 3 * DAY).timestamp()
        for name in (held, old):
            os.utime(tmp_path / f"{name}.claim", (past, past))
        assert forget_claims(tmp_path, "run-", made_before=later - 2 * DAY) == 1
        assert is_claimed(tmp_path, held)
    assert {path.stem for path in tmp_path.iterdir()} == {held, young}
    assert not is_claimed(tmp_path, old)
    assert not (tmp_path / f"{old}.claim").exists()  # asking makes none

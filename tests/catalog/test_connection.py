"""One at a time, nothing lost, nothing readable by others."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest

from catalog import openings
from catalog.connection import CatalogLocation, catalog_locked, opened, reading, writing
from catalog.runs import begin_run, last_runs
from catalog.schema import create, migrate
from catalog.versions import list_vms
from likeness.errors import BadInput, CatalogBusy, Damaged, TransientError
from tests.catalog.scenes import NOW, run

ROOT = Path(__file__).parents[2]
IMPATIENT = timedelta(milliseconds=200)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A real process that runs some code on the catalog named by its first argument."""
    head = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from catalog.connection import CatalogLocation, reading, writing, catalog_locked
        from tests.catalog.scenes import *
        catalog = CatalogLocation(Path(sys.argv[1]))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)]
        + [str(a) for a in arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(process: subprocess.Popen[str]) -> str:
    """The next line a process says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def test_duckdb_is_connected_in_one_place() -> None:
    calls = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("flows", "tasks", "blocks", "catalog", "likeness")
        for path in (ROOT / folder).rglob("*.py")
        for line in re.findall(r".*\bduckdb\s*\.\s*(?:connect|cursor)\b.*", path.read_text())
    ]
    assert len(calls) == 1, calls
    assert calls[0].startswith("catalog/openings.py:")


def test_processes_that_write_at_the_same_time_lose_nothing(catalog: CatalogLocation) -> None:
    code = """
        for turn_no in range(25):
            with writing(catalog) as connection:
                connection.execute(
                    "INSERT INTO runs (run_id, job, begun_at, state, sentence)"
                    " VALUES (?, ?, ?, 'x', '')",
                    [run((sys.argv[2], turn_no)), sys.argv[2], NOW.replace(tzinfo=None)])
            print("kept", flush=True)
    """
    writers = [python(code, catalog.path, number) for number in range(4)]
    try:
        said = [writer.communicate(timeout=120)[0].count("kept") for writer in writers]
    finally:
        for writer in writers:
            end(writer)
    assert said == [25] * 4
    assert len(last_runs(catalog, 1000)) == 100


def test_threads_take_turns(catalog: CatalogLocation) -> None:
    failures: list[BaseException] = []

    def work(which: int) -> None:
        try:
            for number in range(10):
                begin_run(catalog, run((which, number)), "threads", NOW)
                list_vms(catalog)
        except BaseException as cause:
            failures.append(cause)
            raise

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(last_runs(catalog, 1000)) == 40


def test_a_process_that_holds_on_makes_others_busy_and_its_death_lets_them_in(
    catalog: CatalogLocation,
) -> None:
    holder = python(
        """
        with writing(catalog) as connection:
            print("mine", flush=True)
            sys.stdin.readline()
        """,
        catalog.path,
    )
    impatient = replace(catalog, patience=IMPATIENT)
    try:
        assert say(holder) == "mine"
        with pytest.raises(CatalogBusy, match="another process has held the catalog"):
            list_vms(impatient)
        with pytest.raises(CatalogBusy):
            begin_run(impatient, run(1), "job", NOW)
        assert issubclass(CatalogBusy, TransientError)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        begin_run(catalog, run(1), "job", NOW)
    finally:
        end(holder)


def test_a_thread_that_holds_on_makes_others_busy(catalog: CatalogLocation) -> None:
    with catalog_locked(catalog, alone=False), pytest.raises(CatalogBusy, match="another thread"):
        list_vms(replace(catalog, patience=IMPATIENT))


def test_readers_in_two_processes_do_not_wait_for_each_other(catalog: CatalogLocation) -> None:
    reader = python(
        """
        with reading(catalog) as connection:
            print("reading", flush=True)
            sys.stdin.readline()
        """,
        catalog.path,
    )
    try:
        assert say(reader) == "reading"
        assert list_vms(replace(catalog, patience=IMPATIENT)) == []
    finally:
        end(reader)


def test_a_program_that_ignores_the_lock_is_seen(catalog: CatalogLocation) -> None:
    foreigner = python(
        """
        import duckdb
        connection = duckdb.connect(sys.argv[1])
        print("in", flush=True)
        sys.stdin.readline()
        """,
        catalog.path,
    )
    try:
        assert say(foreigner) == "in"
        with pytest.raises(CatalogBusy, match="not ours"):
            list_vms(catalog)
    finally:
        end(foreigner)


@pytest.mark.parametrize("rounds", [6])
def test_kill_9_loses_nothing_that_was_acknowledged(catalog: CatalogLocation, rounds: int) -> None:
    code = """
        number = 0
        while True:
            number += 1
            with writing(catalog) as connection:
                for half in range(2):
                    connection.execute(
                        "INSERT INTO runs (run_id, job, begun_at, state, sentence)"
                        " VALUES (?, ?, ?, 'x', '')",
                        [run((sys.argv[2], number)), sys.argv[2], NOW.replace(tzinfo=None)])
            print(number, flush=True)
    """
    acknowledged = 0
    for attempt in range(rounds):
        writer = python(code, catalog.path, f"attempt-{attempt}")
        try:
            for _ in range(3 + attempt):
                kept = int(say(writer))
            time.sleep(0.003 * attempt)  # at another moment of a transaction each time
            os.kill(writer.pid, signal.SIGKILL)
            assert writer.stdout is not None
            rest = [int(line) for line in writer.stdout.read().split()]
            kept = max([kept, *rest])
        finally:
            end(writer)
        with reading(catalog) as connection:
            rows = connection.execute(
                "SELECT run_id, count(*) FROM runs WHERE job = ? GROUP BY run_id",
                [f"attempt-{attempt}"],
            ).fetchall()
        assert kept <= len(rows) <= kept + 1
        assert {each[1] for each in rows} == {2}, "half a transaction is there"
        acknowledged += kept
    assert acknowledged >= rounds * 3


def test_what_goes_wrong_inside_leaves_nothing_behind(catalog: CatalogLocation) -> None:
    def fail() -> None:
        with writing(catalog) as connection:
            connection.execute(
                "INSERT INTO vms (vm_no, vm_id, vm_name) VALUES (1, ?, 'web')", [run(1)]
            )
            raise KeyError("half-way")

    with pytest.raises(KeyError):
        fail()
    with reading(catalog) as connection:
        assert connection.execute("SELECT count(*) FROM vms").fetchone() == (0,)


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        catalog = CatalogLocation(tmp_path / "new" / "folder" / "catalog.duckdb")
        create(catalog, NOW)
        begin_run(catalog, run(1), "job", NOW)
        with writing(catalog) as connection:
            connection.execute("CHECKPOINT")
    finally:
        os.umask(before)
    modes = {
        path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777
        for path in [catalog.path.parent, *catalog.path.parent.rglob("*")]
    }
    assert modes.pop("new/folder") == 0o700
    assert modes.pop("new/folder/catalog.duckdb.scratch") == 0o700
    assert modes == {"new/folder/catalog.duckdb": 0o600, "new/folder/catalog.duckdb.lock": 0o600}


def test_a_missing_catalog_is_told_apart_from_a_broken_one(tmp_path: Path) -> None:
    nowhere = CatalogLocation(tmp_path / "none.duckdb")
    for use in (list_vms, lambda c: begin_run(c, run(1), "job", NOW), lambda c: migrate(c, NOW)):
        with pytest.raises(BadInput, match=r"no catalog at .*none\.duckdb"):
            use(nowhere)
    assert not nowhere.path.exists()
    with pytest.raises(BadInput, match="no folder"):
        list_vms(CatalogLocation(tmp_path / "no" / "folder.duckdb"))

    broken = CatalogLocation(tmp_path / "broken.duckdb")
    broken.path.write_bytes(b"not a database" * 1000)
    with pytest.raises(Damaged, match="sets it aside"):
        list_vms(broken)


@pytest.mark.parametrize("how", ["cut off", "altered"])
def test_damage_inside_is_called_so_and_not_tried_again(catalog: CatalogLocation, how: str) -> None:
    for number in range(3):
        begin_run(catalog, run(number), "nightly" * 1000, NOW)
    whole = catalog.path.read_bytes()
    end = len(whole) - (256 << 10)
    catalog.path.write_bytes(whole[:end] + bytes(256 << 10 if how == "altered" else 0))

    def read_all() -> None:
        with reading(catalog) as connection:
            for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                connection.execute(f"FROM {table}").fetchall()

    with pytest.raises(Damaged, match="sets it aside"):
        read_all()


def test_a_catalog_of_another_user_is_not_called_broken() -> None:
    with TemporaryDirectory() as folder:
        catalog = CatalogLocation(Path(folder) / "catalog.duckdb")
        create(catalog, NOW)
        for path in (catalog.path, catalog.lock_path):
            with forbidden(path), pytest.raises(BadInput, match="user"):
                list_vms(catalog)


@contextmanager
def forbidden(path: Path) -> Generator[None, None, None]:
    """Nobody may use a file while the `with` lasts, and root is nobody."""
    is_root = os.geteuid() == 0
    path.chmod(0)
    path.parent.chmod(0o777 if is_root else 0o700)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        path.chmod(0o600)


def test_a_log_that_lost_its_catalog_does_not_come_back_in_a_new_one(
    catalog: CatalogLocation,
) -> None:
    with duckdb.connect(catalog.path) as connection:
        connection.execute("SET checkpoint_threshold = '1 GB'")
        connection.execute("INSERT INTO runs VALUES (uuid(), 'old', now(), NULL, 'running', '')")
        log = catalog.path.with_name(f"{catalog.path.name}.wal")
        left = log.read_bytes()
    catalog.path.unlink()
    log.write_bytes(left)

    create(catalog, NOW)
    assert last_runs(catalog) == []


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    theirs = CatalogLocation(tmp_path / "theirs.duckdb")
    with opened(theirs, theirs.path, read_only=False) as connection:
        connection.execute("CREATE TABLE sales (n INTEGER)")
    with pytest.raises(Damaged, match="another program"):
        list_vms(theirs)
    with pytest.raises(Damaged, match="another program"):
        migrate(theirs, NOW)


def test_a_full_memory_is_a_sentence_and_changes_nothing(catalog: CatalogLocation) -> None:
    small = replace(catalog, memory_bytes=24 << 20)

    def fill() -> None:
        with writing(small) as connection:
            connection.execute("SET max_temp_directory_size = '1MB'")
            connection.execute("CREATE TABLE big AS SELECT uuid() AS u FROM range(5_000_000)")
            connection.execute("CREATE TABLE sorted AS SELECT u FROM big ORDER BY u")

    with pytest.raises(TransientError, match="unchanged"):
        fill()
    with reading(catalog) as connection:
        tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    assert ("big",) not in tables


def test_duckdb_errors_of_ours_are_not_hidden(catalog: CatalogLocation) -> None:
    def ask() -> None:
        with reading(catalog) as connection:
            connection.execute("SELECT nothing FROM nowhere")

    with pytest.raises(duckdb.CatalogException):
        ask()


def test_too_little_memory_is_no_damage(catalog: CatalogLocation) -> None:
    for _ in range(2):
        with pytest.raises(TransientError, match="look for room on its disk and for memory"):
            begin_run(replace(catalog, memory_bytes=16 << 10), run(1), "job", NOW)
    assert not catalog.doubt.exists()
    begin_run(catalog, run(1), "job", NOW)


def bounds_of(connection: duckdb.DuckDBPyConnection) -> tuple[object, ...]:
    return connection.execute(
        "SELECT current_setting('memory_limit'), current_setting('temp_directory'),"
        " current_setting('threads'), (SELECT count(*) FROM duckdb_tables() WHERE temporary)"
    ).fetchall()[0]


def test_duckdb_is_made_once_for_many_openings_each_within_its_own_bounds(
    catalog: CatalogLocation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[object] = []
    connect = duckdb.connect

    def noted(**given: Any) -> duckdb.DuckDBPyConnection:
        made.append(given)
        return connect(**given)

    monkeypatch.setattr(duckdb, "connect", noted)
    openings._idle.clear()
    other = CatalogLocation(tmp_path / "it's other" / "catalog.duckdb", memory_bytes=64 << 20)
    create(other, NOW)
    for each, memory in ((catalog, "1.0 GiB"), (other, "64.0 MiB"), (catalog, "1.0 GiB")):
        with writing(each) as connection:
            assert bounds_of(connection) == (memory, str(each.scratch), 1, 0)
            connection.execute("CREATE TEMPORARY TABLE passing (n INTEGER)")
            connection.execute(
                "INSERT INTO runs VALUES (uuid(), 'job', now(), NULL, 'running', '')"
            )
        assert catalog_is_closed(each)
    assert [len(last_runs(each)) for each in (catalog, other)] == [2, 1]
    assert len(made) == 1

    def fail() -> None:
        with reading(catalog) as connection:
            connection.execute("SET GLOBAL max_temp_directory_size = '1MB'")
            connection.execute("SELECT nothing FROM nowhere")

    with pytest.raises(duckdb.CatalogException):
        fail()
    with reading(catalog) as connection:
        assert len(made) == 2, "what failed is not used again"
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    child = os.fork()
    if not child:
        os._exit(len(openings._idle))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(openings._idle) == 1


def catalog_is_closed(catalog: CatalogLocation) -> bool:
    files = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.exists()]
    log = catalog.path.with_name(f"{catalog.path.name}.wal")
    return catalog.path not in files and not log.exists()

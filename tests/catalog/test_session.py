"""A session: one opening for many calls, which gives way to other processes and threads."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from catalog.connection import (
    CatalogLocation,
    Connection,
    read_lately,
    reading,
    shared_openings,
    writing,
)
from catalog.copies import export_copy, import_copy
from catalog.migrations import newest
from catalog.runs import begin_run, last_runs
from catalog.schema import lay_out, migrate
from catalog.session import SharedCatalog, catalog_session, kept_open, nothing_follows
from likeness.clock import stopwatch
from tests.catalog.scenes import NOW, run
from tests.catalog.test_connection import end, python, say


def opening_of(catalog: CatalogLocation) -> SharedCatalog:
    found = shared_openings.of(catalog)
    assert isinstance(found, SharedCatalog)
    return found


@pytest.fixture
def opening(catalog: CatalogLocation) -> Iterator[SharedCatalog]:
    with catalog_session(catalog):
        yield opening_of(catalog)


def test_consecutive_calls_share_one_opening(
    catalog: CatalogLocation, opening: SharedCatalog
) -> None:
    for number in range(10):
        begin_run(catalog, run(number), "nightly", NOW)
        assert len(last_runs(catalog, 100)) == number + 1
    assert opening.openings == 1


def test_what_was_asked_is_asked_again_once_somebody_wrote(
    catalog: CatalogLocation, opening: SharedCatalog, tmp_path: Path
) -> None:
    asked: list[int] = []
    earlier = Path(shutil.copyfile(catalog.path, tmp_path / "a copy"))

    def runs(connection: Connection) -> int:
        (count,) = connection.execute("SELECT count(*) FROM runs").fetchone() or (0,)
        asked.append(count)
        return int(count)

    def known(most: int = 9) -> int:
        return read_lately(catalog, "runs", runs, few=lambda found: found <= most)

    begin_run(catalog, run(1), "nightly", NOW)
    assert [known(), known(), known()] == [1, 1, 1]
    assert asked == [1]
    begin_run(catalog, run(2), "nightly", NOW)
    assert [known(1), known(1), known(), known()] == [2, 2, 2, 2]  # too many to be kept at first
    assert asked == [1, 2, 2, 2]
    opening.let_go()  # another process may write now
    assert [known(), known(), known()] == [2, 2, 2]
    assert asked[4:] == [2, 2]
    assert opening.openings == 2
    earlier.replace(catalog.path)
    assert known() == 0, "another file has the catalog's name"


def test_who_reads_leaves_nothing_to_the_next(
    catalog: CatalogLocation, opening: SharedCatalog
) -> None:
    for _ in range(3):
        with reading(catalog) as connection:
            connection.execute("CREATE TEMP TABLE left_over AS SELECT 1")
    with pytest.raises(duckdb.CatalogException), reading(catalog) as connection:
        connection.execute("SELECT * FROM nowhere")
    with reading(catalog) as one, reading(catalog) as other:
        assert one.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        assert other.execute("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchone() == (
            0,
        )


def test_what_follows_at_once_finds_it_open_and_others_get_in(catalog: CatalogLocation) -> None:
    with kept_open(), catalog_session(catalog):
        begin_run(catalog, run(1), "nightly", NOW)
    left = opening_of(catalog)
    other = python("with writing(catalog): print('in', flush=True)", catalog.path)
    try:
        assert say(other) == "in"
    finally:
        end(other)
    with catalog_session(catalog):
        assert opening_of(catalog) is left
        nothing_follows()  # for somebody else
        assert len(last_runs(catalog, 100)) == 1
    assert shared_openings.of(catalog) is None
    with kept_open(), catalog_session(catalog):
        last_runs(catalog, 100)
    nothing_follows()
    assert shared_openings.of(catalog) is None


def test_without_a_session_nothing_stays_open(catalog: CatalogLocation) -> None:
    with catalog_session(catalog), catalog_session(catalog):
        begin_run(catalog, run(1), "nightly", NOW)
    assert shared_openings.of(catalog) is None
    other = python("with writing(catalog): print('in', flush=True)", catalog.path)
    try:
        assert say(other) == "in"
    finally:
        end(other)


def test_another_process_gets_in_within_a_second_and_nothing_is_lost(
    catalog: CatalogLocation, opening: SharedCatalog
) -> None:
    begin_run(catalog, run("first"), "ours", NOW)
    code = """
        import time
        print("ready", flush=True)
        for number in range(5):
            sys.stdin.readline()
            begun = time.monotonic()
            with writing(catalog) as connection:
                connection.execute(
                    "INSERT INTO runs (run_id, job, begun_at, state, sentence)"
                    " VALUES (?, 'theirs', ?, 'x', '')", [run(number), NOW.replace(tzinfo=None)])
            print(time.monotonic() - begun, flush=True)
    """
    other = python(code, catalog.path)
    try:
        assert say(other) == "ready"
        waits = []
        for number in range(5):
            assert other.stdin is not None
            other.stdin.write("go\n")
            other.stdin.flush()
            until = stopwatch() + 0.5
            while stopwatch() < until:  # a job that asks without pause
                last_runs(catalog, 100)
            waits.append(float(say(other)))
            begin_run(catalog, run(("ours", number)), "ours", NOW)
    finally:
        end(other)
    assert sorted(waits)[2] < 2.0, waits  # one second, and one for a busy machine
    assert len(last_runs(catalog, 100)) == 11
    assert opening.openings >= 6


def test_a_kill_loses_nothing_that_was_acknowledged(catalog: CatalogLocation) -> None:
    code = """
        from catalog.session import catalog_session
        from catalog.runs import begin_run
        with catalog_session(catalog):
            for number in range(1000):
                begin_run(catalog, run(number), "killed", NOW)
                print(number, flush=True)
    """
    dying = python(code, catalog.path)
    try:
        while int(say(dying)) < 20:
            pass
        os.kill(dying.pid, signal.SIGKILL)
        assert dying.stdout is not None
        acknowledged = [int(line) for line in dying.stdout.read().split()]
        last = acknowledged[-1] if acknowledged else 20
    finally:
        end(dying)
    assert len(last_runs(catalog, 10_000)) >= last + 1


def test_a_reader_sees_one_moment_while_another_thread_writes(
    catalog: CatalogLocation, opening: SharedCatalog
) -> None:
    with reading(catalog) as connection:
        before = connection.execute("SELECT count(*) FROM runs").fetchone()
        writer = threading.Thread(target=begin_run, args=(catalog, run(1), "other", NOW))
        writer.start()
        writer.join(timeout=10)
        assert not writer.is_alive()
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == before == (0,)
    assert len(last_runs(catalog, 10)) == 1


def test_a_failed_transaction_leaves_nothing(
    catalog: CatalogLocation, opening: SharedCatalog
) -> None:
    def fail() -> None:
        with writing(catalog) as connection:
            connection.execute("DELETE FROM schema_migrations")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    begin_run(catalog, run(1), "after", NOW)
    assert opening.openings == 1


def test_a_catalog_that_a_session_has_open_is_of_this_release(
    catalog: CatalogLocation, opening: SharedCatalog
) -> None:
    assert migrate(catalog, NOW) == []
    begin_run(catalog, run(1), "nightly", NOW)
    assert migrate(catalog, NOW) == []
    assert opening.openings == 1


def test_an_older_catalog_is_brought_up_to_this_release_in_a_session_too(
    catalog: CatalogLocation, tmp_path: Path
) -> None:
    older = replace(catalog, path=tmp_path / "older.duckdb")
    lay_out(older, older.path, NOW, upto=newest() - 1)
    with catalog_session(older):
        assert migrate(older, NOW) == [newest()]
        begin_run(older, run(1), "nightly", NOW)


def test_what_needs_the_file_for_itself_gets_it(
    catalog: CatalogLocation, opening: SharedCatalog, tmp_path: Path
) -> None:
    begin_run(catalog, run(1), "nightly", NOW)
    assert migrate(catalog, NOW) == []
    export_copy(catalog, tmp_path / "copy", NOW)
    for path in catalog.path.parent.glob("catalog.duckdb*"):
        if path.is_file():
            path.rename(tmp_path / path.name)
    import_copy(tmp_path / "copy", catalog, NOW)
    assert len(last_runs(catalog, 10)) == 1
    begin_run(catalog, run(2), "nightly", NOW)
    opening.let_go()
    assert len(last_runs(catalog, 10)) == 2


def test_a_long_call_holds_up_only_as_long_as_it_lasts(
    catalog: CatalogLocation, opening: SharedCatalog
) -> None:
    with writing(catalog):
        other = python(
            """
        print('asks', flush=True)
        with reading(catalog): print('in', flush=True)
        """,
            catalog.path,
        )
        try:
            assert say(other) == "asks"
            time.sleep(0.3)
        finally:
            released = stopwatch()
    try:
        assert say(other) == "in"
        assert stopwatch() - released < 5
    finally:
        end(other)

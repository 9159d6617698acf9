"""Where the chunks of one disk of a version lie, by one query over sets."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalog.connection import CatalogLocation, Connection, reading
from catalog.finding import MANY_PACKS, among
from catalog.serving import of_disks
from likeness.model.ids import DiskId, PackId, VersionId, as_uuid, random_name

Numbers = npt.NDArray[np.uint32]
_STRETCHES = 64
"""So many parts of `places` are looked at; each costs a little by itself."""


@dataclass(frozen=True, slots=True)
class DiskLocations:
    """A place of each distinct chunk; all arrays have one element a chunk.

    Attributes:
        positions: One position of the disk that has the chunk.
        packs: Names of the packs, by the numbers that `pack` gives.
        pack: Which pack.
        offset: Where in it.
        length: How long the record is.
    """

    positions: Numbers
    packs: list[PackId]
    pack: Numbers
    offset: Numbers
    length: Numbers


def locations_of_disk(catalog: CatalogLocation, version: VersionId, disk: DiskId) -> DiskLocations:
    """What the catalog knows of where a disk's chunks lie; empty if it does not know the version.

    What it says may be out of date: whoever reads there proves what is found.
    """
    asked = f"places_{random_name()}"  # others may ask over the same connection
    with reading(catalog) as connection:
        its_maps, near = _narrowed(connection, as_uuid(version), as_uuid(disk))
        connection.execute(
            f"""CREATE TEMP TABLE {asked} AS
            WITH wanted AS (
                SELECT m.chunk, min(m.position) AS position
                FROM (SELECT * FROM maps WHERE {its_maps}) AS m
                JOIN disks AS d USING (disk_no)
                JOIN versions AS v ON v.vm_no = d.vm_no AND m.since <= v.turn AND v.turn < m.until
                WHERE v.version_id = ?::UUID
                GROUP BY m.chunk)
            SELECT w.position, p.pack_no, p.start, p.length
            FROM ({near}) AS p
            JOIN wanted AS w ON w.chunk = p.chunk""",  # noqa: S608  # our own words and numbers
            [as_uuid(version)],
        )
        known = connection.execute(
            f"""SELECT pack_no, replace(pack_id::VARCHAR, '-', '') AS name
            FROM packs SEMI JOIN {asked} USING (pack_no)
            WHERE state IN ('live', 'redundant') AND NOT bad ORDER BY pack_no"""  # noqa: S608
        ).fetchnumpy()
        rows = connection.execute(
            f"SELECT position, pack_no, start, length FROM {asked}"  # noqa: S608
        ).fetchnumpy()
        connection.execute(f"DROP TABLE {asked}")
    numbers = known["pack_no"]
    at = np.searchsorted(numbers, rows["pack_no"])
    there = np.zeros(len(rows["pack_no"]), dtype=bool)
    if len(numbers):
        there = numbers[np.minimum(at, len(numbers) - 1)] == rows["pack_no"]
    _, first = np.unique(rows["position"][there], return_index=True)

    def taken(values: npt.NDArray[np.generic]) -> Numbers:
        return np.asarray(values[there][first], dtype=np.uint32)

    return DiskLocations(
        positions=taken(rows["position"]),
        packs=known["name"].tolist(),
        pack=taken(at),
        offset=taken(rows["start"]),
        length=taken(rows["length"]),
    )


def _narrowed(connection: Connection, version: str, disk: str) -> tuple[str, str]:
    """A condition on `maps`, and a part of `places`: what a disk of a version has, little else."""
    its_maps = of_disks(
        connection,
        f"""versions AS v JOIN disks AS d USING (vm_no)
        WHERE v.version_id = '{version}'::UUID AND d.disk_id = '{disk}'::UUID""",
        exact=True,
    )
    packs = connection.execute(
        """SELECT DISTINCT u.pack_no FROM versions AS v JOIN pack_uses AS u
            ON u.vm_no = v.vm_no AND u.since <= v.turn AND v.turn < u.until
        WHERE v.version_id = ?::UUID ORDER BY u.pack_no""",
        [version],
    ).fetchnumpy()
    numbers = packs["pack_no"]
    if len(numbers) <= MANY_PACKS:
        near = [among("pack_no", numbers.tolist())]
    else:
        near = [f"pack_no BETWEEN {first} AND {last}" for first, last in _stretches(numbers)]
    # Each stretch by itself, since of an OR no row group is left out.
    return its_maps, " UNION ALL ".join(f"SELECT * FROM places WHERE serves AND {e}" for e in near)  # noqa: S608  # numbers


def _stretches(numbers: npt.NDArray[np.integer]) -> list[tuple[int, int]]:
    """First and last numbers of a few stretches that have all the numbers; ascending.

    What a night brought lies side by side, and far from what the next one did.
    """
    gaps = np.diff(numbers)
    widest = np.argsort(gaps, kind="stable")[::-1][: _STRETCHES - 1]
    cuts = np.sort(widest[gaps[widest] > 1])
    firsts = numbers[np.concatenate(([0], cuts + 1))]
    lasts = numbers[np.concatenate((cuts, [len(numbers) - 1]))]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))

-- Which version brought a row of a map: rows lie in that order, so those of one VM are found in the
-- few row groups that have its versions, however many other VMs there are.

CREATE TABLE maps_by_version (
    disk_no     INTEGER NOT NULL,
    position    UINTEGER NOT NULL,              -- counted in chunks
    chunk       UUID NOT NULL,
    since       UINTEGER NOT NULL,
    until       UINTEGER NOT NULL,              -- 4294967295: still
    version_no  INTEGER NOT NULL                -- of its VM the one of turn `since`
);
INSERT INTO maps_by_version (disk_no, position, chunk, since, until, version_no)
    SELECT m.disk_no, m.position, m.chunk, m.since, m.until, v.version_no
    FROM maps AS m JOIN disks AS d USING (disk_no)
    JOIN versions AS v ON v.vm_no = d.vm_no AND v.turn = m.since
    ORDER BY v.version_no, m.disk_no, m.position;
DROP TABLE maps;
ALTER TABLE maps_by_version RENAME TO maps;

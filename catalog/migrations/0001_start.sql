-- The first layout.
--
-- No primary keys, no foreign keys, no indexes: an index makes the big tables ten times slower to
-- fill, and one that is lost in a crash would hide rows. Every write happens under the exclusive
-- lock, and looks first. Times are UTC. Ids of 16 bytes are UUIDs; a chunk is known by the first
-- 16 of its 32 bytes.

CREATE TABLE vms (
    vm_no       INTEGER NOT NULL,
    vm_id       UUID NOT NULL,
    vm_name     VARCHAR NOT NULL                -- as its newest version has it
);

CREATE TABLE disks (                            -- a disk of one VM, cut into chunks of one size
    disk_no     INTEGER NOT NULL,
    vm_no       INTEGER NOT NULL,
    disk_id     UUID NOT NULL,
    chunk_bytes UINTEGER NOT NULL
);

CREATE TABLE versions (
    version_no        INTEGER NOT NULL,
    version_id        UUID NOT NULL,
    vm_no             INTEGER NOT NULL,
    turn              UINTEGER NOT NULL,        -- 1, 2, 3 … per VM, in the order of recording
    vm_name           VARCHAR NOT NULL,
    sequence          UBIGINT NOT NULL,         -- as in the record's name
    record            VARCHAR NOT NULL,         -- the record's name in the store
    digest            VARCHAR NOT NULL,         -- BLAKE3 of the record, hex
    taken_at          TIMESTAMP NOT NULL,
    committed_at      TIMESTAMP NOT NULL,
    recorded_at       TIMESTAMP NOT NULL,
    run_id            UUID NOT NULL,
    job               VARCHAR NOT NULL,
    consistency       VARCHAR NOT NULL,
    consistency_asked VARCHAR NOT NULL,
    note              VARCHAR NOT NULL,
    counts            VARCHAR NOT NULL,         -- what the transfer moved, bytes, JSON
    state             VARCHAR NOT NULL,         -- committed | expired
    expired_at        TIMESTAMP,
    -- facts that the verdict follows from, kept up to date with the packs
    packs             UINTEGER NOT NULL,        -- how many it refers to
    unproved_packs    UINTEGER NOT NULL,
    unreachable_packs UINTEGER NOT NULL,        -- could not be checked when last tried
    damaged           BOOLEAN NOT NULL,         -- refers to a chunk that is damaged or missing
    oldest_proof_at   TIMESTAMP,
    newest_proof_at   TIMESTAMP,
    documents         VARCHAR,                  -- its record and maps: whole | broken | unknown
    documents_at      TIMESTAMP,
    documents_problem VARCHAR,
    -- what was last said about it
    verdict           VARCHAR NOT NULL,         -- unchecked | good | bad | stale
    judged_at         TIMESTAMP,                -- NULL: never validated
    to_judge          BOOLEAN NOT NULL          -- the facts changed since
);

CREATE TABLE version_disks (
    version_no  INTEGER NOT NULL,
    disk_no     INTEGER NOT NULL,
    size_bytes  UBIGINT NOT NULL,
    disk_name   VARCHAR NOT NULL,
    plugged_at  VARCHAR NOT NULL                -- where it is plugged in, such as 0
);

CREATE TABLE maps (                             -- which chunk lay where, in turns [since, until)
    disk_no     INTEGER NOT NULL,
    position    UINTEGER NOT NULL,              -- counted in chunks
    chunk       UUID NOT NULL,
    since       UINTEGER NOT NULL,
    until       UINTEGER NOT NULL               -- 4294967295: still
);

CREATE TABLE packs (
    pack_no     INTEGER NOT NULL,
    pack_id     UUID NOT NULL,
    size_bytes  UINTEGER NOT NULL,
    digest      BLOB NOT NULL,                  -- BLAKE3 of the object, 32 bytes
    chunks      UINTEGER NOT NULL,
    run_id      UUID,
    version_no  INTEGER,                        -- the version that brought it
    recorded_at TIMESTAMP NOT NULL,
    state       VARCHAR NOT NULL,               -- live | redundant | gone | nowhere
    proved_at   TIMESTAMP,                      -- the age of all its chunks; NULL: never
    checked_at  TIMESTAMP,                      -- last looked at, whatever came of it
    bad         BOOLEAN NOT NULL,               -- damaged or missing when last read
    unreachable BOOLEAN NOT NULL,               -- could not be read when last tried
    cause       VARCHAR NOT NULL,
    gone_at     TIMESTAMP
);
-- Pack 0 stands for "nowhere": it holds what versions refer to and no pack has.
INSERT INTO packs
SELECT 0, '00000000-0000-0000-0000-000000000000', 0, ''::BLOB, 0, NULL, NULL,
       TIMESTAMP '1970-01-01', 'nowhere', NULL, NULL, true, false, 'in no pack', NULL;

CREATE TABLE places (                           -- every copy of every chunk
    chunk       UUID NOT NULL,
    pack_no     INTEGER NOT NULL,
    start       UINTEGER NOT NULL,              -- byte offset in the pack
    length      UINTEGER NOT NULL,              -- sealed bytes
    serves      BOOLEAN NOT NULL                -- the one copy that versions rely on
);

CREATE TABLE damaged_chunks (
    chunk       UUID NOT NULL,
    pack_no     INTEGER NOT NULL,
    start       UINTEGER NOT NULL,
    kind        VARCHAR NOT NULL,               -- damaged | missing | lost
    cause       VARCHAR NOT NULL,
    first_seen  TIMESTAMP NOT NULL,
    last_seen   TIMESTAMP NOT NULL,
    cleared_at  TIMESTAMP,                      -- this very copy was read and proved again
    healed_at   TIMESTAMP                       -- some proved copy serves again
);

CREATE TABLE pack_uses (                        -- which packs a VM's versions rely on, in turns
    vm_no       INTEGER NOT NULL,
    pack_no     INTEGER NOT NULL,
    since       UINTEGER NOT NULL,
    until       UINTEGER NOT NULL
);

CREATE TABLE verdicts (                         -- history
    version_no  INTEGER NOT NULL,
    verdict     VARCHAR NOT NULL,
    reason      VARCHAR NOT NULL,
    decided_at  TIMESTAMP NOT NULL
);

CREATE TABLE runs (
    run_id      UUID NOT NULL,
    job         VARCHAR NOT NULL,
    begun_at    TIMESTAMP NOT NULL,
    finished_at TIMESTAMP,
    state       VARCHAR NOT NULL,
    sentence    VARCHAR NOT NULL
);

CREATE TABLE run_vms (
    run_id           UUID NOT NULL,
    ordinal          INTEGER NOT NULL,
    vm_id            VARCHAR NOT NULL,          -- empty: the pool does not know it
    vm_name          VARCHAR NOT NULL,
    state            VARCHAR NOT NULL,
    version_id       VARCHAR NOT NULL,
    disk_bytes       UBIGINT NOT NULL,
    read_bytes       UBIGINT NOT NULL,
    sent_bytes       UBIGINT NOT NULL,
    new_bytes        UBIGINT NOT NULL,
    dropped_bytes    UBIGINT NOT NULL,
    freed_bytes      UBIGINT NOT NULL,
    snapshot_seconds DOUBLE NOT NULL,
    transfer_seconds DOUBLE NOT NULL,
    commit_seconds   DOUBLE NOT NULL,
    sentence         VARCHAR NOT NULL,
    recorded_at      TIMESTAMP NOT NULL
);

CREATE TABLE snapshots (                        -- said before XenServer is asked
    run_id      UUID NOT NULL,
    vm_id       UUID NOT NULL,
    label       VARCHAR NOT NULL,
    snapshot    VARCHAR NOT NULL,               -- XenServer's uuid, once it is known
    intended_at TIMESTAMP NOT NULL,
    dropped_at  TIMESTAMP
);

CREATE TABLE vault_objects (
    vault       VARCHAR NOT NULL,
    name        VARCHAR NOT NULL,
    size_bytes  UBIGINT NOT NULL,
    copied_at   TIMESTAMP NOT NULL
);

CREATE TABLE vaulted_versions (
    version_no  INTEGER NOT NULL,
    vault       VARCHAR NOT NULL,
    vaulted_at  TIMESTAMP NOT NULL
);

-- "Block age" in the product's words: since when nobody has read a data block back.
CREATE VIEW block_ages AS
    SELECT s.chunk AS chunk_key, k.pack_id, k.recorded_at AS stored_at, k.proved_at
    FROM places AS s JOIN packs AS k USING (pack_no)
    WHERE s.serves AND k.state = 'live';

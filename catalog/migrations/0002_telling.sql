-- What people are told of damage, and how far a validation came.
--
-- Verdicts and damage are written first, in one transaction with the proofs they follow from.
-- Whatever is there and in no incident yet has still to be told: a crash in between loses nothing.

CREATE TABLE incidents (
    incident_no INTEGER NOT NULL,
    incident_id UUID NOT NULL,
    opened_at   TIMESTAMP NOT NULL,
    closed_at   TIMESTAMP                       -- all of it is well again
);

CREATE TABLE incident_versions (
    incident_no INTEGER NOT NULL,
    version_no  INTEGER NOT NULL,
    red_at      TIMESTAMP NOT NULL,             -- verdicts.decided_at
    reason      VARCHAR NOT NULL,
    settled_at  TIMESTAMP                       -- green again, or expired
);

CREATE TABLE incident_damage (                  -- rows of damaged_chunks
    incident_no INTEGER NOT NULL,
    chunk       UUID NOT NULL,
    pack_no     INTEGER NOT NULL,
    start       UINTEGER NOT NULL,
    first_seen  TIMESTAMP NOT NULL
);

CREATE TABLE messages (                         -- written once, then delivered until it is there
    message_id  UUID NOT NULL,
    about       VARCHAR NOT NULL,               -- damage | healed | job
    incident_no INTEGER,
    subject     VARCHAR NOT NULL,
    body        VARCHAR NOT NULL,
    written_at  TIMESTAMP NOT NULL
);

CREATE TABLE deliveries (
    message_id   UUID NOT NULL,
    channel      VARCHAR NOT NULL,              -- mail | webhook
    attempts     INTEGER NOT NULL,
    tried_at     TIMESTAMP,
    delivered_at TIMESTAMP,
    problem      VARCHAR NOT NULL
);

CREATE TABLE validations (
    run_id      UUID NOT NULL,
    of_run      UUID,                           -- the backup run it looks after; NULL: all
    begun_at    TIMESTAMP NOT NULL,             -- of the first attempt, where it went on after one
    seen_at     TIMESTAMP NOT NULL,
    finished_at TIMESTAMP,
    todo_bytes  UBIGINT NOT NULL,
    done_bytes  UBIGINT NOT NULL
);

CREATE TABLE audits (                           -- of the presence of every pack
    audited_at  TIMESTAMP NOT NULL,
    packs       UBIGINT NOT NULL,
    doubtful    UBIGINT NOT NULL                -- missing, or of another length
);

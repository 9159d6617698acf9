-- Drills: when a VM was last restored and started for a trial, and how that ended.

CREATE TABLE drills (
    vm_id       UUID NOT NULL,
    version_id  UUID NOT NULL,
    ended_at    TIMESTAMP NOT NULL,
    well        BOOLEAN NOT NULL,
    said        VARCHAR NOT NULL                -- what the guest or the script said, in words
);

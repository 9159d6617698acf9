-- What leaves the store on purpose, and what must stay.
--
-- versions.state may also be 'forgotten': given up on purpose, and no loss. packs.state may also be
-- 'condemned': nothing needs it, it waits to be deleted, and nobody relies on it.

ALTER TABLE versions ADD COLUMN forgotten_at TIMESTAMP;
ALTER TABLE versions ADD COLUMN keep VARCHAR DEFAULT '';         -- the policy of its job
ALTER TABLE versions ADD COLUMN tags VARCHAR DEFAULT '[]';       -- the VM's, JSON
ALTER TABLE versions ADD COLUMN locked_until TIMESTAMP;

CREATE TABLE capacity (                         -- how full the store was, now and then
    seen_at     TIMESTAMP NOT NULL,
    total_bytes UBIGINT NOT NULL,
    free_bytes  UBIGINT NOT NULL,
    packs_bytes UBIGINT NOT NULL,               -- of all packs that are there
    live_bytes  UBIGINT NOT NULL                -- of those that some version needs
);

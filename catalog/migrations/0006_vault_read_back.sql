-- When what lies in a vault was last read there, and found as it was signed for.

ALTER TABLE vault_objects ADD COLUMN read_at TIMESTAMP;
ALTER TABLE vaulted_versions ADD COLUMN read_back_at TIMESTAMP; -- all that the version needs

CREATE TABLE vaultings (                        -- how the last one went, by vault
    vault       VARCHAR NOT NULL,
    ended_at    TIMESTAMP NOT NULL,
    whole       BOOLEAN NOT NULL                -- nothing was left out, and all was looked at
);

CREATE TABLE vault_locks (                      -- until when a vault's bucket keeps what undeletable
    vault       VARCHAR NOT NULL,
    name        VARCHAR NOT NULL,
    locked_until TIMESTAMP NOT NULL
);

-- What is under way, for people to look at, and what audits of the whole store found.

CREATE TABLE at_work (                          -- gone when it is done; left behind by who died
    run_id         UUID NOT NULL,
    queue          VARCHAR NOT NULL,            -- commit | validate
    item           VARCHAR NOT NULL,            -- a VM's id; empty: all that a validation reads
    label          VARCHAR NOT NULL,            -- what it is at, in words
    step           VARCHAR NOT NULL,            -- waiting | snapshot | transfer | commit | reading
    ordinal        INTEGER NOT NULL,            -- its place in the queue
    seen_at        TIMESTAMP NOT NULL,          -- when it last said how far it is
    todo_bytes     UBIGINT NOT NULL,
    done_bytes     UBIGINT NOT NULL,
    percent        DOUBLE NOT NULL,             -- never less than it was
    bytes_a_second DOUBLE,                      -- NULL: nothing to measure yet
    seconds_left   DOUBLE
);

ALTER TABLE audits ADD COLUMN everything BOOLEAN DEFAULT false;  -- documents too, not only packs

CREATE TABLE store_troubles (                   -- what is not as it should be, and is no version's
    name        VARCHAR NOT NULL,               -- damage: an object, as the store names it
    weight      VARCHAR NOT NULL,               -- damage | spare lost | could not check | notice
    cause       VARCHAR NOT NULL,
    meaning     VARCHAR NOT NULL,
    first_seen  TIMESTAMP NOT NULL,
    last_seen   TIMESTAMP NOT NULL,
    told_at     TIMESTAMP,                      -- a message about it is in the outbox
    over_at     TIMESTAMP                       -- not found any more
);

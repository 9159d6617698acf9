-- Whose catalog it is: one row, once the store was opened.

CREATE TABLE of_store (
    store_id    VARCHAR NOT NULL                -- 32 hex digits, as the store's format document
);

-- When what lies in a vault was last opened there with the store's key, and every data block hashed.

ALTER TABLE vault_objects ADD COLUMN proved_at TIMESTAMP;

"""Who can open a store: key slots, epochs, the recovery sheet."""

"""The data store: its layout, packs, commits, proofs and sweeps."""

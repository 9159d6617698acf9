"""Disks over NBD: fixed newstyle, with TLS or without, read only."""

"""Giving a version's disks to programs that want a disk: NBD, over loopback or a Unix socket."""

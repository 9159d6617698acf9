"""Files inside a version's disks: found by a process without secrets, written by this one."""

"""The XenServer pool: sessions, snapshots, disks, changed blocks, delegates."""

"""XenServer and XCP-ng: sessions, snapshots, disks; the one home of the XAPI client.

The way in is `likeness.xen.session.XenSession`; everything else takes one as its first argument.
"""

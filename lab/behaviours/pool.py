"""pool.*: the pool as a whole."""

from lab.calls import Call
from lab.registry import message


@message("pool.designate_new_master")
def designate_new_master(call: Call, host: str) -> None:
    """Make another host the coordinator; sessions end, clients must log in there."""
    call.db.row("host", host)
    call.pool.hosts.set_coordinator(host)

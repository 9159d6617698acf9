"""Which storage of a pool is meant."""

from likeness.errors import BadInput
from likeness.xen.failures import explained
from likeness.xen.session import NULL, XenSession


def find_storage(xen: XenSession, name_or_uuid: str = "") -> str:
    """XenServer's reference to a storage; without a name the pool's default one.

    Raises:
        BadInput: There is none, or several of that name.
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    with explained(f"looking for storage in {xen.url}"):
        if not name_or_uuid:
            pools = xen.call("pool.get_all_records").values()
            default = next((str(pool["default_SR"]) for pool in pools), NULL)
            if default not in ("", NULL):
                return default
            raise BadInput(f"the pool {xen.url} has no default storage; name one")
        storages = xen.call("SR.get_all_records")
    found = [
        str(ref)
        for ref, record in storages.items()
        if name_or_uuid in (record["name_label"], record["uuid"])
    ]
    if len(found) == 1:
        return found[0]
    if found:
        uuids = ", ".join(sorted(storages[ref]["uuid"] for ref in found))
        raise BadInput(f"{len(found)} storages are called {name_or_uuid!r}; name one of {uuids}")
    names = ", ".join(sorted({repr(record["name_label"]) for record in storages.values()}))
    raise BadInput(f"the pool {xen.url} has no storage {name_or_uuid!r}; it has {names}")

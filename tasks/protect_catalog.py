"""Protect the installation: a copy of the catalog in the store, and a head that vouches for it."""

from prefect import get_run_logger

from blocks import Site
from catalog.copies import export_copy
from likeness.clock import system_clock
from likeness.model.ids import RunId
from likeness.model.sizes import readable_size
from likeness.store.write.catalog_copies import put_copy
from likeness.store.write.heads import write_head
from likeness.store.write.kept_installation import FILE, seal_installation
from tasks.claims import store_claimed
from tasks.installation import installation_of
from tasks.needs_lists import write_needs_lists
from tasks.retries import STEP, task
from tasks.transfer import scratch_folder


@task(task_run_name="copy the catalog to the store", **STEP)
def copy_catalog(run: RunId, *, site: Site) -> str:
    """Put a copy of the catalog into the store, and write a head.

    Returns:
        The head, such as ``head 4711 a1b2c3d4``: kept elsewhere, it bears witness against a store
        that was set back as a whole.
    """
    with (
        store_claimed(site),
        site.data_store.open() as store,
        scratch_folder(site, run) as scratch,
    ):
        export_copy(site.catalog.file, scratch / "catalog", system_clock())
        said = installation_of(site).model_dump_json().encode()
        (scratch / "catalog" / FILE).write_bytes(seal_installation(store, said))
        copy = put_copy(store, scratch / "catalog", clock=system_clock)
        head_state = write_head(store, clock=system_clock)
        write_needs_lists(store, site=site)
    if head_state.problem:
        get_run_logger().error("the data store lost something: %s; validate it", head_state.problem)
    size = readable_size(copy.size_bytes)
    get_run_logger().info("catalog copy %d, %s; %s", copy.number, size, head_state.short)
    return head_state.short

"""Data sources of VMs, hosts and SRs."""

from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import Value


def _class(call: Call) -> str:
    return call.name.split(".")[0]


@message("VM.get_data_sources", "SR.get_data_sources", "host.get_data_sources")
def get_data_sources(call: Call, owner: str) -> Value:
    """Name the performance counters with their present values."""
    return [source.record() for source in call.pool.metrics.sources(_class(call), owner)]


@message("VM.query_data_source", "SR.query_data_source", "host.query_data_source")
def query_data_source(call: Call, owner: str, name: str) -> float:
    """Read one counter."""
    for source in call.pool.metrics.sources(_class(call), owner):
        if source.name == name:
            return source.value
    raise XapiFailure("INVALID_VALUE", "data_source", name)


@message("VM.record_data_source", "SR.record_data_source", "host.record_data_source")
def record_data_source(call: Call, owner: str, name: str) -> None:
    """Begin to record a counter."""
    call.db.row(_class(call), owner)
    call.pool.metrics.keep(owner, name)


@message("VM.forget_data_source_archives", "SR.forget_data_source_archives")
@message("host.forget_data_source_archives")
def forget_data_source(call: Call, owner: str, name: str) -> None:
    """Stop recording a counter and drop what was recorded."""
    call.db.row(_class(call), owner)
    call.pool.metrics.forget(owner, name)

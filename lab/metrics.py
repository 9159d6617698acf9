"""Performance counters: what the records tell, as data sources and as round-robin databases.

No domain runs here, so processors are idle, and a counter has one value: that of now.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from lab.wire.values import Value

if TYPE_CHECKING:
    from lab.pool_core import PoolCore

STEP_SECONDS = 5
KIB = 1024
PROCESSORS = 64
OWNERS = {"vm": "VM", "host": "host", "sr": "SR"}


@dataclass(frozen=True)
class DataSource:
    """One counter; `enabled` says whether it is recorded."""

    name: str
    description: str
    units: str
    value: float
    enabled: bool = True

    def record(self) -> dict[str, Value]:
        """As the API shows it."""
        return {
            "name_label": self.name,
            "name_description": self.description,
            "enabled": self.enabled,
            "standard": True,
            "units": self.units,
            "min": 0.0,
            "max": 1.0 if self.units == "(fraction)" else 1e18,
            "value": self.value,
        }


class Metrics:
    """The counters of one pool."""

    def __init__(self, pool: "PoolCore") -> None:
        self._db = pool.db
        self._forgotten: set[tuple[str, str]] = set()

    def sources(self, class_name: str, ref: str) -> list[DataSource]:
        """The counters of a VM, a host or an SR.

        Raises:
            XapiFailure: HANDLE_INVALID.
        """
        with self._db.lock:
            record = self._db.record(class_name, ref)
            found = [DataSource(*each) for each in self._values(class_name, record)]
            return [s for s in found if (ref, s.name) not in self._forgotten]

    def _values(
        self, class_name: str, record: dict[str, Value]
    ) -> list[tuple[str, str, str, float]]:
        if class_name == "SR":
            sizes = ("physical_utilisation", "physical_size")
            return [(name, "Bytes of the SR", "B", float(record[name])) for name in sizes]
        if class_name == "host":
            total = self._db.get("host_metrics", record["metrics"], "memory_total")
            used = sum(self._db.get("VM", vm, "memory_target") for vm in record["resident_VMs"])
            processors = int(record["cpu_info"].get("cpu_count", "1"))
            return [
                ("memory_total_kib", "Memory of the host", "KiB", total / KIB),
                ("memory_free_kib", "Memory no domain has", "KiB", (total - used) / KIB),
                *_idle(processors),
            ]
        memory = float(self._db.get("VM_metrics", record["metrics"], "memory_actual"))
        return [("memory", "Memory of the domain", "B", memory), *_idle(record["VCPUs_max"])]

    def keep(self, ref: str, name: str) -> None:
        """Begin to record a counter."""
        self._forgotten.discard((ref, name))

    def forget(self, ref: str, name: str) -> None:
        """Stop recording a counter and drop what was recorded."""
        self._forgotten.add((ref, name))

    # -- as XML ----------------------------------------------------------------------------------

    def database(self, class_name: str, ref: str, now: int) -> str:
        """Write the round-robin database of a VM or a host, with one row."""
        sources = self.sources(class_name, ref)
        counters = "".join(
            f"<ds><name>{escape(s.name)}</name><type>GAUGE</type><minimal_heartbeat>300.0"
            f"</minimal_heartbeat><min>0.0</min><max>Infinity</max><last_ds>{s.value}</last_ds>"
            "<value>0.0</value><unknown_sec>0</unknown_sec></ds>"
            for s in sources
        )
        row = "".join(f"<v>{s.value}</v>" for s in sources)
        return (
            f"<rrd><version>0003</version><step>{STEP_SECONDS}</step><lastupdate>{now}</lastupdate>"
            f"{counters}<rra><cf>AVERAGE</cf><pdp_per_row>1</pdp_per_row><params><xff>0.5</xff>"
            f"</params><cdp_prep/><database><row>{row}</row></database></rra></rrd>"
        )

    def updates(self, start: int, now: int, *, with_host: bool) -> str:
        """Write the newest row of all running VMs, and of the hosts if asked."""
        classes = ("vm", "host") if with_host else ("vm",)
        columns = [
            (f"AVERAGE:{kind}:{self._db.get(OWNERS[kind], ref, 'uuid')}:{s.name}", s.value)
            for kind in classes
            for ref in self._db.refs(OWNERS[kind])
            if kind == "host" or self._db.get("VM", ref, "power_state") == "Running"
            for s in self.sources(OWNERS[kind], ref)
        ]
        end = now - now % STEP_SECONDS
        rows = 1 if start <= end else 0
        legend = "".join(f"<entry>{escape(name)}</entry>" for name, _ in columns)
        values = "".join(f"<v>{value}</v>" for _, value in columns)
        row = f"<row><t>{end}</t>{values}</row>" * rows
        return (
            f"<xport><meta><start>{end}</start><step>{STEP_SECONDS}</step><end>{end}</end>"
            f"<rows>{rows}</rows><columns>{len(columns)}</columns><legend>{legend}</legend></meta>"
            f"<data>{row}</data></xport>"
        )


def _idle(processors: int) -> list[tuple[str, str, str, float]]:
    return [
        (f"cpu{n}", f"Use of processor {n}", "(fraction)", 0.0)
        for n in range(min(processors, PROCESSORS))
    ]

"""Figures for Prometheus: ages, sizes, queues, damage; read from the catalog when asked for."""

from collections.abc import Iterable, Iterator
from contextlib import suppress

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from blocks import Site
from catalog import at_work, audits, incidents, messages, validation
from catalog import versions as catalog_versions
from catalog.values import Verdict, VersionRow
from likeness.clock import system_clock
from likeness.errors import LikenessError
from likeness.model.ids import VmId
from tasks.ages import age_limit
from tasks.claims import is_live
from tasks.last_results import last_results
from tasks.page import store_problem
from tasks.standing import WORDS, StandingFacts, facts_of, standings


def metrics_text(site: Site) -> str:
    """Everything, in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(SiteMetrics(site))
    return generate_latest(registry).decode()


class SiteMetrics:
    """Asked by a registry whenever somebody wants the figures."""

    def __init__(self, site: Site) -> None:
        """Of one site."""
        self._site = site

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked while it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All figures; of a catalog that cannot be read, only that it cannot."""
        up = GaugeMetricFamily("likeness_up", "1 if the catalog can be read", labels=["site"])
        found: list[Metric] = []
        try:
            with self._site.session():
                found = list(self._collected())
            up.add_metric([self._site.name], 1)
        except LikenessError:
            up.add_metric([self._site.name], 0)
        yield up
        yield from found

    def _collected(self) -> Iterator[Metric]:
        site, now = self._site, system_clock()
        limit, catalog = age_limit(site.revalidate_after), site.catalog.file
        rows = catalog_versions.list_versions(catalog, now, limit.green_for)
        opened = not store_problem(site)
        yield _gauge(site, "likeness_store_open", "1 if the data store can be opened", opened)
        facts = facts_of(site, rows, now, known=opened)
        yield from self._of_vms(facts)
        yield from self._of_versions(rows)
        seen = validation.proof_outlook(catalog, now, limit.due_after)
        yield _gauge(
            site,
            "likeness_oldest_proof_age_seconds",
            "Age of the oldest check of a data block",
            seen.oldest_age.total_seconds() if seen.oldest_age else 0,
        )
        yield _gauge(site, "likeness_unproved_bytes", "Never read back", seen.unproved_bytes)
        yield _gauge(site, "likeness_live_bytes", "Packs that versions need", seen.live_bytes)
        damaged = incidents.list_incidents(catalog)
        yield _gauge(site, "likeness_incidents_open", "Damage that is not healed", len(damaged))
        troubles = audits.open_troubles(catalog)
        yield _gauge(site, "likeness_store_troubles", "Objects to look at", len(troubles))
        waiting = messages.undelivered(catalog)
        yield _gauge(site, "likeness_messages_waiting", "Not delivered yet", len(waiting))
        yield from self._of_queues()
        yield from self._of_runs()

    def _of_vms(self, facts: StandingFacts) -> Iterator[Metric]:
        labels = ["site", "vm", "uuid"]
        age = GaugeMetricFamily(
            "likeness_last_good_version_age_seconds", "Of each VM that has one", labels=labels
        )
        state = GaugeMetricFamily(
            "likeness_vm_state", "1 for what each VM is", labels=[*labels, "state"]
        )
        for each in standings(facts)[0]:
            names = [self._site.name, each.name, each.vm]
            if each.good_at:
                age.add_metric(names, (facts.now - each.good_at).total_seconds())
            state.add_metric([*names, WORDS[each.grade]], 1)
        yield from (age, state)

    def _of_versions(self, rows: list[VersionRow]) -> Iterator[Metric]:
        verdicts = GaugeMetricFamily(
            "likeness_versions", "Versions by verdict", labels=["site", "verdict"]
        )
        for verdict in Verdict:
            count = sum(row.verdict is verdict for row in rows)
            verdicts.add_metric([self._site.name, verdict.value], count)
        yield verdicts
        newest: dict[VmId, VersionRow] = {}
        for row in rows:
            newest.setdefault(row.vm, row)
        for what, said in (("read", "Read from the source"), ("sent", "Sent, sealed")):
            each_vm = GaugeMetricFamily(
                f"likeness_last_version_{what}_bytes",
                f"{said} for the newest version",
                labels=["site", "vm", "uuid"],
            )
            for vm, row in newest.items():
                value = getattr(row.counts, f"{what}_bytes")
                each_vm.add_metric([self._site.name, row.vm_name, vm], value)
            yield each_vm

    def _of_queues(self) -> Iterator[Metric]:
        site = self._site
        queue = GaugeMetricFamily(
            "likeness_queue_length", "What waits or is under way", labels=["site", "queue"]
        )
        work = [each for each in at_work.list_work(site.catalog.file) if is_live(site, each.run)]
        for name in (at_work.COMMIT, at_work.VALIDATE):
            queue.add_metric([site.name, name], sum(each.queue == name for each in work))
        yield queue

    def _of_runs(self) -> Iterator[Metric]:
        labels = ["site", "what"]
        well = GaugeMetricFamily("likeness_last_run_well", "1 if it ended well", labels=labels)
        ended = GaugeMetricFamily(
            "likeness_last_run_ended_timestamp_seconds", "When it ended", labels=labels
        )
        with suppress(Exception):  # Prefect may be away
            for each in last_results(self._site.name):
                well.add_metric([self._site.name, each.what], each.well)
                ended.add_metric([self._site.name, each.what], each.ended_at.timestamp())
        yield from (well, ended)


def _gauge(site: Site, name: str, said: str, value: float) -> Metric:
    made = GaugeMetricFamily(name, said, labels=["site"])
    made.add_metric([site.name], float(value))
    return made

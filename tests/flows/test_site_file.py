"""A site from one file: what differs is shown first, and nothing else is changed."""

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client

from blocks import Site
from flows.site_file import read_site_file
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.cli.running import main
from likeness.errors import BadInput
from likeness.model.ids import random_name
from tests.flows.scene import MIB, QUICK

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


@pytest.fixture
def lab() -> Generator[LabServer, None, None]:
    pool = Pool(Settings(**QUICK, password="hunter2-of-the-pool"))
    for name in ("web", "db"):
        pool.add_vm(name, [MIB])
    with LabServer(pool) as server:
        yield server


@pytest.fixture
def written(
    lab: LabServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, Path]]:
    """Write a site file, and again with other words in it."""
    name = f"site-{random_name()[:12]}"
    monkeypatch.setenv("POOL_PASSWORD", lab.password)
    monkeypatch.delenv("LIKENESS_STORE", raising=False)
    for folder in ("store", "vault"):
        (tmp_path / folder).mkdir()

    def write(**other: str) -> tuple[str, Path]:
        text = f"""
            site: {name}
            pool:
              url: {lab.url}
              password: {{env: POOL_PASSWORD}}
            store: {{place: {tmp_path}/store, key_file: {tmp_path}/here/store.key}}
            catalog: {{folder: {tmp_path}/here}}
            vault: {{place: {tmp_path}/vault}}
            settings: {{alarm_after_hours: 30}}
            work_pools: {{{name}: {{concurrency: 4, queues: {{restores: 1}}}}}}
            limits: {{{name}-share: 3}}
            jobs:
              - name: nightly
                vms: [web, db]
                schedule: {{cron: "0 22 * * *", timezone: Europe/Berlin}}
              - {{name: rare, vms: [web], by_hand: true}}
            flows:
              revalidate: {{schedule: {{cron: "15 * * * *"}}}}
              check-everything: false
        """
        for before, after in other.items():
            assert before.replace("_", " ") in text or before in text, before
            text = text.replace(before, after)
        path = tmp_path / "site.yaml"
        path.write_text(text)
        return name, path

    return write


Said = tuple[int, str, str]


@pytest.fixture
def likeness(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command; its exit code and what it wrote."""

    def run(*words: object) -> Said:
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def differing(said: Said) -> dict[str, list[str]]:
    """What a plan names, with what differs."""
    return {each["name"]: each["differences"] for each in json.loads(said[1])}


def deployments(site: str) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        return {
            each.name: each
            for each in client.read_deployments(limit=200)
            if each.parameters.get("site") == site
        }


def test_a_site_is_made_as_its_file_says_and_then_only_what_differs_is_changed(
    written: Callable[..., tuple[str, Path]], likeness: Callable[..., Said], lab: LabServer
) -> None:
    site, path = written()

    code, out, _ = likeness("apply", path, "--plan")
    assert code == 1
    assert f"+ data store {path.parent}/store: new" in out
    assert "starts 0 22 * * * Europe/Berlin" in out
    assert list((path.parent / "store").iterdir()) == []

    code, out, err = likeness("apply", path)
    assert code == 0, err
    assert "RECOVERY SHEET" in out
    assert lab.password not in out + err
    assert likeness("apply", path, "--plan")[:2] == (0, "nothing differs\n")
    made = deployments(site)
    assert {f"{each}-{site}" for each in ("nightly", "rare", "validate", "watch")} <= made.keys()
    assert f"check-everything-{site}" not in made
    nightly = made[f"nightly-{site}"]
    assert nightly.parameters["job"] == {"name": "nightly", "vms": ["web", "db"]}
    assert nightly.global_concurrency_limit.limit == 1
    assert nightly.work_pool_name == site
    assert nightly.schedules[0].active

    with get_client(sync_client=True) as client:  # somebody pauses it in the UI
        client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=False)
    rare = "              - {name: rare, vms: [web], by_hand: true}\n"
    others = {"hours: 30": "hours: 40", "[web, db]": "[web]", "share: 3": "share: 2"}
    _, path = written(**others, **{rare: ""})
    said = likeness("apply", path, "--plan", "--json")
    assert said[0] == 1
    found = differing(said)
    assert found.pop(f"plan-{site}")  # its form begins with the first job
    assert found == {
        site: ["alarm_after_hours: 30 → 40"],
        f"{site}-share": ["3 → 2 at once"],
        f"nightly-{site}": [
            found[f"nightly-{site}"][0],
            "schedule: 0 22 * * * Europe/Berlin, switched off → 0 22 * * * Europe/Berlin",
        ],
    }
    code, _, err = likeness("apply", path)
    assert code == 0
    assert "no longer in the file" in err
    assert Site.named(site).alarm_after_hours == 40
    made = deployments(site)
    assert made[f"nightly-{site}"].id == nightly.id
    assert f"rare-{site}" in made
    assert likeness("apply", path, "--prune")[0] == 0
    assert f"rare-{site}" not in deployments(site)
    assert likeness("apply", path, "--plan")[0] == 0

    _see_that_it_works(site, path, likeness)


def _see_that_it_works(site: str, path: Path, likeness: Callable[..., Said]) -> None:
    """The doctor, and what a person asks of a site; on the site that was made."""
    code, out, _ = likeness("doctor", "--site", site, "--json")
    found = {each["about"]: each for each in json.loads(out)}
    assert {each: found[each]["state"] for each in ("pool", "data store", "vault", "key file")} == {
        "pool": "well",
        "data store": "well",
        "vault": "well",
        "key file": "well",
    }
    assert found["pool account"]["state"] == "doubt"
    assert "vm-power-admin" in found["pool account"]["remedy"]
    assert found["API login"]["state"] == "doubt"
    assert found["telling people"]["state"] == "wrong"
    assert code == 1
    assert list((path.parent / "store" / "in").glob("*")) == []

    (path.parent / "here" / "store.key").chmod(0o644)
    code, out, _ = likeness("doctor", "--site", site)
    assert f"→ chmod 600 {path.parent}/here/store.key" in out
    (path.parent / "here" / "store.key").chmod(0o600)

    code, out, _ = likeness("list", "--site", site)
    assert (code, out.split()[:2]) == (0, ["VM", "VERSION"])

    assert f"nightly-{site}" in likeness("jobs", "--site", site)[1]
    code, run, err = likeness("backup", "nightly", "--site", site, "--no-wait")
    assert code == 0
    assert "started" in err
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(run.strip())).deployment_id
    assert "there is nightly" in likeness("backup", "weekly", "--site", site)[2]
    code, out, _ = likeness("status", "--site", site)
    assert (code, out) == (0, "no VM is known yet\n")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("{env: POOL_PASSWORD}", "hunter2", "is a secret and must not stand in the file"),
        ("{env: POOL_PASSWORD}", "{env: NOT_SET}", "the environment has no NOT_SET"),
        ("alarm_after_hours", "alarm_hours", "settings has no 'alarm_hours'"),
        ("url:", "address:", "pool has no 'address'"),
        ("vms: [web, db]", "vmz: [web, db]", "job 'nightly' cannot be"),
        ("check-everything: false", "check-all: false", "there is no deployment 'check-all'"),
        ("name: rare", "name: nightly", "stands there twice"),
        ("site: ", "sites: ", "sites: Extra inputs"),
        ("jobs:", "jobs: [", "is no YAML"),
    ],
)
def test_what_a_file_cannot_say_is_told_in_a_sentence_and_nothing_is_made(
    written: Callable[..., tuple[str, Path]],
    likeness: Callable[..., Said],
    before: str,
    after: str,
    said: str,
) -> None:
    _, path = written(**{before: after})

    code, out, err = likeness("apply", path)

    assert (code, out) == (2, "")
    assert said in err
    assert "hunter2" not in err
    assert list((path.parent / "store").iterdir()) == []


def test_a_file_that_is_not_there_or_no_site_is_told(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    for name, said in (("nowhere.yaml", "cannot be read"), ("list.yaml", "says nothing of a site")):
        with pytest.raises(BadInput, match=said):
            read_site_file(tmp_path / name)

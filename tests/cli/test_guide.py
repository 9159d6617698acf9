"""What the guide says can be typed, and the files it shows are what they are for."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from flows.site_deployments import standard_deployments, wanted_deployments
from flows.site_file import read_site_file
from likeness.cli.arguments import parser
from likeness.cli.options import Call
from tasks.metrics import metrics_text
from tests.validation.conftest import house
from tests.validation.house import House
from tests.validation.many_nights import fill

__all__ = ["house"]
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every line of a shell block that begins with our command."""
    blocks = [
        block
        for page in PAGES
        for block in re.findall(
            r"^ *```sh\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL
        )
    ]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    ours = [re.sub(r"^python -m likeness ", "likeness ", line) for line in lines]
    return sorted({line for line in ours if line.startswith("likeness ")})


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_guide_is_understood(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    try:
        understood = parser().main(words, prog_name="likeness", standalone_mode=False)
    except click.UsageError as refused:
        pytest.fail(f"{line}: {refused.format_message()}")
    assert isinstance(understood, Call) or words[-1] in ("--help", "--version")


def test_the_guide_names_commands_of_every_day() -> None:
    named = {line.split()[1] for line in commands()}
    assert {"apply", "doctor", "backup", "status", "list", "restore", "recover"} <= named


def test_the_guides_site_file_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(site: .*?)```", (ROOT / "docs/install.md").read_text(), re.S)
    path = tmp_path / "site.yaml"
    path.write_text(text)

    said = read_site_file(path)

    names = {each.name for each in wanted_deployments(said)}
    assert {"nightly", "before-updates", "validate", "watch", "doctor", "vault"} <= names
    assert "check-everything" not in names
    queues = {each.name: each.facts["work_queue_name"] for each in wanted_deployments(said)}
    assert (queues["restore-vm"], queues["restore"]) == ("restores", "default")


def test_every_deployment_leads_to_the_dashboard() -> None:
    """No menu of the UI does."""
    lost = [
        each["name"]
        for each in standard_deployments()
        if "/artifacts/key/dashboard" not in each["description"]
    ]
    assert lost == []


def test_every_figure_of_the_board_is_there(house: House) -> None:
    fill(house.catalog, 6, 10, "")
    text = metrics_text(house.site)
    board = json.loads((ROOT / "docs/grafana.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"likeness_\w+", target["expr"])
    }

    assert len(asked) >= 10
    assert {name for name in asked if f"# TYPE {name} gauge" not in text} == set()
    ages = re.findall(
        r'^likeness_last_good_version_age_seconds\{.*vm="server-000"\} (.*)$', text, re.M
    )
    assert [0 <= float(age) < 3.5 * 3600 for age in ages] == [True]  # taken today
    assert 'likeness_vm_state{site="main",state="damaged"' in text
    assert 'likeness_versions{site="main",verdict="bad"} 2.0' in text

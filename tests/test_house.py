"""Promises of the tool chain: what is pinned, what ships, what is never written down."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import prefect
import pytest

ROOT = Path(__file__).parents[1]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
# Put together here, so that this file does not name one itself.
INDEX_HOSTS = ["pypi" + ".org", "python" + "hosted.org", "pypi" + "/simple"]


def our_files() -> list[Path]:
    """List what is or would be committed; a tree without Git has only such files."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode:
        return [p for p in ROOT.rglob("*") if p.is_file() and ".venv" not in p.parts]
    return [p for name in listing.stdout.split(b"\0") if (p := ROOT / name.decode()).is_file()]


def pins_of(path: Path) -> dict[str, str]:
    """Map each distribution that a requirements file names to its version."""
    found = re.findall(
        r"^([A-Za-z0-9._-]+)(?:\[[^]]+\])?==([^\s;\\]+)", path.read_text(), re.MULTILINE
    )
    return dict(found)


def test_no_file_names_a_package_index() -> None:
    naming = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in our_files()
        for host in INDEX_HOSTS
        if host.encode() in path.read_bytes()
    ]
    assert naming == []


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda p: p.name)
def test_every_requirement_has_one_version_and_hashes(path: Path) -> None:
    joined = path.read_text().replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.lstrip().startswith("#")]
    assert lines
    pinned = re.compile(r"[a-z0-9._-]+(\[[^]]+\])?==\S+ .*--hash=sha256:")
    assert [line for line in lines if not pinned.match(line)] == []


@pytest.mark.parametrize("smaller", ["run.txt", "agent.txt", "files.txt", "mount.txt"])
def test_what_runs_is_pinned_to_what_is_tested(smaller: str) -> None:
    tested = pins_of(ROOT / "requirements" / "dev.txt")
    assert pins_of(ROOT / "requirements" / smaller).items() <= tested.items()


def test_the_pins_answer_every_dependency_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    extras = project["project"]["optional-dependencies"]
    files, mount = extras["files"], extras["mount"]
    for name, asked in {
        "run.txt": project["project"]["dependencies"],
        "dev.txt": project["project"]["dependencies"] + groups["dev"] + files + mount,
        "files.txt": project["project"]["dependencies"] + files,
        "mount.txt": project["project"]["dependencies"] + mount,
        "agent.txt": groups["agent"],
        "torture.txt": groups["torture"],
        "executable.txt": groups["agent"] + groups["executable"],
    }.items():
        wanted = {re.split(r"[<>=!~;\[ ]", line)[0].lower() for line in asked}
        wanted = {re.sub("[._]", "-", each) for each in wanted}
        assert wanted <= pins_of(ROOT / "requirements" / name).keys(), name


def test_no_library_under_prefect_is_newer_than_prefect_itself() -> None:
    """`make pins` stops at a day; when another Prefect is pinned that day has to move too."""
    (day,) = re.findall(r"^PREFECT_DAY := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    built = datetime.fromisoformat(prefect.__version_info__["date"] or "")

    assert prefect.__version__ == pins_of(ROOT / "requirements" / "run.txt")["prefect"]
    assert timedelta() < datetime.fromisoformat(day) - built < timedelta(days=2)


def test_the_wheel_holds_the_product_and_nothing_of_the_stage(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("likeness-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"flows", "tasks", "blocks", "catalog", "likeness"}
    migrations = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("catalog/**/*.sql")}
    assert migrations <= set(names)


def test_the_installed_command_is_the_one_of_the_module(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["likeness"].partition(":")
    command = tmp_path / "likeness"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n"
    )
    command.chmod(0o700)
    answers = [
        subprocess.run(
            [*words, "list", "--store", str(tmp_path / "nowhere"), "--words"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            input="\n",
            capture_output=True,
            text=True,
            check=False,
        )
        for words in ([str(command)], [sys.executable, "-m", "likeness"])
    ]
    assert {(each.returncode, each.stdout, each.stderr) for each in answers} == {
        (2, "", answers[0].stderr)
    }
    assert "nowhere" in answers[0].stderr


def test_each_hop_of_the_architecture_page_is_a_function_that_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    hops = re.findall(r"^\| (\d+) \| .* \| `([\w/]+\.py)` \| `(\w+)` \|$", page, re.MULTILINE)

    assert [int(number) for number, _, _ in hops] == list(range(1, 20))
    for _, file, name in hops:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {getattr(node, "name", "") for node in tree.body}, (file, name)
    assert len({(file, name) for _, file, name in hops}) == len(hops), "a hop is there twice"


def test_what_people_are_told_is_put_together_in_one_place() -> None:
    """There every line stays one, whatever a VM is called."""
    makers = {
        str(path.relative_to(ROOT))
        for folder in ("tasks", "flows", "blocks")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Message"
    }
    assert makers == {"tasks/reports/__init__.py"}

"""The template of delegates: found, looked at, and refused where no delegate can come of it."""

from pathlib import Path
from typing import Any

import pytest

from abd.make_xva import main as make_archive
from lab.pool import Pool
from likeness.agent.protocol import PROTOCOL
from likeness.errors import BadInput, HostBusy
from likeness.stopping import StopToken
from likeness.xen.delegates import (
    AGENT_TAG,
    DEFAULT_TAG,
    DelegateWish,
    find_template,
    start_delegate,
)
from likeness.xen.marks import DELEGATE_NAME
from tests.xen.conftest import MIB, Stage

WISH = DelegateWish(protocol=PROTOCOL)


def template(pool: Pool, *, disks: int = 1, **fields: Any) -> str:
    """One with as many disks, and more fields of its record."""
    made = {"power_state": "Halted", "tags": [DEFAULT_TAG, f"{AGENT_TAG}{PROTOCOL}"]} | fields
    ref = pool.vm(pool.add_vm("abd", [MIB] * disks, **made))
    pool.db.put("VM", ref, is_a_template=True)
    return ref


def test_a_template_is_found_by_its_tag_or_uuid(stage: Stage) -> None:
    ref = template(stage.pool)
    uuid = stage.pool.db.get("VM", ref, "uuid")

    assert find_template(stage.xen, WISH) == ref
    assert find_template(stage.xen, DelegateWish(template=uuid, protocol=PROTOCOL)) == ref


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"power_state": "Running"}, "is Running; shut it down"),
        ({"disks": 2}, "has 2 disks, and a delegate has one"),
        ({"disks": 0}, "has 0 disks, and a delegate has one"),
        ({"tags": [DEFAULT_TAG, f"{AGENT_TAG}99"]}, "holds another version of the agent"),
        ({"tags": []}, "no template has the tag or uuid 'likeness-abd'"),
    ],
)
def test_a_template_no_delegate_can_come_of_is_refused(
    stage: Stage, fields: dict[str, Any], said: str
) -> None:
    template(stage.pool, **fields)
    with pytest.raises(BadInput, match=said) as refused:
        find_template(stage.xen, WISH)
    assert len(str(refused.value).split()) < 40


def test_of_two_templates_with_the_tag_none_is_taken(stage: Stage) -> None:
    template(stage.pool)
    template(stage.pool)
    with pytest.raises(BadInput, match="2 templates have the tag"):
        find_template(stage.xen, WISH)


def test_one_that_ends_while_it_starts_is_not_waited_for(stage: Stage) -> None:
    """As when its host runs out of memory, or somebody shuts it down."""
    template(stage.pool)
    before = stage.objects()

    def shut_down(_: str) -> None:
        for ref in stage.pool.db.where("VM", power_state="Running"):
            if stage.pool.db.get("VM", ref, "name_label").startswith(DELEGATE_NAME):
                stage.xen.call("VM.hard_shutdown", ref)

    with pytest.raises(HostBusy, match="ABD for web-1 is Halted before it told its address"):
        start_delegate(
            stage.xen,
            WISH,
            vm_name="web-1",
            vm_ref=stage.pool.vm("web-1"),
            owner=stage.owner,
            public_key="ssh-ed25519 AAAA",
            stop=StopToken(),
            say=shut_down,
        )
    assert stage.objects() == before


def test_the_archive_of_the_image_is_the_same_again(tmp_path: Path) -> None:
    raw = tmp_path / "likeness-abd.raw"
    raw.write_bytes(b"system" * MIB)
    made = []
    for name in ("first", "second"):
        make_archive(raw, tmp_path / name)
        made.append((tmp_path / name).read_bytes())

    assert made[0] == made[1]
    assert f"{AGENT_TAG}{PROTOCOL}".encode() in made[0]

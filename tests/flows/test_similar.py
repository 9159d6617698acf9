"""A new VM's first backup is compared with a proved version of a similar VM, and sends less."""

from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.values import Verdict
from tests.flows.scene import MIB, Scene, image, noise, outcomes

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
WEB = [noise("system", 8 * MIB), noise("data", 2 * MIB)]


@pytest.fixture
def web(new_site: Callable[..., Scene]) -> Scene:
    site = new_site({"web": WEB})
    site.back_up("web", validated=True)
    return site


def add(site: Scene, folder: Path, name: str, *disks: bytes, template: str = "") -> None:
    images = [image(folder, f"{name}-{at}", disk) for at, disk in enumerate(disks)]
    base = {"base_template_name": template} if template else {"base_template_name": "other"}
    site.pool.add_vm(name, images, other_config=base)


def test_a_clone_of_a_protected_vm_sends_less_than_a_twentieth(web: Scene, tmp_path: Path) -> None:
    (whole,) = (row.counts.sent_bytes for row in web.listed("web"))
    changed = WEB[0][: 5 * MIB] + noise("own", MIB // 4) + WEB[0][5 * MIB + MIB // 4 :]
    add(web, tmp_path, "clone", changed, WEB[1])

    (clone,) = outcomes(web.back_up("clone", validated=True)).values()

    assert 0 < clone.sent_bytes < whole / 20
    first = web.newest("web").version[:8]
    assert f"first backup, compared with version {first} of VM web" in clone.sentence
    assert web.verdicts() == [Verdict.GOOD] * 2
    assert web.restore(clone.version) == web.disks("clone")

    web.pool.write("clone", 1, 0, noise("later", MIB // 4))
    (again,) = outcomes(web.back_up("clone", validated=True)).values()

    assert 0 < again.sent_bytes < MIB
    assert "compared with" not in again.sentence
    assert web.restore(again.version) == web.disks("clone")


def test_what_is_not_proved_or_shaped_otherwise_is_not_compared_with(
    new_site: Callable[..., Scene], tmp_path: Path
) -> None:
    site = new_site({"web": WEB})
    (web,) = outcomes(site.back_up("web")).values()
    add(site, tmp_path, "clone", *WEB)
    (clone,) = outcomes(site.back_up("clone")).values()
    assert clone.sent_bytes >= web.sent_bytes * 0.99  # nobody has read web's version back yet
    assert clone.sentence == web.sentence
    site.validate()
    add(site, tmp_path, "one disk", WEB[0])
    add(site, tmp_path, "larger", WEB[0] + bytes(512), WEB[1])
    add(site, tmp_path, "swapped", WEB[1], WEB[0])

    for each in outcomes(site.back_up("one disk", "larger", "swapped")).values():
        assert "compared with" not in each.sentence
        assert each.sent_bytes > 7 * MIB


def test_of_several_the_one_from_the_same_template_is_taken(web: Scene, tmp_path: Path) -> None:
    others = [noise("another", 8 * MIB), noise("system", 2 * MIB)]
    add(web, tmp_path, "mail", *others, template="Debian")
    web.back_up("mail", validated=True)
    add(web, tmp_path, "mail 2", *others, template="Debian")
    add(web, tmp_path, "web 2", *WEB, template="Other install media")

    made = outcomes(web.back_up("mail 2", "web 2"))

    assert "of VM mail" in made["mail 2"].sentence
    assert "of VM web" in made["web 2"].sentence
    assert max(each.sent_bytes for each in made.values()) == 0


def test_a_damaged_data_block_is_sent_again(web: Scene, tmp_path: Path) -> None:
    """Before anybody knows that it is: the clone's own validation finds it, and both heal."""
    pack = max(web.packs(), key=lambda path: path.stat().st_size)
    spoilt = bytearray(pack.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    pack.write_bytes(bytes(spoilt))
    web.revalidate_always()
    web.validate()
    assert web.verdicts() == [Verdict.BAD]
    add(web, tmp_path, "clone", *WEB)

    (clone,) = outcomes(web.back_up("clone", validated=True)).values()

    assert "compared with" not in clone.sentence
    assert clone.sent_bytes > 9 * MIB
    assert web.restore(clone.version) == web.disks("clone")

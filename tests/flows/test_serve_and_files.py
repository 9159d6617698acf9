"""A version's disks and files, by forms: at once, as images, file by file."""

import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.files import files
from flows.restore import restore_disks
from flows.serve import serve
from tests.files import images
from tests.flows.scene import MIB, Scene, noise, sha256
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


@pytest.mark.needs("qemu-img", "mke2fs")
def test_disks_are_served_exported_and_looked_into(
    new_site: Callable[..., Scene], tmp_path: Path
) -> None:
    tree, image = tmp_path / "tree", tmp_path / "guest.raw"
    tree.mkdir()
    images.full_tree(tree)
    images.ext4(image, tree)
    site = new_site({"web": [image.read_bytes()]})
    site.back_up("web", validated=True)

    by_words: Any = {"site": site.name, "return_state": True}
    folder = str(tmp_path / "out")
    refused: Any = restore_disks(
        "web, last good", folder, image_format="vhd", accept_damage=True, **by_words
    )
    assert "only a raw image can have a map" in refused.message
    done: Any = restore_disks("web, last good", folder, image_format="qcow2", **by_words)
    assert done.name == "Completed", done.message
    (qcow2,) = (tmp_path / "out").iterdir()
    assert same(image, qcow2) == 0

    found: Any = files("web, last good", find="big.bin", **by_words)
    assert found.is_completed(), found.message
    assert "1 thing found" in found.message
    taken: Any = files(
        "web, last good", path="0/deep/er", folder=str(tmp_path / "taken"), **by_words
    )
    assert taken.is_completed(), taken.message
    blank: Any = files("web, last good", path="0/ends in a blank ", **by_words)
    assert "1 thing found" in blank.message
    big = tmp_path / "taken" / "er" / "and deeper" / "big.bin"
    assert big.read_bytes() == noise("big", 3 * MIB + 17)
    site.pool.write("web", disk=0, offset=0, data=b"x")
    site.back_up("web", validated=True)
    every: Any = files(vm="web", find="big.bin", every_version=True, **by_words)
    assert "2 found in 2 versions" in every.message
    nothing: Any = files("web, last good", path="9", **by_words)
    assert "no volume '9' in this version" in nothing.message

    ended: list[Any] = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words: Any = {"vm": "web", "port": port, "minutes": 0.1, "writable": True}
    serving = threading.Thread(target=lambda: ended.append(serve(**words, **by_words)))
    serving.start()
    wait_until(lambda: is_open(port), "the version is served")
    assert same(qcow2, f"nbd://127.0.0.1:{port}/disk-0", "-U") in (0, 1)
    serving.join()
    assert "1 disk of web served" in ended[0].message
    assert sha256(image.read_bytes()) not in site.disks("web")


def same(one: Path, other: Path | str, *more: str) -> int:
    words = ["qemu-img", "compare", *more, str(one), str(other)]
    return subprocess.run(words, check=False, capture_output=True).returncode


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0

"""One folder behind a share is one place, however it is reached."""

import pytest

from likeness.errors import NoVault
from likeness.store.repair.second_place import require_second_place
from likeness.transport.local import LocalTransport
from tests.smb.server import SmbServer

pytestmark = pytest.mark.smb


def test_a_mounted_folder_and_a_share_with_that_folder_are_one_place(
    smb_server: SmbServer,
) -> None:
    below = smb_server.folder("ads") / "below" / "ads"
    below.mkdir(parents=True)
    share = smb_server.transport("ads", "below/ads")
    whole_share = smb_server.transport("ads")
    other = smb_server.transport("vault")
    try:
        for store, vault in (
            (LocalTransport(below), share),
            (share, LocalTransport(below)),
            (share, smb_server.transport("ads", "below/ads")),
            (share, whole_share),
            (whole_share, share),
        ):
            with pytest.raises(NoVault, match=r"no second place|lies inside"):
                require_second_place(store, vault)
        require_second_place(share, other)
        require_second_place(LocalTransport(below), other)
    finally:
        for each in (share, whole_share, other):
            each.close()
    assert not list(below.iterdir())

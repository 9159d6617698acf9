"""What goes wrong at the vault sends people to the vault's block, not to the data store's."""

import pytest
from pydantic import SecretStr

from blocks import DataStoreShare, Vault
from likeness.errors import ShareRefused
from tests.smb.server import SmbServer

pytestmark = pytest.mark.smb


def test_a_refused_account_names_the_block_that_holds_it(own_smb_server: SmbServer) -> None:
    share = {
        "place": f"smb://127.0.0.1:{own_smb_server.port}/ads",
        "username": own_smb_server.username,
        "password": SecretStr("wrong-horse"),
    }

    with pytest.raises(ShareRefused, match=r"password in the vault's block"):
        Vault.model_validate(share).connect().size("ADS-FORMAT")
    with pytest.raises(ShareRefused, match=r"password in the data store's block"):
        DataStoreShare.model_validate({**share, "key_file": "/none"}).connect().size("ADS-FORMAT")

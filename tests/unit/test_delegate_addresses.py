"""Static addresses as people write them in a form."""

import pytest
from pydantic import ValidationError

from blocks import XenPool
from likeness.model.addresses import AddressGroup, StaticAddress, all_addresses


def test_ranges_and_single_addresses_become_one_address_each_with_all_it_needs() -> None:
    group = AddressGroup(
        addresses=["10.0.5.21", " 10.0.5.30 - 10.0.5.31 "],
        prefix=25,
        gateway="10.0.5.1",
        dns=["10.0.5.2", "10.0.6.2"],
        network="VLAN 12",
        macs=["02:11:22:33:44:55", "02-11-22-33-44-56", "06:AA:BB:CC:DD:EE"],
    )

    found = all_addresses([group])

    assert [(each.address, each.mac) for each in found] == [
        ("10.0.5.21", "02:11:22:33:44:55"),
        ("10.0.5.30", "02:11:22:33:44:56"),
        ("10.0.5.31", "06:aa:bb:cc:dd:ee"),
    ]
    assert {(each.netmask, each.network) for each in found} == {("255.255.255.128", "VLAN 12")}
    assert found[0].told() == {
        "ip": "10.0.5.21",
        "nm": "255.255.255.128",
        "gw": "10.0.5.1",
        "dns": "10.0.5.2 10.0.6.2",
    }
    assert StaticAddress("10.0.5.21", "255.255.255.0").told().keys() == {"ip", "nm"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"addresses": ["web"]}, "'web' is not an address; write one such as 10.0.5.21"),
        ({"addresses": ["10.0.5.21/24"]}, "is not an address"),
        ({"addresses": ["fd00::1"]}, "is not an address"),
        ({"addresses": ["10.0.5.21-10.0.5.20"]}, "is no range of up to 256 addresses"),
        ({"addresses": ["10.0.0.1-10.0.9.1"]}, "is no range of up to 256 addresses"),
        ({"addresses": ["10.0.5.21", "10.0.6.21"]}, "is in 10.0.6.0/24, others are in 10.0.5.0/24"),
        ({"addresses": ["10.0.5.255"]}, "is no host's address in 10.0.5.0/24"),
        ({"addresses": []}, "at least 1 item"),
        ({"gateway": "10.0.6.1"}, "gateway 10.0.6.1 is not beside the addresses in 10.0.5.0/24"),
        ({"gateway": "10.0.5.21"}, "gateway 10.0.5.21 is not beside"),
        ({"dns": ["ns.example"]}, "'ns.example' is not a name server"),
        ({"macs": ["02:11:22:33:44:55"] * 2}, "there are 2 MACs for 1 IP: give one MAC for each"),
        ({"macs": ["01:11:22:33:44:55"]}, "is no MAC address of one card"),
        ({"prefix": 31}, "less than or equal to 30"),
    ],
)
def test_what_makes_no_sense_is_refused_in_the_form(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("(", r"\(")):
        AddressGroup.model_validate({"addresses": ["10.0.5.21"], **wrong})


def test_one_address_twice_is_refused_whichever_groups_it_is_in() -> None:
    group = {"addresses": ["10.0.5.21-10.0.5.23"]}
    with pytest.raises(ValidationError, match=r"10\.0\.5\.22 stands there twice"):
        XenPool.model_validate(
            {
                "url": "https://xen1.example",
                "password": "x",
                "delegate_addresses": [group, {"addresses": ["10.0.5.22"]}],
            }
        )

"""Static addresses of delegates: as people write them in a form, and one by one."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from likeness.model.sizes import counted, shortened

MAX_ADDRESSES = 256
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}\Z")
_HOW = "write one such as 10.0.5.21, or a range such as 10.0.5.21-10.0.5.29"


@dataclass(frozen=True, slots=True)
class StaticAddress:
    """One address that one delegate at a time may have.

    Attributes:
        address: Such as ``10.0.5.21``.
        netmask: Such as ``255.255.255.0``.
        gateway: Empty for none.
        dns: Addresses of name servers.
        network: Name or uuid of the XenServer network that it is on; empty: the pool's setting.
        mac: Of the interface; empty: the pool chooses.
    """

    address: str
    netmask: str
    gateway: str = ""
    dns: tuple[str, ...] = ()
    network: str = ""
    mac: str = ""

    def told(self) -> Mapping[str, str]:
        """The same as a delegate reads it in xenstore, below ``vm-data/``."""
        said = {"ip": self.address, "nm": self.netmask, "gw": self.gateway}
        said["dns"] = " ".join(self.dns)
        return {key: value for key, value in said.items() if value}


class AddressGroup(BaseModel):
    """Static addresses on one network of a Xen pool; each serves one delegate at a time."""

    model_config = ConfigDict(extra="forbid")

    addresses: list[str] = Field(
        title="Addresses",
        description="IPv4 addresses such as 10.0.5.21, or ranges such as 10.0.5.21-10.0.5.29; as"
        " many as VMs shall be in flight at once, and used by nothing else.",
        min_length=1,
        max_length=MAX_ADDRESSES,
    )
    prefix: int = Field(
        default=24,
        ge=1,
        le=30,
        title="Prefix",
        description="How many bits of an address name the network: 24 is 255.255.255.0.",
    )
    gateway: str = Field(
        default="",
        title="Gateway",
        description="Needed only if the data store is on another network.",
    )
    dns: list[str] = Field(
        default=[],
        title="Name servers",
        description="Addresses of name servers; needed only if the data store's place is a name.",
    )
    network: str = Field(
        default="",
        title="XenServer network",
        description="Name or uuid of the network these addresses are on, such as a VLAN; empty: the"
        " network of delegates.",
    )
    macs: list[str] = Field(
        default=[],
        title="MAC addresses",
        description="One for each address, in the same order, such as 02:11:22:33:44:55; none: the"
        " pool chooses.",
        max_length=MAX_ADDRESSES,
    )

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        list(self.each())
        return self

    def each(self) -> Iterator[StaticAddress]:
        """Its addresses one by one, in the order they are written.

        Raises:
            ValueError: Something is no address, or does not fit the rest; the sentence says what.
        """
        found = [address for row in self.addresses for address in _in_row(row)]
        if self.macs and len(self.macs) != len(found):
            raise ValueError(
                f"there are {len(self.macs)} MACs for {counted(len(found), 'IP')}: give one MAC for"
                " each address, or none"
            )
        net = IPv4Network((int(found[0]), self.prefix), strict=False)
        for address in found:
            _require_host(address, net)
        gateway = _address(self.gateway, "the gateway") if self.gateway else None
        if gateway is not None and (gateway not in net or gateway in found):
            raise ValueError(f"gateway {gateway} is not beside the addresses in {net}; correct it")
        dns = tuple(str(_address(each, "a name server")) for each in self.dns)
        for address, mac in zip(found, self.macs or [""] * len(found), strict=True):
            yield StaticAddress(
                *(str(address), str(net.netmask), str(gateway or "")),
                *(dns, self.network.strip(), _mac(mac)),
            )


def all_addresses(groups: Iterable[AddressGroup]) -> tuple[StaticAddress, ...]:
    """Every address of some groups.

    Raises:
        ValueError: Something is no address, or one stands there twice.
    """
    found = [each for group in groups for each in group.each()]
    _require_once([each.address for each in found])
    _require_once([each.mac for each in found if each.mac])
    return tuple(found)


def _require_once(texts: Sequence[str]) -> None:
    twice = next((each for at, each in enumerate(texts) if each in texts[:at]), "")
    if twice:
        raise ValueError(f"{twice} stands there twice; one delegate at a time can have it")


def _in_row(row: str) -> Iterator[IPv4Address]:
    low, dash, high = (part.strip() for part in row.partition("-"))
    first = _address(low, "an address")
    last = _address(high, "an address") if dash else first
    if not 0 <= int(last) - int(first) < MAX_ADDRESSES:
        raise ValueError(f"{shortened(row)} is no range of up to {MAX_ADDRESSES} addresses; {_HOW}")
    return (first + step for step in range(int(last) - int(first) + 1))


def _address(text: str, what: str) -> IPv4Address:
    try:
        return IPv4Address(text.strip())
    except AddressValueError as cause:
        raise ValueError(f"{shortened(text)} is not {what}; {_HOW}") from cause


def _require_host(address: IPv4Address, net: IPv4Network) -> None:
    if address not in net:
        other = IPv4Interface((int(address), net.prefixlen)).network
        raise ValueError(f"{address} is in {other}, others are in {net}; make a group for each")
    if address in (net.network_address, net.broadcast_address):
        raise ValueError(f"{address} is no host's address in {net}; leave it out")


def _mac(text: str) -> str:
    mac = text.strip().lower().replace("-", ":")
    if mac and not _MAC.match(mac):
        raise ValueError(
            f"{shortened(text)} is no MAC address of one card; write one such as 02:11:22:33:44:55"
        )
    return mac

"""Which addresses an agent may open: public ones, unless the user allows others by name.

A page, a redirect or a model can name any address, that of the machine's own services, of its neighbours or of the
server that hands out a cloud machine's credentials among them. Knows nothing of connections or pages.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from agent_gym.errors import ConfigError, ToolError

if TYPE_CHECKING:
    import httpx

# The networks of IANA's special-purpose registries that are not public, and the servers of cloud providers.
_CLOSED_V4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host; Linux connects it to the loopback
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' shared addresses; Alibaba's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own server, at a public address
        "169.254.0.0/16",  # link-local; the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
_PUBLIC_V6 = IPv6Network("2000::/3")
_CLOSED_V6 = [
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments; Teredo, which embeds an address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which embeds an address
        "3fff::/20",  # documentation
    )
]
_NAT64 = IPv6Network("64:ff9b::/96")
"""How a host without IPv4 reaches it; the last 32 bits are the address that is meant."""
_CLOSED_NAMES = ("localhost", "local", "internal", "localdomain", "home.arpa", "onion")
_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HARMFUL = re.compile(r"[\x00-\x1f\x7f\\]")
_BARE_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.[a-z]{2,}(?=[:/?#]|$)", re.IGNORECASE)
_SHOWN = 200


class Guard:
    """Refuses addresses that are not public.

    Args:
        allow: What is admitted all the same: "host:port" as it stands in the url, or the "address:port" that is
            connected to, exactly; "[::1]:8080" for IPv6. For an intranet, say, or for tests.
        ports: Ports that may be opened; any by default.

    Raises:
        ConfigError: An entry of `allow` has no port.
    """

    def __init__(self, *, allow: Collection[str] = (), ports: Collection[int] | None = None) -> None:
        for entry in allow:
            if not entry.rpartition(":")[2].isdigit() or not entry.rpartition(":")[0]:
                raise ConfigError(f"{entry!r} cannot be allowed: write host:port, such as 'wiki.intranet:443'.")
        self._allow = frozenset(entry.lower() for entry in allow)
        self._ports = None if ports is None else frozenset(ports)

    def check_url(self, text: str) -> "httpx.URL":
        """Return a url that may be opened as far as it tells: its host name is yet to be looked up.

        Args:
            text: What a model or a page gives; "https://" is put before a bare host name.

        Raises:
            ToolError: It is no url, not of the web, or names what is not public.
        """
        import httpx

        text = text.strip()
        if _BARE_HOST.match(text):
            text = f"https://{text}"
        if _HARMFUL.search(text):
            raise ToolError(f"{_shown(text)} is no url: it has control characters or a backslash.")
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL as error:
            raise ToolError(f"{_shown(text)} is no url that can be opened.") from error
        if url.scheme not in ("http", "https"):
            raise ToolError(f"{_shown(text)} cannot be opened: only http:// and https:// can.")
        if url.userinfo:
            raise ToolError(f"{_shown(text)} cannot be opened: a url with a user name or a password is refused.")
        port = port_of(url)
        if not 0 < port < 65536 or (self._ports is not None and port not in self._ports):
            raise ToolError(f"The port of {_shown(text)} is not allowed.")
        self._check_host(url.raw_host.decode("ascii"), port)
        return url

    def check_address(self, address: str, host: str, port: int) -> None:
        """Refuse to connect to an address unless it is public or allowed.

        Args:
            address: The address that will be connected to, as numbers.
            host: The host as the url names it.
            port: The port.

        Raises:
            ToolError: It is refused. The address is not told: a model has no business with names of a private network.
        """
        if not is_public(address) and not self._is_allowed(address, port) and not self._is_allowed(host, port):
            raise ToolError(f"{_shown(host)} leads to an address that is not public, and is not opened.")

    def _check_host(self, host: str, port: int) -> None:
        if self._is_allowed(host, port):
            return
        name = host.removesuffix(".")
        if ":" in name or _NUMBER.fullmatch(name.rpartition(".")[2]):
            self._check_number(name, port)
        elif not _HOST_NAME.fullmatch(name):
            raise ToolError(f"{_shown(host)} is no name of a host.")
        elif any(name == closed or name.endswith(f".{closed}") for closed in _CLOSED_NAMES):
            raise ToolError(f"{_shown(host)} is not on the public web, and is not opened.")

    def _check_number(self, host: str, port: int) -> None:
        """Check a host that is an address; other spellings than the usual one only serve to deceive."""
        try:
            ip_address(host)
        except ValueError as error:
            raise ToolError(f"{_shown(host)} is no address in its usual form.") from error
        self.check_address(host, host, port)

    def _is_allowed(self, host: str, port: int) -> bool:
        return f"[{host}]:{port}" in self._allow if ":" in host else f"{host}:{port}" in self._allow


def is_public(address: str) -> bool:
    """Return whether an address, as numbers, is one of the public internet; what is no address is not."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return _is_public_v4(parsed) if isinstance(parsed, IPv4Address) else _is_public_v6(parsed)


def port_of(url: "httpx.URL") -> int:
    """Return the port of a url, that of its scheme where it has none."""
    return url.port if url.port is not None else {"http": 80, "https": 443}[url.scheme]


def _is_public_v4(address: IPv4Address) -> bool:
    return not any(address in network for network in _CLOSED_V4)


def _is_public_v6(address: IPv6Address) -> bool:
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return _is_public_v4(address.ipv4_mapped)
    if address in _NAT64:
        return _is_public_v4(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _PUBLIC_V6 and not any(address in network for network in _CLOSED_V6)


def _shown(text: str) -> str:
    return repr(text[:_SHOWN])

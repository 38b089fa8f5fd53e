"""What an address says about who can reach it."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine can reach what listens at a host, by its name or number."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

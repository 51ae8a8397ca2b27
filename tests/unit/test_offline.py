"""No test reaches a network, so that what they hold is true without one."""

from __future__ import annotations

import socket
import urllib.request

import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "pypi.org", "2001:db8::1"])
def test_what_is_elsewhere_cannot_be_reached(host: str) -> None:
    with pytest.raises(OSError, match="no test may reach it"):
        socket.create_connection((host, 443), timeout=1)
    name = f"[{host}]" if ":" in host else host
    with pytest.raises(OSError, match="no test may reach it"):
        urllib.request.urlopen(f"https://{name}/", timeout=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_can_be_reached(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connected = socket.create_connection((host, server.getsockname()[1]), timeout=5)
        server.accept()[0].close()
        assert connected.recv(1) == b""
        connected.close()

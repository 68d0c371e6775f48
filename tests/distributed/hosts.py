"""Two hosts on one machine: network namespaces with an address each, joined by a cable of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

IP = shutil.which("ip") or ""


class NotPermittedError(Exception):
    """Why there can be no network namespaces here, in words."""


class Host(NamedTuple):
    """A network namespace: what goes before a command to run it there, its address and its interface."""

    command: list[str]
    address: str
    interface: str


@contextmanager
def two_hosts() -> Iterator[list[Host]]:
    """Two hosts that see nothing but each other.

    Raises:
        NotPermittedError: where `ip` is missing or may not make them.
    """
    if not IP:
        raise NotPermittedError("there is no program `ip` (package iproute2)")
    names = [f"lrl-{os.getpid()}-{number}" for number in (1, 2)]
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        cable = [f"lrl{os.getpid() % 10**6}{end}" for end in "ab"]  # at most 15 characters
        ends = zip(names, cable, strict=True)
        (first, near), (second, far) = ends
        _ip("link", "add", near, "netns", first, "type", "veth", "peer", "name", far, "netns", second)
        hosts = []
        for number, (name, interface) in enumerate(zip(names, cable, strict=True), start=1):
            address = f"10.213.0.{number}"
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
            for device in ("lo", interface):
                _ip("-n", name, "link", "set", device, "up")
            hosts.append(Host([IP, "netns", "exec", name], address, interface))
        yield hosts


def _ip(*arguments: str) -> None:
    done = subprocess.run([IP, *arguments], capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise NotPermittedError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a container, made as docker makes them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from fs.format.errors import UsageError, local_errors
from runner.state import ContainerRecord

_LOCAL_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def write_etc_files(
    record: ContainerRecord, hostname: str, own_network: bool, add_hosts: Iterable[str]
) -> dict[str, str]:
    """Write the files into the container's directory; {path in the container: file}.

    On the host's network they are the host's; without a network there is
    nobody but localhost, and no name server.
    """
    hosts = _LOCAL_HOSTS if own_network else _host_file("/etc/hosts", _LOCAL_HOSTS)
    contents = {
        "hosts": hosts + "".join(_host_line(text) for text in add_hosts),
        "hostname": hostname + "\n",
        "resolv.conf": "" if own_network else _host_file("/etc/resolv.conf", ""),
    }
    with local_errors(record.directory):
        for name, content in contents.items():
            with open(record.path(name), "w", errors="surrogateescape") as file:
                file.write(content)
            os.chmod(record.path(name), 0o644)
    return {f"/etc/{name}": record.path(name) for name in contents}


def _host_file(path: str, otherwise: str) -> str:
    try:
        with open(path, errors="surrogateescape") as file:
            content = file.read()
    except OSError:
        return otherwise
    return content if content.endswith("\n") or not content else content + "\n"


def _host_line(text: str) -> str:
    name, _, address = text.partition(":")
    if not name or not address or any(c.isspace() for c in text):
        raise UsageError(f"--add-host {text}: want NAME:ADDRESS")
    return f"{address}\t{name}\n"

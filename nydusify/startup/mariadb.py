"""MariaDB and MySQL: messages of the server, and what a new database is made of."""

from __future__ import annotations

from collections.abc import Sequence

from nydusify.startup.files import File
from nydusify.startup.programs import Start

_SHARES = ("/usr/share/mysql", "/usr/share/mariadb", "/usr/local/mysql/share")
_MESSAGES = ("english/errmsg.sys", "charsets/Index.xml")
_SCRIPT = 4 << 20


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Add the server's messages; of its installer also the server and its scripts."""
    for share in _SHARES:
        for name in _MESSAGES:
            start.wanted.add(start.files.file(f"{share}/{name}"), "mariadb")
    if program.name.endswith("install-db"):
        for name in ("my_print_defaults", "resolveip", "mariadbd"):
            start.want_command([name], "mariadb", depth + 1)
        for share in _SHARES:
            for name in start.files.names(share):
                file = start.files.file(f"{share}/{name}")
                if file and name.endswith(".sql") and file.size <= _SCRIPT:
                    start.wanted.add(file, "mariadb")

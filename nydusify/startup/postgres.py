"""PostgreSQL: what its server reads, and what making a new database reads."""

from __future__ import annotations

from collections.abc import Sequence

from nydusify.startup.files import File
from nydusify.startup.icu import collation_spans
from nydusify.startup.programs import Start

_SHARED = (".bki", ".sql", ".sample", ".txt")
_EXTENSIONS = ("dict_snowball.so", "plpgsql.so")
_SETTING = 2 << 20


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Of the files shared by its programs those that initdb executes; it also asks for locales."""
    home = program.directory.rpartition("/")[0]
    version = home.rpartition("/")[2]
    if program.name == "initdb":
        start.want_command(["postgres"], "initdb", depth + 1)
        start.want_command(["sh", "-c", "locale -a"], "initdb", depth + 1)
        start.wanted.add(start.files.file("/etc/locale.alias"), "initdb")
        _want_collations(start)
    for place in (f"/usr/share/postgresql/{version}", f"{home}/share/postgresql", f"{home}/share"):
        for name in start.files.names(place):
            file = start.files.file(f"{place}/{name}")
            if name.endswith(_SHARED) and file and file.size <= _SETTING:
                start.wanted.add(file, "initdb")
        start.wanted.add(start.files.file(f"{place}/timezonesets/Default"), "postgres")
        for name in start.files.names(f"{place}/extension"):
            if name.startswith("plpgsql"):
                start.wanted.add(start.files.file(f"{place}/extension/{name}"), "initdb")
    for name in _EXTENSIONS:
        if file := start.files.file(f"{home}/lib/{name}"):
            start.loader.want(file, "postgres")


def _want_collations(start: Start) -> None:
    """A new database has those of every language that ICU knows."""
    for file in [want.file for want in start.wanted if want.file.name.startswith("libicudata")]:
        start.wanted.add(file, "initdb", collation_spans(start.files, file))

"""PHP: its settings, and the extensions that they load."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nydusify.startup.files import File
from nydusify.startup.locale import want_locale
from nydusify.startup.programs import Start

_EXTENSION = re.compile(r"^\s*(?:zend_)?extension\s*=\s*\"?([\w./-]+)", re.MULTILINE)
_SETTING = 256 << 10


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Add php.ini, the files beside it, and the extensions with their libraries."""
    kind = "fpm" if "fpm" in program.name else "cgi" if "cgi" in program.name else "cli"
    want_settings(start, kind)
    want_locale(start, "C.utf8", ("LC_CTYPE",))
    for word in words:
        if not word.startswith("-"):
            start.wanted.add(start.files.file(start.absolute(word)), "script")
            return


def want_settings(start: Start, kind: str) -> None:
    """What PHP as `kind` (cli, fpm, cgi, apache2) reads before any script."""
    for place in _places(start, kind):
        for file in (
            start.files.file(f"{place}/php.ini"),
            *start.files.below(f"{place}/conf.d", 100),
        ):
            if file is None or file.size > _SETTING:
                continue
            start.wanted.add(file, "settings")
            for name in _EXTENSION.findall(start.files.text(file, _SETTING)):
                _want_extension(start, name)


def _places(start: Start, kind: str) -> list[str]:
    versions = [name for name in start.files.names("/etc/php") if name[:1].isdigit()]
    return [*(f"/etc/php/{version}/{kind}" for version in versions), "/usr/local/etc/php"]


def _want_extension(start: Start, name: str) -> None:
    stem = name.removesuffix(".so")
    places = [stem] if stem.startswith("/") else []
    for parent in ("/usr/lib/php", "/usr/local/lib/php/extensions"):
        places += [f"{parent}/{sub}/{stem}" for sub in start.files.names(parent)]
    for place in places:
        if file := start.files.file(f"{place}.so"):
            start.loader.want(file, "extension")
            return

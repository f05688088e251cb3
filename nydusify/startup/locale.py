"""The C library's locales: what a program that sets one reads."""

from __future__ import annotations

from collections.abc import Sequence

from nydusify.startup.programs import Start

PARTS = ("LC_CTYPE", "LC_COLLATE", "LC_NUMERIC", "LC_TIME", "LC_MONETARY", "LC_IDENTIFICATION",
         "LC_ADDRESS", "LC_MEASUREMENT", "LC_NAME", "LC_PAPER", "LC_TELEPHONE",
         "LC_MESSAGES/SYS_LC_MESSAGES")  # fmt: skip
_CONVERSIONS = "gconv/gconv-modules.cache"
_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib")


def want_locale(start: Start, name: str, parts: Sequence[str] = PARTS) -> None:
    """Parts of a locale by its directory's name, and the list of conversions if it has them."""
    found = [start.files.file(f"/usr/lib/locale/{name}/{part}") for part in parts]
    for file in found:
        start.wanted.add(file, "locale")
    if any(found):
        for parent in _LIBRARIES:
            start.wanted.add(start.files.file(f"{parent}/{_CONVERSIONS}"), "locale")


def want_environment(start: Start) -> None:
    """The locale that the environment asks for."""
    settings = (start.environment.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    language = next((each for each in settings if each), "C")
    if language not in ("C", "POSIX"):
        want_locale(start, language.replace("UTF-8", "utf8"))

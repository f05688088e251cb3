"""Apache's web server: the settings of the languages that are modules of it."""

from __future__ import annotations

from collections.abc import Sequence

from nydusify.startup import php
from nydusify.startup.files import File
from nydusify.startup.locale import want_locale
from nydusify.startup.programs import Start


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Its own settings and modules are wanted already; PHP's are added if it is one of them."""
    if any(want.file.name.startswith("libphp") for want in list(start.wanted)):
        php.want_settings(start, "apache2")
        want_locale(start, "C.utf8", ("LC_CTYPE",))

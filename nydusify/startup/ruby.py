"""Ruby: rubygems and the other gems that every start loads, and what a script requires."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nydusify.startup.files import File
from nydusify.startup.programs import Start

_SOURCE = 256 << 10
_MOST = 1000
_PRELUDE = ("enc/encdb", "enc/trans/transdb", "rubygems", "monitor", "error_highlight",
            "did_you_mean", "syntax_suggest/core_ext")  # fmt: skip
_REQUIRE = re.compile(r"^(\s*)require(_relative)?\s*\(?\s*['\"]([\w./-]+)['\"]", re.MULTILINE)
_ROOTS = ("/usr/local/lib/ruby", "/usr/lib/ruby", "/usr/lib/x86_64-linux-gnu/ruby",
          "/usr/lib/aarch64-linux-gnu/ruby", "/var/lib/gems")  # fmt: skip


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Add the prelude, and a script's requirements; one from standard input is not known."""
    ruby = _Ruby(start)
    for name in _PRELUDE:
        ruby.require(name)
    ruby.want_specifications()
    for word in words:
        if not word.startswith("-"):
            file = start.files.file(start.absolute(word))
            if file is not None:
                start.wanted.add(file, "script")
                ruby.scan(file)
            return


class _Ruby:
    def __init__(self, start: Start) -> None:
        self._start = start
        self._seen: set[str] = set()
        self._path = [path for root in _ROOTS for path in self._places(root)]

    def _places(self, root: str) -> list[str]:
        """$LOAD_PATH below a root, in its order; with each place its machine's directories."""
        files = self._start.files
        versions = [name for name in files.names(root) if name[:1].isdigit()]
        vendor = [name for name in ("site_ruby", "vendor_ruby") if files.find(f"{root}/{name}")]
        places = []
        for name in vendor:
            places += [f"{root}/{name}/{version}" for version in files.names(f"{root}/{name}")
                       if version[:1].isdigit()]  # fmt: skip
            places.append(f"{root}/{name}")
        places += [f"{root}/{version}" for version in versions]
        machines = [f"{place}/{name}" for place in places for name in files.names(place)
                    if "-linux" in name]  # fmt: skip
        return places + machines

    def want_specifications(self) -> None:
        """Those of the gems that come with Ruby, which rubygems reads."""
        for root in _ROOTS:
            for version in self._start.files.names(f"{root}/gems"):
                place = f"{root}/gems/{version}/specifications/default"
                for file in self._start.files.below(place, _MOST):
                    self._start.wanted.add(file, "gems")

    def require(self, name: str) -> None:
        if name in self._seen or len(self._seen) > _MOST:
            return
        self._seen.add(name)
        stem = name.removesuffix(".rb").removesuffix(".so")
        for directory in self._path:
            if file := self._start.files.file(f"{directory}/{stem}.rb"):
                if self._start.wanted.add(file, "require"):
                    self.scan(file)
                return
            if file := self._start.files.file(f"{directory}/{stem}.so"):
                self._start.loader.want(file, "require")
                return

    def scan(self, file: File) -> None:
        """What a file requires outside of its methods."""
        for indent, relative, name in _REQUIRE.findall(self._start.files.text(file, _SOURCE)):
            if len(indent) > 2:
                continue
            if relative:
                stem = name.removesuffix(".rb")
                found = self._start.files.file(f"{file.directory}/{stem}.rb")
                if found and self._start.wanted.add(found, "require"):
                    self.scan(found)
            else:
                self.require(name)

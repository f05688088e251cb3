"""Node: a script's modules by node's rules for node_modules and package.json."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from nydusify.startup.files import File
from nydusify.startup.programs import Start

_SOURCE = 1 << 20
_MOST = 3000
#: Parts of Node itself that Debian keeps outside of its program.
_OWN = ("cjs-module-lexer/lexer.js", "cjs-module-lexer/dist/lexer.js", "undici/undici-fetch.js",
        "acorn/dist/acorn.js", "acorn-walk/dist/walk.js")  # fmt: skip
_IMPORT = re.compile(
    r"""(?:\brequire\s*\(\s*|\bfrom\s+|^\s*import\s+)(['"])([^'"\n]{1,200})\1""", re.MULTILINE
)


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Follow the script; one from standard input is not known."""
    for name in _OWN:
        start.wanted.add(start.files.file(f"/usr/share/nodejs/{name}"), "node")
    for word in words:
        if not word.startswith("-"):
            seen: set[int] = set()
            for name in (word, f"{word}.js", f"{word}/index.js"):
                file = start.files.file(start.absolute(name))
                if file is not None:
                    _follow(start, file, seen)
                    break
            return


def _follow(start: Start, file: File, seen: set[int]) -> None:
    pending = [file]
    while pending and len(seen) < _MOST:
        current = pending.pop(0)
        if current.nid in seen:
            continue
        seen.add(current.nid)
        start.wanted.add(current, "require")
        if not current.name.endswith((".json", ".node")):
            for _, name in _IMPORT.findall(start.files.text(current, _SOURCE)):
                found = _resolve(start, name, current.directory)
                if found is not None:
                    pending.append(found)


def _resolve(start: Start, name: str, directory: str) -> File | None:
    if name.startswith(("./", "../", "/")):
        return _module(start, name if name.startswith("/") else f"{directory}/{name}")
    if name.startswith("node:"):
        return None
    while True:
        found = _module(start, f"{directory}/node_modules/{name}")
        if found is not None or directory in ("", "/"):
            return found or _module(start, f"/usr/share/nodejs/{name}")
        directory = directory.rpartition("/")[0]


def _module(start: Start, path: str) -> File | None:
    """A file, or the main file of a package."""
    for suffix in ("", ".js", ".json", ".node", ".mjs", ".cjs"):
        if file := start.files.file(path + suffix):
            return file
    description = start.files.file(f"{path}/package.json")
    if description is not None:
        start.wanted.add(description, "require")
        try:
            main = json.loads(start.files.text(description, _SOURCE)).get("main")
        except (ValueError, AttributeError, RecursionError):
            main = None
        if isinstance(main, str):
            for suffix in ("", ".js", "/index.js"):
                if file := start.files.file(f"{path}/{main}{suffix}"):
                    return file
    return start.files.file(f"{path}/index.js")

"""The libraries that a program is loaded with, by the search rules of glibc's and musl's loaders.

For each DT_NEEDED name: DT_RPATH of the loading file and of those that loaded it (unless there
is a DT_RUNPATH), LD_LIBRARY_PATH, DT_RUNPATH, /etc/ld.so.cache, then the default directories.
A cache that is not there is made up for by the directories of /etc/ld.so.conf.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import cached_property

from nydusify.startup.elf import Elf, read_elf
from nydusify.startup.files import File, ImageFiles
from nydusify.startup.wanted import Span, Wanted

#: Larger ELF files are not wanted as a whole: of these only what the loader itself reads.
_LARGE = 64 << 20
#: Of ELF files with next to no code, which hold tables, only the beginning is sure to be read.
_SMALL = 2 << 20
_LITTLE_CODE = 64 << 10
#: Of a large file's segment without code, at most so much (bytes).
_SEGMENT = 4 << 20

_CACHE = "/etc/ld.so.cache"
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_CACHE_LIMIT = 4 << 20
_CONF_DEPTH = 4
_MOST = 1000
#: By e_machine of elf(5).
_TRIPLETS = {62: "x86_64-linux-gnu", 183: "aarch64-linux-gnu"}


class Loader:
    """Finds libraries in one image. `library_path` is the value of LD_LIBRARY_PATH."""

    def __init__(self, files: ImageFiles, wanted: Wanted, library_path: str = "") -> None:
        self._files = files
        self._wanted = wanted
        self._library_path = [path for path in library_path.split(":") if path]
        self._done: set[int] = set()

    def want(self, file: File, why: str) -> Elf | None:
        """Want a file and, if it is ELF, its interpreter and all its libraries; else None."""
        elf = read_elf(self._files, file)
        if elf is None:
            self._wanted.add(file, why)
            return None
        if file.nid in self._done:
            return elf
        self._done.add(file.nid)
        interpreter = self._files.file(elf.interpreter) if elf.interpreter else None
        self._want_parts(file, elf, why)
        if interpreter:
            self._wanted.add(interpreter, why)
            self._wanted.add(self._files.file(_CACHE), why)
        self._want_needed(file, elf, why)
        return elf

    def _want_needed(self, file: File, elf: Elf, why: str) -> None:
        """Breadth first, as the loader maps them."""
        queue: list[tuple[File, Elf, tuple[str, ...]]] = [(file, elf, ())]
        while queue and len(self._done) < _MOST:
            loading, its, inherited = queue.pop(0)
            own = self._expanded(its.paths, loading)
            before = (own if its.inherited else ()) + inherited
            if its.paths and not its.inherited:
                before = ()
            for name in its.needed:
                found = self._find(name, before, () if its.inherited else own, its)
                if found is None or found[0].nid in self._done:
                    continue
                self._done.add(found[0].nid)
                self._want_parts(*found, why)
                queue.append((*found, before))

    def _want_parts(self, file: File, elf: Elf, why: str) -> None:
        is_table = elf.code < _LITTLE_CODE and file.size > _SMALL
        if file.size <= _LARGE and not is_table:
            self._wanted.add(file, why)
            return
        spans: list[Span] = [(0, 4096)]
        if is_table:
            self._wanted.add(file, why, spans)
            return
        spans += [(offset, min(length, _SEGMENT)) for offset, length in elf.spans]
        self._wanted.add(file, why, spans)

    def _find(
        self, name: str, before: Sequence[str], after: Sequence[str], loading: Elf
    ) -> tuple[File, Elf] | None:
        if "/" in name:
            return self._fitting(name, loading)
        for directory in (*before, *self._library_path, *after):
            if found := self._fitting(f"{directory}/{name}", loading):
                return found
        for path in self._cache.get(name, ()):
            if found := self._fitting(path, loading):
                return found
        for directory in self._default_directories(loading):
            if found := self._fitting(f"{directory}/{name}", loading):
                return found
        return None

    def _fitting(self, path: str, loading: Elf) -> tuple[File, Elf] | None:
        """The library there, unless it is for another machine."""
        file = self._files.file(path)
        elf = read_elf(self._files, file) if file else None
        return (file, elf) if file and elf and elf.kind == loading.kind else None

    def _expanded(self, paths: Sequence[str], file: File) -> tuple[str, ...]:
        """With $ORIGIN and $LIB in place."""
        expanded = []
        for path in paths:
            for name, value in (("ORIGIN", file.directory), ("LIB", "lib")):
                path = path.replace(f"${{{name}}}", value).replace(f"${name}", value)
            if path.startswith("/"):
                expanded.append(path)
        return tuple(expanded)

    def _default_directories(self, loading: Elf) -> list[str]:
        triplet = _TRIPLETS.get(loading.kind[1], "")
        places = [f"/lib/{triplet}", f"/usr/lib/{triplet}"] if triplet else []
        return [*self._configured, *places, "/lib64", "/usr/lib64", "/lib", "/usr/local/lib",
                "/usr/lib"]  # fmt: skip

    @cached_property
    def _cache(self) -> Mapping[str, list[str]]:
        file = self._files.file(_CACHE)
        return parse_cache(self._files.read(file, 0, _CACHE_LIMIT)) if file else {}

    @cached_property
    def _configured(self) -> list[str]:
        """The directories of /etc/ld.so.conf, if they have not been put into a cache."""
        return [] if self._cache else list(self._conf("/etc/ld.so.conf", 0))

    def _conf(self, path: str, depth: int) -> list[str]:
        file = self._files.file(path)
        if file is None or depth > _CONF_DEPTH:
            return []
        directories = []
        for line in self._files.text(file, 64 << 10).splitlines():
            words = line.partition("#")[0].split()
            if words[:1] == ["include"]:
                for pattern in words[1:]:
                    directories += self._included(pattern, depth)
            elif words:
                directories.append(words[0])
        return directories

    def _included(self, pattern: str, depth: int) -> list[str]:
        from fnmatch import fnmatch

        directory, _, name = pattern.rpartition("/")
        if not directory.startswith("/"):
            directory = f"/etc/{directory}".rstrip("/")
        found = [each for each in self._files.names(directory) if fnmatch(each, name)]
        return [line for each in found for line in self._conf(f"{directory}/{each}", depth + 1)]


def parse_cache(data: bytes) -> dict[str, list[str]]:
    """Library name → paths, in the cache's order; nothing if it is damaged or of an old kind."""
    start = data.find(_CACHE_MAGIC)
    if start < 0:
        return {}
    try:
        (count,) = struct.unpack_from("<I", data, start + 20)
        found: dict[str, list[str]] = {}
        for number in range(min(count, len(data) // 24)):
            _, key, value = struct.unpack_from("<iII", data, start + 48 + 24 * number)
            name, path = _string(data, start + key), _string(data, start + value)
            found.setdefault(name, []).append(path)
    except (struct.error, ValueError):
        return {}
    return found


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode("utf-8", "surrogateescape")

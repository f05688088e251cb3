"""Java: libraries and archives that every virtual machine reads, of the large ones only parts.

Of a program in archives, such as a server, also those, and what they name of the runtime.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from nydusify.startup.files import File
from nydusify.startup.jimage import index_span, package_spans
from nydusify.startup.programs import Start

#: Relative to the home of the runtime; libraries in the order in which they are loaded.
_LIBRARIES = ("lib/libjli.so", "lib/server/libjvm.so", "lib/libjava.so", "lib/libjimage.so",
              "lib/libjsvml.so", "lib/libnio.so", "lib/libnet.so", "lib/libzip.so")  # fmt: skip
_FILES = ("lib/jvm.cfg", "release", "conf/security/java.security")
#: What a program in archives has loaded soon, too.
_OF_PROGRAMS = ("lib/libmanagement.so", "lib/libmanagement_ext.so", "lib/tzdb.dat")
_MODULES = "lib/modules"
_ARCHIVE = "lib/server/classes.jsa"
#: Modules that programs in archives read most of.
_ALWAYS = (b"java.base", b"java.logging")
#: Where a program keeps its archives and settings, below its home.
_PLACES = ("bin", "lib")
_SETTINGS, _SETTING = "conf", 256 << 10
_HOME = re.compile(r"[A-Z]\w*_(?:HOME|BASE)")
#: Larger archives by their directory only; of all of them so much is unpacked to be looked at.
_LARGE, _LOOKED_AT, _CLASS = 8 << 20, 12 << 20, 256 << 10
_NAMES = re.compile(rb"(?:javax?|jdk|org/w3c/dom|org/xml/sax)/[a-z0-9/]*(?=/[A-Z])")
_MOST = 200
_MANIFEST = "META-INF/MANIFEST.MF"
_BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, EOFError,
                RuntimeError, OSError, KeyError)  # fmt: skip


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Add the virtual machine, the index of its modules, and the program's archives."""
    home = program.directory.rpartition("/")[0]
    for name in _LIBRARIES:
        if library := start.files.file(f"{home}/{name}"):
            start.loader.want(library, "java")
    for name in _FILES:
        start.wanted.add(start.files.file(f"{home}/{name}"), "java")
    start.wanted.add(start.files.file(f"{home}/{_ARCHIVE}"), "java")
    archives = list(_want_class_path(start, list(words)))
    archives += _want_homes(start, home)
    if modules := start.files.file(f"{home}/{_MODULES}"):
        start.wanted.add(modules, "java", [index_span(start.files, modules)])
        if archives:
            for name in _OF_PROGRAMS:
                start.wanted.add(start.files.file(f"{home}/{name}"), "java")
            packages = _named_packages(start, archives)
            spans = package_spans(start.files, modules, packages, _ALWAYS)
            start.wanted.add(modules, "java", spans)


def _want_class_path(start: Start, words: list[str]) -> Iterator[File]:
    """The files of the class path; yields those that are archives."""
    while words:
        word = words.pop(0)
        if word in ("-cp", "-classpath", "--class-path", "-jar") and words:
            for place in words.pop(0).split(":"):
                for file in start.files.below(start.absolute(place.rstrip("*")), _MOST):
                    yield from _wanted(start, file)


def _want_homes(start: Start, runtime: str) -> Iterator[File]:
    """Archives and settings of the program whose scripts were followed, or that variables name."""
    scripts = [want.file for want in start.wanted if want.why in ("entry point", "script")]
    homes = [each.directory.rpartition("/")[0] for each in scripts if each.name.endswith(".sh")]
    homes += [value for name, value in start.environment.items() if _HOME.fullmatch(name)]
    for home in dict.fromkeys(homes):
        if not home.startswith("/") or home == runtime:
            continue
        for place in _PLACES:
            for name in start.files.names(f"{home}/{place}"):
                if name.endswith(".jar") and (file := start.files.file(f"{home}/{place}/{name}")):
                    yield from _wanted(start, file)
        for file in start.files.below(f"{home}/{_SETTINGS}", _MOST):
            if file.size <= _SETTING:
                start.wanted.add(file, "settings")


def _wanted(start: Start, file: File) -> Iterator[File]:
    """Adds a file of the class path; yields it if it is an archive."""
    tail = (max(0, file.size - (256 << 10)), min(file.size, 256 << 10))
    start.wanted.add(file, "class path", None if file.size <= _LARGE else [tail])
    if file.name.endswith(".jar"):
        yield file


def _named_packages(start: Start, archives: Sequence[File]) -> set[bytes]:
    """Packages of the runtime that classes in archives name; adds archives that these name."""
    found: set[bytes] = set()
    pending, left, seen = list(archives), _LOOKED_AT, set[int]()
    while pending:
        file = pending.pop(0)
        if file.size > _LARGE or file.nid in seen:
            continue
        seen.add(file.nid)
        try:
            with zipfile.ZipFile(io.BytesIO(start.files.read(file))) as archive:
                for path in _class_path(archive):
                    if named := start.files.file(f"{file.directory}/{path}"):
                        pending += _wanted(start, named)
                for entry in archive.infolist():
                    if entry.filename.endswith(".class") and entry.file_size <= min(left, _CLASS):
                        left -= entry.file_size
                        found.update(_NAMES.findall(archive.read(entry)))
        except _BAD_ARCHIVE:
            continue
    return found


def _class_path(archive: zipfile.ZipFile) -> list[str]:
    """What an archive's manifest adds to the class path, relative to the archive."""
    if _MANIFEST not in archive.namelist() or archive.getinfo(_MANIFEST).file_size > _CLASS:
        return []
    lines = archive.read(_MANIFEST).decode("utf-8", "replace").replace("\r\n", "\n")
    lines = lines.replace("\n ", "")
    paths = [line[11:].split() for line in lines.splitlines() if line.startswith("Class-Path:")]
    return [path for each in paths for path in each if path.endswith(".jar")]

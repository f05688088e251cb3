"""Java: libraries and archives that every virtual machine reads, of the large ones only parts."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from nydusify.startup.files import File
from nydusify.startup.programs import Start

#: Relative to the home of the runtime; libraries in the order in which they are loaded.
_LIBRARIES = ("lib/libjli.so", "lib/server/libjvm.so", "lib/libjava.so", "lib/libjimage.so",
              "lib/libjsvml.so", "lib/libnio.so", "lib/libnet.so", "lib/libzip.so")  # fmt: skip
_FILES = ("lib/jvm.cfg", "release", "conf/security/java.security")
_MODULES = "lib/modules"
_ARCHIVE = "lib/server/classes.jsa"
# magic, version, flags, number of resources, table length, size of locations, of strings
_IMAGE = struct.Struct("<7I")
_IMAGE_MAGIC = 0xCAFEDADA
_INDEX = 8 << 20


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Add the virtual machine, the index of its modules, and the class path's archives' ends."""
    home = program.directory.rpartition("/")[0]
    for name in _LIBRARIES:
        if library := start.files.file(f"{home}/{name}"):
            start.loader.want(library, "java")
    for name in _FILES:
        start.wanted.add(start.files.file(f"{home}/{name}"), "java")
    start.wanted.add(start.files.file(f"{home}/{_ARCHIVE}"), "java")
    if modules := start.files.file(f"{home}/{_MODULES}"):
        start.wanted.add(modules, "java", [(0, _index_size(start, modules))])
    _want_class_path(start, list(words))


def _index_size(start: Start, modules: File) -> int:
    """Bytes of the header, the tables and the names in front of the classes."""
    head = start.files.read(modules, 0, _IMAGE.size)
    if len(head) < _IMAGE.size:
        return modules.size
    magic, _, _, _, length, locations, strings = _IMAGE.unpack(head)
    if magic != _IMAGE_MAGIC:
        return min(modules.size, 4096)
    return min(modules.size, _INDEX, int(_IMAGE.size + 8 * length + locations + strings))


def _want_class_path(start: Start, words: list[str]) -> None:
    """Small archives and class files; of large ones the directory at their end."""
    while words:
        word = words.pop(0)
        if word in ("-cp", "-classpath", "--class-path", "-jar") and words:
            for place in words.pop(0).split(":"):
                for file in start.files.below(start.absolute(place.rstrip("*")), 200):
                    tail = (max(0, file.size - (256 << 10)), min(file.size, 256 << 10))
                    small = file.size <= 1 << 20
                    start.wanted.add(file, "class path", None if small else [tail])

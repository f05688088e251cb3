"""A directory as the layer that it is to those below: overlayfs's upper directory, or OCI's marks.

What hides parts of the layers below (a character device 0:0, an opaque directory; or names
that begin with `.wh.`) is no entry: it is noted, to be put into the `Layer` afterwards.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from fs.format.errors import FormatError
from fs.tar.entry import HARD_LINK, Entry
from nydusify.layers.rootfs import RootfsEntries

SPECS = ("overlayfs", "oci", "none")
_PREFIXES = ("trusted.overlay.", "user.overlay.")
#: With these, contents or names of lower layers show through, which no layer can say.
_SEE_THROUGH = ("redirect", "metacopy")
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


class UpperEntries:
    """As nydusify.layers.sources.Entries. `spec` says how lower names are hidden (one of SPECS).

    `whiteouts` and `opaque` are complete once all entries were read. Paths in `without` are left
    out with all below them.
    """

    def __init__(
        self,
        root: Path,
        spec: str,
        advance: Callable[[int], None],
        without: Collection[bytes] = (),
    ) -> None:
        self.whiteouts: set[bytes] = set()
        self.opaque: list[bytes] = []
        self._root = os.fsencode(root)
        self._spec = spec
        self._entries = RootfsEntries(root, advance, without)
        self.read = self._entries.read

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._entries:
            if self._spec == "overlayfs" and self._is_overlay_mark(entry):
                continue
            if self._spec == "oci" and self._is_oci_mark(entry):
                continue
            yield entry

    def _is_overlay_mark(self, entry: Entry) -> bool:
        if entry.kind == HARD_LINK and entry.target in self.whiteouts:
            self.whiteouts.add(entry.path)  # the kernel links them to save inodes
            return True
        if entry.kind == stat.S_IFCHR and entry.rdev == 0:
            self.whiteouts.add(entry.path)
            return True
        if entry.kind in (stat.S_IFDIR, stat.S_IFREG):
            self._read_marks(entry)
        return False

    def _read_marks(self, entry: Entry) -> None:
        for key, value in self._entries.xattrs.items():
            name = os.fsdecode(key)
            for prefix in _PREFIXES:
                if not name.startswith(prefix):
                    continue
                mark = name[len(prefix) :]
                if mark in _SEE_THROUGH:
                    raise FormatError(
                        f"has the attribute {name}: overlayfs was mounted with {mark}, whose "
                        "layers are not whole",
                        os.fsdecode(os.path.join(self._root, entry.path)),
                    )
                if mark == "opaque" and value == b"y":
                    self.opaque.append(entry.path)
        entry.xattrs = {
            name: value
            for name, value in entry.xattrs.items()
            if not os.fsdecode(name).startswith(_PREFIXES)
        }

    def _is_oci_mark(self, entry: Entry) -> bool:
        parent, _, name = entry.path.rpartition(b"/")
        if not name.startswith(_WHITEOUT):
            return False
        if name == _OPAQUE:
            self.opaque.append(parent)
        else:
            hidden = name[len(_WHITEOUT) :]
            self.whiteouts.add(parent + b"/" + hidden if parent else hidden)
        return True

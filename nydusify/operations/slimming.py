"""An image with only the files that a traced run has read, and what must not be missing.

Kept are, besides what was read: directories, devices, empty files; accounts, certificates,
name service and loader configuration, licences and package lists (`ALWAYS`); sources beside
their compiled Python files, without which Python does not look at those; every name of a
file that is kept; links that lead to something kept, or nowhere in the image; and what the
user names. A run that reads other files than the traced one did may find them missing.
Of a trace of the `erofs` transport more is kept, as the kernel reads beyond files there.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import Any

from fs.format.bootstrap import Inode
from fs.format.errors import FormatError, UsageError
from fs.format.walk import paths
from fs.image.contents import Contents
from fs.registry.store import Image, StoreOptions, open_writer
from nydusify.images.opened import ImagePlace, open_image
from nydusify.images.touched import touched_files
from nydusify.layers.entries import TreeEntries
from nydusify.operations.conversion import convert
from nydusify.options import ConvertOptions
from nydusify.outputs.plain import make_layer, publish_plain
from nydusify.report import Progress, Report
from nydusify.workplace import workplace

#: Patterns of what is kept though nobody read it; a directory stands for all below it.
ALWAYS = (
    "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid",
    "/etc/nsswitch.conf", "/etc/host.conf", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf",
    "/etc/services", "/etc/protocols", "/etc/localtime", "/etc/timezone",
    "/etc/os-release", "/usr/lib/os-release", "/etc/*-release", "/etc/debian_version",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld-musl-*.path",
    "/etc/ssl", "/etc/pki", "/etc/ca-certificates*", "/usr/share/ca-certificates",
    "/usr/lib/ssl", "/usr/local/share/ca-certificates",
    "/usr/share/doc/*/copyright", "/usr/share/licenses", "/usr/share/common-licenses",
    "/LICENSE*", "/COPYING*", "*.dist-info/LICENSE*", "*.dist-info/METADATA",
    "*.dist-info/licenses",
    "/var/lib/dpkg/status", "/var/lib/dpkg/status.d", "/var/lib/rpm", "/usr/lib/sysimage/rpm",
    "*/apk/db/installed",
    "python3*/os.py",  # by which Python knows its library; it does not read it
)  # fmt: skip
_COMPILED = re.compile(rb"(.*/|)__pycache__/([^/]+)\.[^./]+\.(?:opt-[12]\.)?pyc")
_MAX_LINKS = 40
_CREATED_BY = "nydusify slim"


@dataclass(frozen=True)
class Slimmed:
    """Sizes of files in bytes; `left` is every path that was left out, largest first.

    `stored_*` is what the images take in a registry.
    """

    source: str
    target: str
    target_digest: str
    kept_files: int
    kept_size: int
    left_files: int
    left_size: int
    stored_before: int
    stored_after: int
    seconds: float
    left: list[tuple[str, int]] = field(default_factory=list)


def slim(
    source: ImagePlace,
    target: str,
    target_store: StoreOptions,
    trace: str,
    progress: Progress,
    *,
    keep: Sequence[str] = (),
    plain: bool = False,
    work_dir: Path | None = None,
) -> Slimmed:
    """Publish the slim image at `target`: a Nydus image, or an ordinary one if `plain`."""
    started = time.monotonic()
    if source.is_file:
        raise UsageError(f"{source.source}: a bare bootstrap; name the whole image")
    with (
        workplace(work_dir) as work,
        open_image(source, work) as opened,
        opened.contents(work) as contents,
    ):
        assert opened.image is not None
        progress.step("choosing", 0)
        choice = Choice(contents, touched_files(opened.bootstrap, trace), (*ALWAYS, *keep))
        layer_target = target if plain else f"oci:{work}/slim:plain"
        with closing(open_writer(layer_target, target_store)) as writer:
            writer.check()
            progress.step("packing", choice.kept_size)
            entries = TreeEntries(contents, progress.advance, choice.kept.__contains__)
            layer = make_layer(entries, work / "layer.tar", "gzip" if plain else "none")
            document, annotations = opened.image.config.document, opened.image.manifest.annotations
            manifest, size = publish_plain(
                [layer], document, annotations, writer, progress, _CREATED_BY
            )
        digest, name = manifest.digest, writer.name
        if not plain:
            report = _convert(layer_target, target, target_store, opened.bootstrap.chunk_size,
                              work, progress)  # fmt: skip
            digest, name, size = report.target_digest, report.target, report.target_size
        return Slimmed(
            opened.name,
            name,
            digest,
            choice.kept_files,
            choice.kept_size,
            len(choice.left),
            sum(choice.left.values()),
            _size(opened.image),
            size,
            round(time.monotonic() - started, 3),
            sorted(
                ((os.fsdecode(b"/" + path), size) for path, size in choice.left.items()),
                key=lambda each: (-each[1], each[0]),
            ),
        )


def _size(image: Image) -> int:
    """All that the image refers to."""
    layers = sum(layer.size for layer in image.manifest.layers)
    return len(image.manifest.raw) + image.manifest.config.size + layers


def _convert(
    source: str, target: str, store: StoreOptions, chunk_size: int, work: Path, progress: Progress
) -> Report:
    options = ConvertOptions(
        source, target, chunk_size=chunk_size, work_dir=work / "convert", target_store=store
    )
    report = convert(options, progress)
    if not isinstance(report, Report):
        raise FormatError("is an index, where one image was made", source)
    return report


class Choice:
    """Which paths of an image are kept. `left` are the others with their sizes."""

    def __init__(self, contents: Contents, touched: set[bytes], patterns: Sequence[str]) -> None:
        self._all = dict(paths(contents.bootstrap))
        self._contents = contents
        wanted = {self._all[path].nid for path in touched if path in self._all}
        wanted |= self._nids(self._matching(patterns))
        wanted |= self._nids(self._sources_of_compiled(wanted))
        self.kept = {
            path for path, inode in self._all.items() if inode.nid in wanted or _is_free(inode)
        }
        self._add_links()
        self.left = {
            path: inode.size if stat.S_ISREG(inode.mode) else 0
            for path, inode in self._all.items()
            if path not in self.kept
        }
        files = {
            inode.nid: inode.size
            for path, inode in self._all.items()
            if path in self.kept and stat.S_ISREG(inode.mode)
        }
        self.kept_files, self.kept_size = len(files), sum(files.values())

    def _nids(self, found: Iterable[bytes]) -> set[int]:
        return {self._all[path].nid for path in found if path in self._all}

    def _matching(self, patterns: Sequence[str]) -> list[bytes]:
        """Paths that a pattern names, or that lie below a directory that one names."""
        rules = "|".join(f"(?:{translate(_rooted(each))[:-2]})" for each in patterns)
        rule = re.compile(os.fsencode(f"(?:{rules})(?:/.*)?"), re.DOTALL)
        return [path for path in self._all if rule.fullmatch(b"/" + path)]

    def _sources_of_compiled(self, wanted: set[int]) -> list[bytes]:
        """The .py files beside compiled ones that are wanted: Python looks for them first."""
        found = []
        for path, inode in self._all.items():
            match = _COMPILED.fullmatch(path) if inode.nid in wanted else None
            if match:
                found.append(match[1] + match[2] + b".py")
        return found

    def _add_links(self) -> None:
        """Links of which the end is kept, or is not in the image at all."""
        for path, inode in self._all.items():
            if stat.S_ISLNK(inode.mode) and path not in self.kept:
                chain = self._follow(path)
                if chain is None or chain[-1] not in self._all or chain[-1] in self.kept:
                    self.kept.add(path)
                    self.kept.update(step for step in chain or () if step in self._all)

    def _follow(self, path: bytes) -> list[bytes] | None:
        """Where a link leads, each step's real path; None for a loop."""
        chain: list[bytes] = []
        for _ in range(_MAX_LINKS):
            inode = self._all.get(path)
            if inode is None or not stat.S_ISLNK(inode.mode):
                return chain or [path]
            target = self._contents.bootstrap.readlink(inode.nid)
            path = self._real(path.rpartition(b"/")[0], target)
            chain.append(path)
        return None

    def _real(self, directory: bytes, target: bytes) -> bytes:
        """The path that `target` means in `directory`, links on the way (not the last) followed."""
        todo = list(reversed(target.split(b"/")))
        real = [] if target.startswith(b"/") else [name for name in directory.split(b"/") if name]
        for _ in range(4096):
            if not todo:
                break
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del real[-1:]
                continue
            path = b"/".join([*real, name])
            inode = self._all.get(path)
            if inode is not None and stat.S_ISLNK(inode.mode) and any(todo):
                onward = self._contents.bootstrap.readlink(inode.nid)
                if onward.startswith(b"/"):
                    real.clear()
                todo += reversed(onward.split(b"/"))
                continue
            real.append(name)
        return b"/".join(real)


def _is_free(inode: Inode) -> bool:
    """What costs next to nothing and may be looked for: all but links and files with content."""
    if stat.S_ISREG(inode.mode):
        return inode.size == 0
    return not stat.S_ISLNK(inode.mode)


def _rooted(pattern: str) -> str:
    """A pattern without a leading slash is found at any depth."""
    return pattern.rstrip("/") if pattern.startswith("/") else f"*/{pattern.rstrip('/')}"


def by_directory(left: Iterable[tuple[str, int]], depth: int = 2) -> Mapping[str, Any]:
    """What was left out, summed by its first directories: count and size."""
    sums: dict[str, list[int]] = {}
    for path, size in left:
        names = path.split("/")[1:-1][:depth]
        entry = sums.setdefault("/" + "/".join(names), [0, 0])
        entry[0] += 1
        entry[1] += size
    return {
        name: {"files": count, "size": size}
        for name, (count, size) in sorted(sums.items(), key=lambda each: -each[1][1])
    }

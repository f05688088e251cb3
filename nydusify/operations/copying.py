"""An image, or all images under a name, from one place to another, unchanged.

Everything is read verified and written verified, what the target has already is not sent, and
the tag comes last: a copy that broke off goes on where it was when it is begun again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

from fs.format.errors import FormatError, NotFoundError, UsageError
from fs.registry.copying import copy_below, copy_blob, copy_manifest, referred_layers
from fs.registry.descriptor import Descriptor
from fs.registry.digest import digest_of
from fs.registry.documents import encode_json, index_document
from fs.registry.manifest import Index, Manifest, parse_manifest
from fs.registry.mediatypes import OCI_INDEX, is_foreign
from fs.registry.platform import Platform
from fs.registry.resolution import MAX_NESTING
from fs.registry.store import ImageReader, ImageWriter, StoreOptions, open_reader, open_writer
from nydusify.report import Progress

#: Blobs on their way at a time.
_AT_ONCE = 4


@dataclass(frozen=True)
class Copied:
    """`sent` are bytes that really went over; `blobs` and `manifests` what the target has now."""

    source: str
    target: str
    target_digest: str
    manifests: int
    blobs: int
    size: int
    sent: int
    referrers: int


class _Counting:
    """The progress of several threads, and the sum of it."""

    def __init__(self, progress: Progress) -> None:
        self.sent = 0
        self._progress = progress
        self._lock = threading.Lock()

    def advance(self, size: int) -> None:
        with self._lock:
            self.sent += size


def copy(
    source: str,
    target: str,
    source_store: StoreOptions,
    target_store: StoreOptions,
    progress: Progress,
    *,
    platforms: Sequence[Platform] | None = None,
    referrers: bool = False,
) -> Copied:
    """Copy what `source` names; of an index only `platforms`, if they are given.

    With `referrers`, also the manifests that say they refer to what is copied.
    """
    with (
        closing(open_reader(source, source_store)) as reader,
        closing(open_writer(target, target_store)) as writer,
    ):
        writer.check()
        return _Copy(reader, writer, progress).run(platforms, referrers=referrers)


class _Copy:
    def __init__(self, reader: ImageReader, writer: ImageWriter, progress: Progress) -> None:
        self._reader = reader
        self._writer = writer
        self._progress = progress
        self._counting = _Counting(progress)
        self._manifests: dict[str, Manifest] = {}
        self._blobs: dict[str, Descriptor] = {}
        self._seen: set[str] = set()

    def run(self, platforms: Sequence[Platform] | None, *, referrers: bool) -> Copied:
        top = self._top(platforms)
        self._gather(top)
        self._copy_blobs()
        if isinstance(top, Index):
            copy_below(top, self._reader, self._writer)
        found = self._copy_referrers(top) if referrers else 0
        manifest = self._writer.push_manifest(top.raw, top.media_type, tag=True)
        return Copied(
            self._reader.name,
            self._writer.name,
            manifest.digest,
            len(self._manifests),
            len(self._blobs),
            sum(blob.size for blob in self._blobs.values()),
            self._counting.sent,
            found,
        )

    def _top(self, platforms: Sequence[Platform] | None) -> Manifest | Index:
        """What will have the target's name: the source's own document where all is wanted."""
        index = self._reader.index()
        if index is None:
            one = platforms[0] if platforms else None
            return self._reader.resolve(one).manifest
        if platforms is None:
            return index if index.raw else _index(index.manifests)
        chosen = []
        for wanted in platforms:
            ranked = [
                (rank, entry)
                for entry in index.manifests
                if entry.platform and (rank := wanted.rank(entry.platform)) is not None
            ]
            if not ranked:
                index.select(wanted, self._reader.name)  # says what there is
                raise NotFoundError(f"{self._reader.name}: no image for {wanted}")
            best = min(rank for rank, _ in ranked)
            chosen += [entry for rank, entry in ranked if rank == best and entry not in chosen]
        if len(chosen) == 1:
            return self._document(chosen[0])
        return _index(chosen)

    def _document(self, entry: Descriptor) -> Manifest | Index:
        where = f"{self._reader.name}: {entry.digest}"
        return parse_manifest(self._reader.read_manifest(entry), entry.media_type, where)

    def _gather(self, document: Manifest | Index, depth: int = MAX_NESTING) -> None:
        """Note all blobs below, foreign ones apart: those stay where their URLs point."""
        if isinstance(document, Index):
            if not depth:
                raise FormatError("indexes are nested too deep", self._reader.name)
            for entry in document.manifests:
                if entry.digest not in self._seen:
                    self._seen.add(entry.digest)
                    self._gather(self._document(entry), depth - 1)
            return
        self._manifests[document.digest] = document
        for blob in (*document.layers, document.config):
            if not (blob.urls and is_foreign(blob.media_type)):
                self._blobs[blob.digest] = blob
        for layer in referred_layers(document.layers, self._reader):
            self._blobs[layer.digest] = layer

    def _copy_blobs(self) -> None:
        self._progress.step("copying", sum(blob.size for blob in self._blobs.values()))
        with ThreadPoolExecutor(_AT_ONCE, "copy") as pool:
            jobs = [
                (blob, pool.submit(copy_blob, blob, self._reader, self._writer,
                                   self._counting.advance))
                for blob in sorted(self._blobs.values(), key=lambda each: -each.size)
            ]  # fmt: skip
            try:
                for blob, job in jobs:
                    job.result()
                    self._progress.advance(blob.size)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _copy_referrers(self, top: Manifest | Index) -> int:
        """Those of the top document and of every manifest below it."""
        found = 0
        for digest in dict.fromkeys((top.digest, *self._manifests)):
            for entry in self._reader.referrers(digest):
                document = self._document(entry)
                subject = document.subject if isinstance(document, Manifest) else None
                if subject is None or subject.digest != digest:
                    continue  # the list said so, the document does not
                copy_manifest(entry, self._reader, self._writer, self._counting.advance)
                found += 1
        return found


def _index(entries: Sequence[Descriptor]) -> Index:
    raw = encode_json(index_document(map(_bare, entries)))
    return Index(OCI_INDEX, list(entries), {}, raw, digest_of(raw))


def _bare(entry: Descriptor) -> Descriptor:
    """Without the names that index.json of a layout gives it."""
    kept = {
        key: value
        for key, value in entry.annotations.items()
        if key not in ("org.opencontainers.image.ref.name", "io.containerd.image.name")
    }
    return replace(entry, annotations=kept)


def place_of(text: str, *, target: bool) -> str:
    """nydusify's file:// as a place: an archive."""
    if not text.startswith("file://"):
        return text
    path = text.removeprefix("file://")
    if not path:
        raise UsageError(f"{text}: file:// lacks a path")
    if target:
        return f"docker-archive:{path}"
    import tarfile

    from fs.format.errors import FormatError, local_errors

    try:
        with local_errors(path), tarfile.open(path) as archive:
            names = set(archive.getnames())
    except tarfile.TarError:
        raise FormatError("not a tar file", path) from None
    return f"{'oci' if 'oci-layout' in names else 'docker'}-archive:{path}"

"""What SOURCE of a mount means: a bootstrap on local disk, and where its blobs come from.

    REFERENCE, oci:DIR[:TAG], …    an image; its bootstrap layer is fetched once a digest
    a file                         a bootstrap; its blobs are in `blob_dir`, at
                                   `backend_url`, or where `backend_config` says

The cache directory:

    bootstraps/<layer digest>/image.boot      whole and verified, or not there
    bootstraps/<layer digest>/<id>.blob.meta
    images/<hash>.json                        see fs/image/record.py
    blobs/                                    see fs/cache/files.py
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fs.backend.blobs import BlobBackend
from fs.backend.config import load_config
from fs.backend.configured import open_configured
from fs.backend.image import ImageBackend
from fs.format.errors import (
    Failure,
    FormatError,
    PlainImageError,
    UnreachableError,
    UsageError,
    local_errors,
)
from fs.image.bootstrap_layer import BOOTSTRAP, MAX_LAYER, extract
from fs.image.record import ImageRecord
from fs.image.tree import map_bootstrap
from fs.owndir import make_own
from fs.registry.descriptor import Descriptor
from fs.registry.hosts import hosts_dirs
from fs.registry.manifest import Manifest, find_bootstrap_layer, find_startup_layer
from fs.registry.platform import parse_platform
from fs.registry.resolution import find_nydus_referrer
from fs.registry.retry import RetryPolicy
from fs.registry.store import Image, ImageReader, StoreOptions, open_again, open_reader

log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class SourceOptions(Protocol):
    """The part of a mount's options that is about its source."""

    @property
    def plain_http(self) -> bool: ...
    @property
    def insecure(self) -> bool: ...
    @property
    def platform(self) -> str | None: ...
    @property
    def auth_file(self) -> str | None: ...
    @property
    def ca_file(self) -> str | None: ...
    @property
    def hosts_dir(self) -> str | None: ...
    @property
    def blob_dir(self) -> str | None: ...
    @property
    def backend_url(self) -> str | None: ...
    @property
    def backend_type(self) -> str | None: ...
    @property
    def backend_config(self) -> str | None: ...
    @property
    def prefetch_mode(self) -> str: ...


class Resolved(NamedTuple):
    """A source made local: enough for any later worker to serve it without asking anybody."""

    bootstrap: str
    manifest_digest: str | None = None
    image_config: dict[str, Any] | None = None


def resolve(
    source: str,
    options: SourceOptions,
    cache_dir: str,
    environment: Mapping[str, str],
    backend: BlobBackend | None = None,
) -> Resolved:
    """Make the bootstrap of `source` local and verified. Blocking.

    `backend` is where its blobs will come from; if that is the image's own place, its
    connections are used. PlainImageError for an image without one; any Failure of registries
    and disks.
    """
    if options.backend_config:
        open_backend(source, options, environment).close()  # mistakes show now
    if os.path.isfile(source):
        if not (options.blob_dir or options.backend_url or options.backend_config):
            raise UsageError(
                f"{source}: a bootstrap file needs --blob-dir, --backend-url or --backend-config"
            )
        path = os.path.abspath(source)
        map_bootstrap(path).close()
        return Resolved(path)
    if options.blob_dir and not os.path.isdir(options.blob_dir):
        raise UsageError(f"{options.blob_dir}: no such directory")
    record = ImageRecord(cache_dir, source, options.platform)
    known = record.read()
    if known is not None and known["local"]:
        return _recorded(known)
    try:
        with contextlib.closing(_reader(source, options, environment, backend)) as reader:
            resolved = _ask(reader, options, cache_dir, backend)
    except UnreachableError as error:
        if known is None:
            raise
        log.warning("%s; mounting what its digest meant before", error)
        return _recorded(known)
    record.write(resolved._asdict(), local=False)
    return resolved


def _recorded(fields: Mapping[str, Any]) -> Resolved:
    return Resolved(fields["bootstrap"], fields["manifest_digest"], fields["image_config"])


def _reader(
    source: str,
    options: SourceOptions,
    environment: Mapping[str, str],
    backend: BlobBackend | None,
) -> ImageReader:
    access = _store_options(options, environment)
    if isinstance(backend, ImageBackend):
        return open_again(backend.reader, source, access)
    return open_reader(source, access)


def _ask(
    reader: ImageReader, options: SourceOptions, cache_dir: str, backend: BlobBackend | None
) -> Resolved:
    """What the place of the image says of it; its bootstrap is fetched if need be.

    Configuration, bootstrap and what was made for the start are all named by the manifest, and
    come at the same time.
    """
    platform = parse_platform(options.platform) if options.platform else None
    with ThreadPoolExecutor(1) as pool:
        fetched: dict[str, Future[str]] = {}

        def begin(manifest: Manifest) -> None:
            layer = find_bootstrap_layer(manifest)
            if layer is not None:
                fetched[layer.digest] = pool.submit(local_bootstrap, reader, layer, cache_dir)
                if options.prefetch_mode != "none":
                    _begin_startup(manifest, cache_dir, backend)

        image = reader.resolve(platform, nydus=True, found=begin)
        layer = find_bootstrap_layer(image.manifest)
        if layer is None and (found := _referring(reader, image)):
            image = found
            layer = find_bootstrap_layer(image.manifest)
        if layer is None:
            raise PlainImageError(
                f"{reader.name}: an ordinary OCI image; convert it with nydusify convert"
            )
        if layer.digest in fetched:
            path = fetched[layer.digest].result()
        else:
            path = local_bootstrap(reader, layer, cache_dir)
    return Resolved(path, image.descriptor.digest, image.config.document)


def _begin_startup(manifest: Manifest, cache_dir: str, backend: BlobBackend | None) -> None:
    """Ask for what was made for the start, unless it comes from elsewhere or some of it is here."""
    layer = find_startup_layer(manifest)
    if layer is not None and isinstance(backend, ImageBackend):
        name = layer.digest.removeprefix("sha256:")
        if not os.path.exists(os.path.join(cache_dir, "blobs", f"{name}.blob.data")):
            backend.begin(layer)


def _referring(reader: ImageReader, image: Image) -> Image | None:
    """The Nydus image that says that it is made of the plain `image`, if the registry has one.

    Not for a reference by digest: whoever may push to the repository may say so, and the
    digest is there to be safe from them.
    """
    if reader.reference is None or reader.reference.digest:
        return None
    try:
        return find_nydus_referrer(reader, image.descriptor.digest)
    except Failure as failure:
        log.info("referrers of %s: %s", reader.name, failure)
        return None


def open_backend(
    source: str, options: SourceOptions, environment: Mapping[str, str]
) -> BlobBackend:
    """Where the blobs of `source` come from; an explicit backend goes before the image's place."""
    if options.blob_dir:
        from fs.backend.directory import DirectoryBackend

        return DirectoryBackend(options.blob_dir)
    # The fetcher above waits and asks again by itself, and its waits can be cancelled.
    access = _store_options(options, environment, RetryPolicy(attempts=1))
    if options.backend_url:
        from fs.backend.http import HttpBackend

        return HttpBackend(options.backend_url, access)
    if options.backend_config:
        return open_configured(load_config(options.backend_config, options.backend_type), access)
    return ImageBackend(open_reader(source, access))


def _store_options(
    options: SourceOptions, environment: Mapping[str, str], retry: RetryPolicy | None = None
) -> StoreOptions:
    return StoreOptions(
        plain_http=options.plain_http,
        insecure=options.insecure,
        auth_file=Path(options.auth_file) if options.auth_file else None,
        ca_file=Path(options.ca_file) if options.ca_file else None,
        hosts_dirs=hosts_dirs(options.hosts_dir),
        environment=environment,
        retry=retry or RetryPolicy(),
    )


def local_bootstrap(reader: ImageReader, layer: Descriptor, cache_dir: str) -> str:
    """The bootstrap of `layer` in the cache, fetched if it is not there yet."""
    parent = os.path.join(cache_dir, "bootstraps")
    make_own(parent)
    final = os.path.join(parent, layer.digest.removeprefix("sha256:"))
    path = os.path.join(final, BOOTSTRAP)
    if os.path.exists(path):
        return path
    if layer.size > MAX_LAYER:
        raise FormatError(f"bootstrap layer of {layer.size} bytes", reader.name)
    with local_errors(f"cache {cache_dir}"):
        work = tempfile.mkdtemp(prefix=".new-", dir=parent)
        try:
            _fill(reader, layer, work)
            _publish(work, final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return path


def layer_of(bootstrap: str, cache_dir: str) -> str | None:
    """The sha256 of the layer that a bootstrap in the cache is of; None for another file.

    What stands there under a digest was verified with it, and nobody else can write there.
    """
    directory, name = os.path.split(bootstrap)
    parent, digest = os.path.split(directory)
    here = os.path.abspath(parent) == os.path.join(os.path.abspath(cache_dir), "bootstraps")
    return digest if here and name == BOOTSTRAP and _SHA256.match(digest) else None


def _fill(reader: ImageReader, layer: Descriptor, directory: str) -> None:
    where = f"{reader.name}: bootstrap layer {layer.digest}"
    with reader.open_blob(layer) as stream:
        extract(stream, directory, where)
    map_bootstrap(os.path.join(directory, BOOTSTRAP)).close()


def _publish(work: str, final: str) -> None:
    """Give a complete directory its name; if another process was first, its is as good."""
    try:
        os.rename(work, final)
    except OSError:
        if not os.path.isdir(final):
            raise

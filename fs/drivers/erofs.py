"""Images mounted by the kernel itself: the bootstrap is an EROFS image, its devices flat blobs.

Names and attributes then never reach this process, and data only the first
time. A blob that is whole in the cache is given to the kernel as the local
file; the others are files of our own FUSE mount (`flat.py`).

The kernel opens and reads those files while it mounts, and closes them while it
unmounts. So everything here that touches such a mount runs in a thread: the
trio thread has to answer.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from io import BytesIO
from typing import NamedTuple, Protocol

import trio

from fs import mounts
from fs.cache import whole
from fs.drivers.flat import PROBE_CONTENT, PROBE_NAME, ROOT, file_name, file_nid
from fs.drivers.instances import BLOBS, Instance, Instances
from fs.format import codec
from fs.format.blobtable import BlobFeature, BlobRecord, Digester
from fs.format.errors import Failure, MountError
from fs.format.tree import Chunk, Node
from fs.format.writer import BootstrapOptions, write_bootstrap
from fs.image.tree import Image

log = logging.getLogger(__name__)

#: fsconfig(2) takes no longer string, its end included.
_STRING_MAX = 256
#: An image of so many chunks is looked through before it is mounted; a larger one would
#: make the mount wait, and is marked when it goes.
_SMALL = 10_000
_UNREADABLE = BlobFeature.ENCRYPTED


class Kernel(Protocol):
    """See `notices.Notices`."""

    def take_back(self, name: bytes, parent: int) -> None: ...
    def knows(self, inode: int) -> bool: ...


class Device(NamedTuple):
    """What the kernel reads a blob from: a local file, or ours when `local` is None."""

    blob: int
    local: int | None


class ErofsDriver:
    """`mnt` is where our FUSE mount is, `kernel` what it can be told."""

    name = "erofs"

    def __init__(self, mnt: str, kernel: Kernel) -> None:
        self._mnt = mnt
        self._kernel = kernel
        #: Why the kernel mounts nothing from a directory, or "".
        self._refusals: dict[str, str] = {}
        self._probing = trio.Lock()
        #: Local files that the kernel reads, locked so that nobody takes them for unused.
        self._held: dict[int, list[int]] = {}
        #: Numbers of the instances that the kernel reads through us, if only in part.
        self._through_us: set[int] = set()

    async def choose(self, instance: Instance, wanted: str) -> tuple[str, str]:
        """The driver for an instance and why: `wanted` is auto, erofs or fuse.

        MountError when erofs is wanted and cannot be had. Our mount must be served.
        """
        if wanted == "fuse":
            return "fuse", "asked for"
        refusal = unfit(instance.image) or await self._probe(instance.image)
        if not refusal:
            return "erofs", "the kernel mounts it"
        if wanted == "erofs":
            raise MountError(f"{instance.image.bootstrap.name}: not by erofs: {refusal}")
        log.info("%s: served by fuse: %s", instance.image.bootstrap.name, refusal)
        return "fuse", refusal

    async def _probe(self, image: Image) -> str:
        """Why the kernel mounts nothing of the file system that the image's cache is on, or ""."""
        if not image.bootstrap.blobs:
            return ""
        work = os.path.dirname(image.data_path(0))
        async with self._probing:
            if work not in self._refusals:
                self._refusals[work] = await trio.to_thread.run_sync(
                    probe, self._mnt, work, abandon_on_cancel=True
                )
            return self._refusals[work]

    async def attach(self, instance: Instance) -> int:
        """A detached mount of the image, by descriptor; the caller closes it in a thread.

        Failure when the kernel refuses.
        """
        try:
            return await self._attach_somehow(instance)
        except BaseException:
            self._release(instance.number)
            raise

    async def _attach_somehow(self, instance: Instance) -> int:
        """With local files where they are whole; without, where the kernel cannot read those."""
        number, image = instance.number, instance.image
        attributes = mounts.MOUNT_ATTR_NOSUID if instance.options.nosuid else 0
        devices = await self._devices(number, image)
        try:
            if any(device.local is not None for device in devices):
                try:
                    return await self._attach(number, image, devices, attributes)
                except OSError as error:
                    log.info("%s: without local files: %s", image.bootstrap.name, error)
            flat = [device._replace(local=None) for device in devices]
            return await self._attach(number, image, flat, attributes)
        except OSError as error:
            raise MountError(f"{image.bootstrap.name}: {error.strerror or error}") from error

    async def _attach(
        self, number: int, image: Image, devices: Sequence[Device], attributes: int
    ) -> int:
        def make() -> int:
            return mount_image(image.bootstrap.name, number, devices, self._mnt, attributes)

        try:
            mounted = await _made_in_thread(make)
        finally:
            # So the kernel forgets them when the mount is gone, and not before.
            for device in devices:
                if device.local is None:
                    self._take_back(file_name(number, device.blob))
        local = sum(device.local is not None for device in devices)
        if local < len(devices):
            self._through_us.add(number)
        log.info(
            "%s: mounted by the kernel, %d of %d blobs from local files",
            image.bootstrap.name,
            local,
            len(devices),
        )
        return mounted

    def _take_back(self, name: bytes) -> None:
        """In a thread of its own, for nobody needs to wait for it."""
        directory = Instances.first_inode(BLOBS) | ROOT

        def run() -> None:
            with suppress(OSError):
                self._kernel.take_back(name, directory)

        threading.Thread(target=run, daemon=True).start()

    async def _devices(self, number: int, image: Image) -> list[Device]:
        """Where the kernel is to read each blob from. Local files are opened, and held."""
        devices: list[Device] = []
        key = ""
        small = sum(blob.chunk_count for blob in image.bootstrap.blobs) <= _SMALL
        for blob in image.bootstrap.blobs:
            path = image.data_path(blob.index)
            key = key or await trio.to_thread.run_sync(_key_if_any, image, path)
            local = None
            if key:
                local = whole.open_marked(path, key, blob)
            if (
                key
                and small
                and local is None
                and whole.may_be_whole(path, image.blob_record(blob.index))
            ):
                await _mark(image, blob, key)
                local = whole.open_marked(path, key, blob)
            if local is not None:
                self._held.setdefault(number, []).append(local)
            devices.append(Device(blob.index, local))
        return devices

    def _release(self, number: int) -> None:
        for descriptor in self._held.pop(number, ()):
            os.close(descriptor)

    async def detach(self, instance: Instance) -> None:
        """The instance is dropped: note which of its blobs have become whole."""
        self._release(instance.number)
        self._through_us.discard(instance.number)
        image = instance.image
        opened = [blob for blob in image.bootstrap.blobs if image.opened(blob.index)]
        if opened:
            key = await trio.to_thread.run_sync(image.key)
            for blob in opened:
                await _mark(image, blob, key)

    async def in_use(self, instance: Instance) -> bool:
        """Whether a mount of the instance still reads through us."""
        first = Instances.first_inode(BLOBS)
        return any(
            self._kernel.knows(first | file_nid(instance.number, blob.index))
            for blob in instance.image.bootstrap.blobs
        )

    def knows_all(self, instance: Instance) -> bool:
        """The kernel has a file of ours open as long as it has the mount.

        Of what a predecessor attached it is not known whether all its files are local.
        """
        return instance.number in self._through_us


def unfit(image: Image) -> str:
    """Why the kernel cannot mount this image, or ''."""
    if os.geteuid() != 0:
        return "only root can mount EROFS"
    if image.bootstrap.version != 6:
        return f"RAFS v{image.bootstrap.version} is no EROFS image"
    for blob in image.bootstrap.blobs:
        if blob.features & _UNREADABLE:
            return f"blob {blob.blob_id} has features {blob.features & _UNREADABLE:#x}"
    return ""


def mount_image(
    bootstrap: str, number: int, devices: Sequence[Device], mnt: str, attributes: int = 0
) -> int:
    """A detached EROFS mount, by descriptor. OSError. Blocks until our mount has answered."""
    with ExitStack() as opened:
        names = []
        if any(device.local is None for device in devices):
            directory = os.open(os.path.join(mnt, "blobs"), os.O_PATH | os.O_CLOEXEC)
            opened.callback(os.close, directory)
        for device in devices:
            if device.local is not None:
                names.append(_by_descriptor(device.local))
            else:
                name = os.fsdecode(file_name(number, device.blob))
                names.append(f"{_by_descriptor(directory)}/{name}")
        source = bootstrap
        if len(os.fsencode(source)) >= _STRING_MAX:
            descriptor = os.open(bootstrap, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            source = _by_descriptor(descriptor)
        return _mount_files(source, names, devices, attributes)


def _mount_files(
    source: str, names: Sequence[str], devices: Sequence[Device], attributes: int
) -> int:
    """Files of ours are read past their page cache, where the kernel can (Linux 6.13).

    Their pages would be held twice, and read-ahead would go on behind the end of what is
    read, into files that nobody opened.
    """
    if devices and all(device.local is None for device in devices):
        try:
            return _mount(source, names, attributes, direct=True)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    return _mount(source, names, attributes)


def _mount(source: str, devices: Sequence[str], attributes: int, *, direct: bool = False) -> int:
    options: list[tuple[str, str | None]] = [("source", source)]
    options += [("device", name) for name in devices]
    if direct:
        options.append(("directio", None))
    flags = mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NODEV | attributes
    return mounts.new_mount("erofs", options, flags)


def _by_descriptor(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def probe(mnt: str, work: str) -> str:
    """Why the kernel mounts no image in directory `work` on files of our mount at `mnt`, or "".

    Really mounts one. As its device is closed, the kernel learns to send no FLUSH,
    without which the end of a mount would wait for this process.
    """
    device = os.path.join(mnt, "blobs", os.fsdecode(PROBE_NAME))
    try:
        os.makedirs(work, mode=0o700, exist_ok=True)
        with ExitStack() as opened:
            image = opened.enter_context(tempfile.NamedTemporaryFile(dir=work, prefix=".probe-"))
            image.write(_probe_image())
            image.flush()
            held = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, held)
            mounted = _mount(_by_descriptor(image.fileno()), [_by_descriptor(held)], 0)
            opened.callback(os.close, mounted)
            with open(f"{_by_descriptor(mounted)}/probe", "rb") as file:
                content = file.read()
    except OSError as error:
        return f"the kernel does not mount EROFS from files in {work}: {error.strerror or error}"
    return "" if content == PROBE_CONTENT else "the kernel read something else than we served"


def _probe_image() -> bytes:
    size = len(PROBE_CONTENT)
    blob = BlobRecord(
        "0" * 64,
        chunk_count=1,
        compressed_size=size,
        uncompressed_size=size,
        ci_uncompressed_size=16,
    )
    chunk = Chunk(codec.digest(Digester.BLAKE3, PROBE_CONTENT), 0, 0, 0, size, 0, size, 0)
    file = Node(mode=0o100400, size=size, chunks=[chunk])
    target = BytesIO()
    root = Node(mode=0o40500, children={b"probe": file})
    write_bootstrap(root, [blob], BootstrapOptions(sealed=False), target)
    return target.getvalue()


def _key_if_any(image: Image, path: str) -> str:
    """The image's key if there is a local file at all: it may cost a pass over the bootstrap."""
    return image.key() if os.path.exists(path) else ""


async def _mark(image: Image, blob: BlobRecord, key: str) -> None:
    """Note on a blob's file if it is whole."""
    try:
        cache = await image.blob(blob.index)
        path = await trio.to_thread.run_sync(cache.whole_file)
    except Failure as failure:
        log.warning("%s", failure)
        return
    if path is not None:
        await trio.to_thread.run_sync(whole.mark, path, key, blob)


async def _made_in_thread(make: Callable[[], int]) -> int:
    """The descriptor that `make` returns. Whoever is cancelled meanwhile leaves none behind."""
    lock = threading.Lock()
    made: list[int] = []
    abandoned = False

    def run() -> int:
        descriptor = make()
        with lock:
            if not abandoned:
                made.append(descriptor)
                return descriptor
        os.close(descriptor)
        return -1

    try:
        return await trio.to_thread.run_sync(run, abandon_on_cancel=True)
    except trio.Cancelled:
        with lock:
            abandoned = True
        for descriptor in made:
            threading.Thread(target=os.close, args=(descriptor,), daemon=True).start()
        raise

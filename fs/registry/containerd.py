"""Images in the content store of a local containerd, read by its own client: `containerd:NAME`.

`ctr` gives names and bytes; everything is verified here as from any other place.
What containerd has discarded (layers it has unpacked) or never pulled (other
platforms) is not there to be read.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import threading
from typing import BinaryIO, cast

from fs.format.errors import (
    AccessError,
    Failure,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from fs.registry.descriptor import Descriptor
from fs.registry.digest import check_bytes, is_digest
from fs.registry.local import LocalReader
from fs.registry.manifest import MAX_MANIFEST, Index, Manifest, parse_manifest
from fs.registry.places import StoreOptions
from fs.registry.reference import canonical

ADDRESS = "/run/containerd/containerd.sock"
NAMESPACE = "default"
#: What cannot end or change a filter of containerd's.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@+-]{0,1000}")
_TIMEOUT = 60


class ContainerdReader(LocalReader):
    """An ImageReader of an image by its name in containerd, which users may shorten."""

    def __init__(self, name: str, options: StoreOptions) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(f"containerd:{name[:200]}: no image can have that name")
        environment = options.environment
        address = options.containerd_address or environment.get("CONTAINERD_ADDRESS") or ADDRESS
        if not os.path.exists(address):  # ctr would wait for it
            raise UnreachableError(f"containerd:{name}: no containerd at {address}")
        namespace = options.containerd_namespace or environment.get("CONTAINERD_NAMESPACE")
        self._image = name
        self._command = ["ctr", "-a", address, "-n", namespace or NAMESPACE]
        self._lock = threading.Lock()
        self._known: tuple[Descriptor, Manifest | Index] | None = None

    @property
    def name(self) -> str:
        return f"containerd:{self._image}"

    def blob_size(self, digest: str) -> int:
        size = 0
        with _Content(self._start(digest), self.name) as content:
            while piece := content.read(1 << 20):
                size += len(piece)
        return size

    def close(self) -> None:
        """Nothing is kept open."""

    def _top(self) -> tuple[Descriptor, Manifest | Index]:
        with self._lock:
            if self._known is None:
                self._known = self._find_top()
            return self._known

    def _open(self, descriptor: Descriptor) -> BinaryIO:
        return cast(BinaryIO, _Content(self._start(descriptor.digest), self.name))

    def _read_at(self, digest: str, offset: int, length: int) -> bytes:
        """`ctr` knows no ranges: what lies in front is read and thrown away."""
        with _Content(self._start(digest), self.name) as content:
            while offset and (piece := content.read(min(offset, 1 << 20))):
                offset -= len(piece)
            data = b""
            while len(data) < length and (piece := content.read(length - len(data))):
                data += piece
        return data

    def _find_top(self) -> tuple[Descriptor, Manifest | Index]:
        media_type, digest = self._find_image()
        with _Content(self._start(digest), self.name) as content:
            raw = content.read(MAX_MANIFEST + 1)
        document = parse_manifest(raw, media_type, self.name)
        check_bytes(raw, digest, len(raw), self.name)
        return Descriptor(document.media_type, digest, len(raw)), document

    def _find_image(self) -> tuple[str, str]:
        """Media type and digest of the image that has the name, as it is or in full."""
        names = dict.fromkeys((self._image, canonical(self._image)))
        filters = [f"name=={name}" for name in names if _NAME.fullmatch(name)]
        for line in self._run("images", "ls", *filters).splitlines():
            fields = line.split()
            if len(fields) >= 3 and fields[0] in names and is_digest(fields[2]):
                return fields[1], fields[2]
        namespace = self._command[-1]
        raise NotFoundError(f"{self.name}: no such image in the namespace {namespace}")

    def _run(self, *words: str) -> str:
        try:
            done = subprocess.run(
                [*self._command, *words], capture_output=True, text=True, timeout=_TIMEOUT
            )
        except FileNotFoundError:
            raise self._no_client() from None
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"{self.name}: containerd does not answer") from None
        if done.returncode:
            raise _failure(self.name, done.stderr)
        return done.stdout

    def _start(self, digest: str) -> subprocess.Popen[bytes]:
        command = [*self._command, "content", "get", digest]
        try:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except FileNotFoundError:
            raise self._no_client() from None

    def _no_client(self) -> UsageError:
        return UsageError(f"{self.name}: needs containerd's client, ctr")


class _Content(io.RawIOBase):
    """What `ctr content get` prints, as a file; its failure is raised in place of the end."""

    def __init__(self, client: subprocess.Popen[bytes], name: str) -> None:
        self._client = client
        self._name = name
        assert client.stdout
        self._out = client.stdout

    def read(self, size: int = -1, /) -> bytes:
        data = self._out.read(size)
        if (size < 0 or len(data) < size) and self._client.returncode is None:
            said = self._client.communicate()[1]
            if self._client.returncode:
                raise _failure(self._name, said.decode(errors="replace"))
        return data

    def close(self) -> None:
        if not self.closed:
            self._client.kill()
            with self._client:
                self._client.wait()
        super().close()


def _failure(name: str, said: str) -> Failure:
    """What `ctr` means; its last line is its message."""
    line = (said.strip().splitlines() or ["ctr failed"])[-1].removeprefix("ctr: ")[:300]
    if "not found" in line:
        return NotFoundError(
            f"{name}: {line}: pulled for other platforms only (--platform names one),"
            " or discarded after unpacking"
        )
    if "permission denied" in line:
        return AccessError(f"{name}: {line}")
    return UnreachableError(f"{name}: {line}")

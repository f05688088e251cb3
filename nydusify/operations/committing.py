"""What a container has written, as one more layer of the image that it runs.

A running container goes on meanwhile: what it writes while it is read may or may not be in
the new image. The image's blobs are not touched, and not sent where the target has them.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs.format.blobtable import Digester
from fs.format.bootstrap import Bootstrap
from fs.format.errors import FormatError, NotFoundError, UsageError, local_errors
from fs.registry.manifest import find_bootstrap_layer
from fs.registry.store import StoreOptions, open_writer
from fs.rootdir import open_directory
from nydusify.images.bootstraps import Stack
from nydusify.images.opened import ImagePlace, OpenedImage, open_image
from nydusify.operations.upper_conversion import ConvertedUpper, convert_upper, placed_at
from nydusify.options import ConvertOptions
from nydusify.outputs.republishing import republish
from nydusify.report import Progress
from nydusify.workplace import workplace

COMMITS_ANNOTATION = "containerd.io/snapshot/nydus-commit-blobs"
MAXIMUM_TIMES = 400


@dataclass(frozen=True)
class Container:
    """The image that a container runs, and the directory that holds what it wrote.

    `pid` is its first process, if it runs.
    """

    image: str
    upper: Path
    pid: int | None = None


@dataclass(frozen=True)
class Paths:
    """Directories of the container that count as written: `added` are such as are mounted there,
    `left_out` are not committed. Lists of names.
    """

    added: Sequence[Sequence[bytes]] = ()
    left_out: Sequence[Sequence[bytes]] = ()


@dataclass(frozen=True)
class Committed:
    """`blob` is the new layer's digest, "" if the container wrote no file with content; the first
    one's, if there are several. `blob_size` is of all.
    """

    source: str
    target: str
    target_digest: str
    blob: str
    blob_size: int
    target_size: int
    pushed: int
    seconds: float


def find_container(name: str, root: str | None) -> Container:
    """What `lazyrun ps` tells of a container, by its name or identifier. NotFoundError."""
    from nydusify.startup.recording import lazyrun

    if not name:
        raise NotFoundError("no container has an empty name")
    command = [lazyrun(), "ps", "--all", "--json", *(["--root", root] if root else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotFoundError(f"lazyrun ps: {done.stderr.strip().splitlines()[-1:] or 'failed'}")
    states: list[dict[str, Any]] = json.loads(done.stdout)
    found = [each for each in states if name == each["name"] or each["id"].startswith(name)]
    if not found:
        raise NotFoundError(f"{name}: no such container")
    if len(found) > 1:
        raise UsageError(f"{name}: several containers are called so")
    upper = found[0].get("upper")
    if not upper:
        raise NotFoundError(f"{name}: nobody noted where what it writes is kept")
    pid = found[0].get("pid") if found[0].get("status") == "running" else None
    return Container(found[0]["image"], Path(upper), pid)


def commit(
    container: Container,
    target: str,
    source: ImagePlace,
    target_store: StoreOptions,
    progress: Progress,
    *,
    paths: Paths | None = None,
    maximum_times: int = MAXIMUM_TIMES,
    work_dir: Path | None = None,
) -> Committed:
    """Publish `source` with the container's writes on top."""
    started = time.monotonic()
    with (
        closing(open_writer(target, target_store)) as writer,
        workplace(work_dir) as work,
        open_image(source, work) as opened,
    ):
        writer.check()
        commits = _commits(opened)
        if len(commits) >= maximum_times:
            raise UsageError(f"{opened.name}: was committed {len(commits)} times already")
        stack = Stack.of(opened.bootstrap)
        if stack.options.digester != Digester.BLAKE3:
            raise FormatError("its chunks are not digested with BLAKE3", opened.name)
        options = ConvertOptions(
            "", "", compressor=stack.options.compressor, chunk_size=stack.options.chunk_size
        )
        uppers = list(
            _uppers(container, paths or Paths(), options, work, progress, opened.bootstrap)
        )
        for upper in uppers:
            stack.add_layer(upper.layer, [blob.record for blob in upper.blobs], upper.known)
        stack.drop_unused()
        kept = {blob.blob_id for blob in stack.blobs}
        blobs = [blob for each in uppers for blob in each.blobs if blob.record.blob_id in kept]
        commits += [f"sha256:{blob.record.blob_id}" for blob in blobs]
        done = republish(
            opened,
            stack,
            blobs,
            writer,
            work,
            progress,
            comment="Nydus committed layer",
            annotations={COMMITS_ANNOTATION: ",".join(commits)},
        )
        blob = blobs[0].record if blobs else None
        return Committed(
            opened.name,
            writer.name,
            done.manifest.digest,
            f"sha256:{blob.blob_id}" if blob else "",
            sum(each.record.compressed_size for each in blobs),
            done.size,
            done.pushed,
            round(time.monotonic() - started, 3),
        )


def _uppers(
    container: Container,
    paths: Paths,
    options: ConvertOptions,
    work: Path,
    progress: Progress,
    below: Bootstrap,
) -> Iterator[ConvertedUpper]:
    """What was written, and on top of that each of the paths that are added."""
    without = [b"/".join(names) for names in paths.left_out]
    yield convert_upper(container.upper, "overlayfs", options, work, progress, below, without)
    for number, names in enumerate(paths.added):
        place = work / f"path-{number}"
        with local_errors(place):
            place.mkdir()
        with _inside(container, names) as directory:
            upper = convert_upper(directory, "none", options, place, progress, below)
        yield placed_at(upper, names)


@contextmanager
def _inside(container: Container, names: Sequence[bytes]) -> Iterator[Path]:
    """A directory as the container's processes see it, whatever is mounted there."""
    shown = f"/{os.fsdecode(b'/'.join(names))}"
    if container.pid is None:
        raise UsageError(f"--with-path {shown}: only a running container has it mounted")
    with local_errors(f"{shown} in the container"):
        root = os.open(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY)
        try:
            opened = open_directory(root, b"/".join(names))
        finally:
            os.close(root)
    try:
        yield Path(f"/proc/self/fd/{opened}")
    finally:
        os.close(opened)


def _commits(opened: OpenedImage) -> list[str]:
    """The blobs of earlier commits, as the bootstrap layer tells."""
    if opened.image is None:
        raise UsageError(f"{opened.name}: a file is no image that can be committed")
    layer = find_bootstrap_layer(opened.image.manifest)
    told = layer.annotations.get(COMMITS_ANNOTATION, "") if layer else ""
    return [each for each in told.split(",") if each]

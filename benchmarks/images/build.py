"""Building a recipe's image: mmdebstrap, then one overlay and chroot a layer, then OCI.

The same packages on the same day give the same digests. A finished image is
kept under its key (recipe, date, architecture); an unfinished one never is.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.images.layer import LayerFile, write_layer
from benchmarks.images.recipe import APP, Recipe
from fs import mounts
from fs.registry.descriptor import Descriptor, describe
from fs.registry.mediatypes import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from fs.registry.store import ImageWriter, open_writer

TAG = "plain"

# What apt and the loader leave behind, and differs from build to build.
_LEAVE_OUT = ("var/cache/apt", "var/cache/debconf", "var/cache/ldconfig", "var/lib/apt/lists",
              "var/log", "run", "tmp")  # fmt: skip
_LEFTOVERS = ("etc/machine-id", "etc/resolv.conf", "etc/hostname", "var/lib/dpkg/status-old",
              "var/lib/dpkg/available-old", "var/lib/dpkg/diversions-old")  # fmt: skip

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

Say = Callable[[str], None]


def cached_image(recipe: Recipe, cache: Path, say: Say) -> Path:
    """An OCI layout directory with the recipe's image tagged `TAG`; built if it is not there."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    place = cache / f"{recipe.name}-{day}-{_recipe_key(recipe)}"
    if place.exists():
        return place
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as name:
        midnight = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp())
        build(recipe, Path(name), midnight, say)
        (Path(name) / "layout").rename(place)
    for older in cache.glob(f"{recipe.name}-*"):
        if older != place:
            shutil.rmtree(older)
    return place


def _recipe_key(recipe: Recipe) -> str:
    """Changes with anything in this repository that can change the image."""
    digest = hashlib.sha256(f"{recipe.name} {platform.machine()} {sys.version_info[:2]}".encode())
    for source in sorted([*Path(__file__).parent.glob("*.py"), *APP.iterdir()]):
        if source.is_file():
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def build(recipe: Recipe, work: Path, epoch: int, say: Say) -> None:
    """Build in `work`; `work/layout` is the image. Needs root, mmdebstrap and overlayfs."""
    base = work / "base"
    say(f"Debian {recipe.suite} and the packages of the upper layers (mmdebstrap)")
    _debootstrap(recipe, base, epoch)
    layers = [write_layer(base, work / "0.tar.gz", epoch, _LEAVE_OUT)]

    say(f"layer of {', '.join(recipe.packages)}")
    with _overlay(work / "packages", [base]) as merged:
        _install(merged, recipe.packages)
    layers.append(write_layer(work / "packages/upper", work / "1.tar.gz", epoch, _LEAVE_OUT))

    say("layer of the application, with deletions and replacements")
    with _overlay(work / "finish", [work / "packages/upper", base]) as merged:
        recipe.finish(merged)
    layers.append(write_layer(work / "finish/upper", work / "2.tar.gz", epoch))

    writer = open_writer(f"oci:{work / 'layout'}:{TAG}")
    try:
        _publish(recipe, layers, epoch, writer)
    finally:
        writer.close()


def _debootstrap(recipe: Recipe, base: Path, epoch: int) -> None:
    """A minimal system; the packages of the next layer are fetched too, by the host's apt."""
    packages = " ".join(recipe.packages)
    fetch = (
        'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --quiet=2 --yes --download-only '
        f"--no-install-recommends install {packages}"
    )
    _run(
        ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--skip=cleanup/apt",
         f"--customize-hook={fetch}", recipe.suite, str(base)],
        SOURCE_DATE_EPOCH=str(epoch),
    )  # fmt: skip
    _drop_leftovers(base)


def _install(root: Path, packages: tuple[str, ...]) -> None:
    proc = root / "proc"
    mounts.mount("proc", proc, "proc")
    try:
        _run(
            ["chroot", str(root), "apt-get", "--quiet=2", "--yes", "--no-download",
             "--no-install-recommends", "install", *packages],
            PATH="/usr/sbin:/usr/bin:/sbin:/bin",
        )  # fmt: skip
    finally:
        mounts.umount(proc)
    _drop_leftovers(root)


def _drop_leftovers(root: Path) -> None:
    for name in _LEFTOVERS:
        (root / name).unlink(missing_ok=True)


def _run(command: list[str], **environment: str) -> None:
    """Run to the end in silence; what a failed command said is in the error."""
    done = subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}")


@contextmanager
def _overlay(work: Path, lower: list[Path]) -> Iterator[Path]:
    """The lower directories (topmost first) under a writable one, `work/upper`."""
    merged = work / "merged"
    for directory in (work / "upper", work / "work", merged):
        directory.mkdir(parents=True)
    (work / "upper").chmod(0o755)
    mounts.mount(
        "overlay",
        merged,
        "overlay",
        data=f"lowerdir={':'.join(map(str, lower))},upperdir={work / 'upper'},"
        f"workdir={work / 'work'},redirect_dir=off,metacopy=off,index=off,xino=off",
    )
    try:
        yield merged
    finally:
        mounts.umount(merged)


def _publish(recipe: Recipe, layers: list[LayerFile], epoch: int, writer: ImageWriter) -> None:
    descriptors = [_describe_file(layer.path) for layer in layers]
    for layer, descriptor in zip(layers, descriptors, strict=True):
        writer.push_blob(descriptor, layer.path)
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = _json(
        {
            "created": created,
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": recipe.config,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [
                {"created": created, "created_by": text}
                for text in (f"mmdebstrap {recipe.suite}", " ".join(recipe.packages), "finish")
            ],
        }
    )
    config_descriptor = describe(config, OCI_CONFIG)
    writer.push_blob(config_descriptor, config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config_descriptor.to_json(),
        "layers": [descriptor.to_json() for descriptor in descriptors],
    }
    writer.push_manifest(_json(manifest), OCI_MANIFEST, tag=True)


def _describe_file(path: Path) -> Descriptor:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Descriptor(OCI_LAYER_GZIP, f"sha256:{digest}", path.stat().st_size)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

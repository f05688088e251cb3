"""Building a recipe's image: one overlay for each layer, then deterministic tars, then OCI.

The same packages on the same day give the same digests. Layers are kept under the
key of all that is in and below them, so that images share what they have in common;
finished images under theirs. Nothing unfinished ever has such a name.
"""

from __future__ import annotations

import hashlib
import inspect
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks.images import debian
from benchmarks.images import layer as layer_file
from benchmarks.images.layer import LayerFile, write_layer
from benchmarks.images.recipe import Layer, Recipe
from benchmarks.images.tree import APP, Tree
from fs import mounts
from fs.registry.descriptor import Descriptor
from fs.registry.documents import encode_json, image_document, push_config
from fs.registry.mediatypes import OCI_LAYER_GZIP, OCI_MANIFEST
from fs.registry.store import ImageWriter, open_writer

TAG = "plain"
#: An older base system is not built upon: its packages may have left the mirrors.
_FRESH_DAYS = 7
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

Say = Callable[[str], None]


class Built(NamedTuple):
    """A layer in the cache: `tree` is what overlayfs needs, `file` what goes into the image."""

    key: str
    tree: Path
    file: LayerFile


def cached_image(recipe: Recipe, cache: Path, say: Say) -> Path:
    """An OCI layout directory with the recipe's image tagged `TAG`; built if it is not there.

    Needs root, mmdebstrap and overlayfs for building.
    """
    cache.mkdir(parents=True, exist_ok=True)
    base = _base_day(cache)
    key = _digest([_base_key(base), recipe.scratch, _layers_key(recipe), recipe.config])
    place = cache / f"{recipe.name}-{base}-{key}"
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as work:
        builder = _Builder(cache, Path(work), base, say)
        layers = builder.layers(recipe)
        writer = open_writer(f"oci:{work}/layout:{TAG}")
        try:
            _publish(recipe, layers, builder.epoch, writer)
        finally:
            writer.close()
        Path(work, "layout").rename(place)
    for older in cache.glob(f"{recipe.name}-20*"):
        if older != place:
            shutil.rmtree(older)
    return place


def _base_day(cache: Path) -> str:
    """The day of the newest base system that is fresh enough, or today."""
    today = datetime.now(UTC).date()
    days = sorted(path.name.split("_")[1] for path in cache.glob(f"base_*_{_base_key('')}"))
    for day in reversed(days):
        if (today - datetime.fromisoformat(day).date()).days < _FRESH_DAYS:
            return day
    return today.isoformat()


def _base_key(day: str) -> str:
    """Changes with all of this program that changes base systems and tars."""
    sources = [inspect.getsource(module) for module in (debian, layer_file)]
    return _digest([day, platform.machine(), sys.version_info[:2], sources])


def _layers_key(recipe: Recipe) -> list[str]:
    return [layer_key(layer, recipe.name) for layer in recipe.layers]


def layer_key(layer: Layer, name: str) -> str:
    """Changes with what the layer adds: packages, and for changes code and files."""
    parts: list[object] = [layer.note, layer.packages, layer.wheels, layer.stage]
    if layer.archive:
        with layer.archive.open("rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    if layer.change:
        parts.append(inspect.getsource(layer.change))
        files = sorted(path for path in (APP / name).rglob("*") if path.is_file())
        parts += [(str(path.relative_to(APP)), path.read_bytes()) for path in files]
    return _digest(parts)


def _digest(parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


class _Builder:
    """Layers of one image, from the cache or made in `work`."""

    def __init__(self, cache: Path, work: Path, day: str, say: Say) -> None:
        self.epoch = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp())
        self._cache = cache
        self._work = work
        self._day = day
        self._say = say

    def layers(self, recipe: Recipe) -> list[Built]:
        """From the lowest."""
        done = [] if recipe.scratch else [self._base()]
        for layer in recipe.layers:
            done.append(self._layer(recipe, layer, done))
        return done

    def _base(self) -> Built:
        def make(place: Path) -> None:
            self._say(f"Debian {debian.SUITE} (mmdebstrap)")
            debian.make_base(place / "tree", self.epoch)
            self._pack(place, debian.LEAVE_OUT)

        return self._built(f"base_{self._day}_{_base_key('')}", make)

    def _layer(self, recipe: Recipe, layer: Layer, below: list[Built]) -> Built:
        def make(place: Path) -> None:
            self._say(f"{recipe.name}: layer of {layer.note}")
            self._add(recipe, layer, [each.tree for each in below], place)
            self._pack(place, debian.LEAVE_OUT if layer.packages else ())

        keys = [self._day, *(each.key for each in below), layer_key(layer, recipe.name)]
        return self._built(f"layer_{_digest(keys)}", make)

    def _built(self, name: str, make: Callable[[Path], None]) -> Built:
        """The cache's entry of that name, which it gets when it is made."""
        place = self._cache / name
        if not place.exists():
            unfinished = self._work / name
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(place)
        diff_id = (place / "diff_id").read_text()
        return Built(name, place / "tree", LayerFile(place / "layer.tar.gz", diff_id))

    def _pack(self, place: Path, leave_out: Collection[str]) -> None:
        made = write_layer(place / "tree", place / "layer.tar.gz", self.epoch, leave_out)
        (place / "diff_id").write_text(made.diff_id)

    def _add(self, recipe: Recipe, layer: Layer, below: list[Path], place: Path) -> None:
        """Make `place/tree`, an upper directory of overlayfs."""
        with tempfile.TemporaryDirectory(dir=self._work, prefix="layer-") as name:
            work = Path(name)
            (work / "empty").mkdir()
            with (
                self._staged(layer, work / "stage") as stage,
                _overlay(work / "top", [*reversed(below), work / "empty"]) as merged,
            ):
                self._fill(layer, Tree(merged, APP / recipe.name, stage))
            (work / "top/upper").rename(place / "tree")

    def _fill(self, layer: Layer, tree: Tree) -> None:
        if layer.archive:
            tree.extract(layer.archive)
        if layer.packages:
            debian.install(tree.root, layer.packages, self._cache / "debs")
        if layer.wheels:
            debian.install_wheels(tree.root, layer.wheels)
        if layer.change:
            with debian.in_use(tree.root):
                layer.change(tree)
            debian.drop_leftovers(tree.root)

    @contextmanager
    def _staged(self, layer: Layer, work: Path) -> Iterator[Path | None]:
        if not layer.stage:
            yield None
            return
        with _overlay(work, [self._base().tree]) as merged:
            debian.install(merged, layer.stage, self._cache / "debs")
            with debian.in_use(merged):
                yield merged


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


def _publish(recipe: Recipe, layers: list[Built], epoch: int, writer: ImageWriter) -> None:
    descriptors = [_describe_file(layer.file.path) for layer in layers]
    for layer, descriptor in zip(layers, descriptors, strict=True):
        writer.push_blob(descriptor, layer.file.path)
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    notes = [] if recipe.scratch else [f"mmdebstrap {debian.SUITE}"]
    notes += [layer.note for layer in recipe.layers]
    config = push_config(
        writer,
        {
            "created": created,
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": recipe.config,
            "rootfs": {"type": "layers", "diff_ids": [layer.file.diff_id for layer in layers]},
            "history": [{"created": created, "created_by": text} for text in notes],
        },
    )
    document = image_document(config, descriptors, {})
    writer.push_manifest(encode_json(document), OCI_MANIFEST, tag=True)


def _describe_file(path: Path) -> Descriptor:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Descriptor(OCI_LAYER_GZIP, f"sha256:{digest}", path.stat().st_size)

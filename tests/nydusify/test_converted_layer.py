"""Converted layers on their own: records, the order of data, what layers share, dictionaries."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fs.format.bootstrap import Bootstrap, Extent
from fs.format.chunkinfo import ChunkFlag
from fs.format.errors import FormatError
from fs.format.versions import open_bootstrap
from nydusify.blobs.chunk_dictionary import ChunkDictionary
from nydusify.blobs.data_order import DataOrder
from nydusify.layers.converted_layer import (
    ConvertedLayer,
    read_converted_layer,
    write_converted_layer,
)
from nydusify.layers.layer_conversion import LayerOptions, Shaping, convert_layer
from nydusify.layers.sources import SourceLayer, open_source
from nydusify.operations.image_conversion import convert_layers, write_bootstrap_file
from nydusify.options import ConvertOptions
from nydusify.report import Silence
from tests.nydusify.images import convert_tars
from tests.parts.examples import examples
from tests.parts.layers import LayerTar
from tests.parts.stacks import UPPERS, base

KIB = 1 << 10


def text(seed: int, size: int) -> bytes:
    """Content that compresses, and that no other seed gives."""
    words = random.Random(seed).choices([b"alpha ", b"beta ", b"gamma\n", b"%d " % seed], k=size)
    return b"".join(words)[:size]


def source_of(tar: bytes, work: Path) -> SourceLayer:
    path = work / "one.tar"
    path.write_bytes(tar)
    with open_source(f"layer:{path}", None, ConvertOptions("", "").source_store) as source:
        return source.layers[0]


def converted(
    tar: bytes,
    work: Path,
    options: LayerOptions,
    threads: int = 2,
    dictionary: ChunkDictionary | None = None,
) -> ConvertedLayer:
    work.mkdir(exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        source = source_of(tar, work)
        return convert_layer(source, options, work / "blob", pool, lambda _: None, dictionary)


def record_of(layer: ConvertedLayer, dictionary: ChunkDictionary | None = None) -> bytes:
    out = io.BytesIO()
    write_converted_layer(layer, out, dictionary)
    return out.getvalue()


def mixed_layer() -> bytes:
    """Files of all sizes around those of chunks and batches, some of them twice, and a hole."""
    tar = LayerTar().directory("d")
    for number in range(60):
        tar.add(f"d/{number}", data=text(number % 50, 300 * number + 1))
    tar.add("large", data=text(99, 200 * KIB + 5)).add("zeros", data=bytes(150 * KIB))
    return tar.link("again", "d/7").symlink("s", "d").add(".wh.gone").add("d/.wh..wh..opq").tar()


SMALL = LayerOptions(chunk_size=64 * KIB, batch_size=32 * KIB)

# --- records -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UPPERS)
def test_a_record_gives_the_layer_back(name: str, tmp_path: Path) -> None:
    """The same image comes of what was read back, and the same record of that."""
    tars = [base().tar(), UPPERS[name].tar()]
    options = ConvertOptions("", "", chunk_size=4096)
    images = []
    for kept in (None, Kept(tmp_path)):
        work = tmp_path / f"work-{bool(kept)}"
        work.mkdir()
        sources = [source_of_file(tar, work / f"{n}.tar") for n, tar in enumerate(tars)]
        if kept:
            convert_layers(sources, options, work, Silence(), store=kept)
        image = convert_layers(sources, options, work, Silence(), store=kept)
        write_bootstrap_file(image, options, work / "boot")
        images.append((work / "boot").read_bytes())
    assert images[0] == images[1]


def source_of_file(tar: bytes, path: Path) -> SourceLayer:
    path.write_bytes(tar)
    with open_source(f"layer:{path}", None, ConvertOptions("", "").source_store) as source:
        return source.layers[0]


class Kept:
    """A LayerStore in memory, by the layer's name."""

    def __init__(self, work: Path) -> None:
        self.records: dict[str, tuple[bytes, Path]] = {}
        self._work = work

    def find(self, source: SourceLayer, options: Shaping) -> ConvertedLayer | None:
        if source.name not in self.records:
            return None
        record, blob = self.records.pop(source.name)
        layer = read_converted_layer(io.BytesIO(record), blob, "record")
        assert record_of(layer) == record
        return layer

    def keep(self, source: SourceLayer, options: Shaping, converted: ConvertedLayer) -> None:
        blob = converted.blob.path if converted.blob else self._work
        self.records[source.name] = record_of(converted), blob


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    work = tmp_path_factory.mktemp("record")
    return zstandard.decompress(
        record_of(converted(mixed_layer(), work, SMALL)), max_output_size=1 << 20
    )


@settings(deadline=None, max_examples=examples(300))
@given(st.data())
def test_a_damaged_record_is_a_format_error(record: bytes, data: st.DataObject) -> None:
    damaged = bytearray(record)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(record))) or len(record) :]
    try:
        layer = read_converted_layer(io.BytesIO(zstandard.compress(damaged)), Path("b"), "record")
    except FormatError:
        return
    for child in layer.layer.root.children.values():
        assert len(list(child.chunks)) == len(child.chunks)


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"", b"n" * 256])
def test_a_record_leads_nowhere(name: bytes, tmp_path: Path) -> None:
    """It may come from a registry, and what makes it need not be our tar reader."""
    layer = converted(LayerTar().add("a", data=b"a").tar(), tmp_path, LayerOptions())
    root = layer.layer.root
    root.children[name] = root.children.pop(b"a")
    with pytest.raises(FormatError, match="is no name"):
        read_converted_layer(io.BytesIO(record_of(layer)), tmp_path, "record")


# --- blobs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [0, 4 * KIB, 32 * KIB])
def test_threads_do_not_matter(batch_size: int, tmp_path: Path) -> None:
    options = LayerOptions(64 * KIB, batch_size, order=DataOrder(["/d/9", "/large"]))
    records, blobs = set(), set()
    for threads in (1, 2, 8):
        layer = converted(mixed_layer(), tmp_path / str(threads), options, threads)
        assert layer.blob
        records.add(record_of(layer).replace(str(threads).encode(), b""))
        blobs.add(layer.blob.path.read_bytes())
    assert len(blobs) == 1


def test_wanted_files_lie_first_in_their_order(tmp_path: Path) -> None:
    order = DataOrder(["/d/40", "large", "/d/7"])
    layer = converted(mixed_layer(), tmp_path, LayerOptions(64 * KIB, 32 * KIB, order=order))
    root = layer.layer.root
    directory = root.children[b"d"]
    wanted = [directory.children[b"40"], root.children[b"large"], directory.children[b"7"]]
    positions = [[chunk.position for chunk in node.chunks] for node in wanted]
    starts = [min(chunk.compressed_offset for chunk in node.chunks) for node in wanted]
    assert sorted(chain(*positions)) == list(range(sum(map(len, positions))))
    last = max(c.compressed_offset for node in wanted for c in node.chunks)
    others = [node for name, node in directory.children.items() if name not in (b"40", b"7")]
    assert all(chunk.compressed_offset > last for node in others for chunk in node.chunks)
    assert min(starts) == 0


def test_compressed_offsets_ascend_with_positions(tmp_path: Path) -> None:
    """As nydusd expects it, with chunks of batches at the place of their batch."""
    layer = converted(mixed_layer(), tmp_path, SMALL)
    chunks = list(layer.chunks)
    offsets = [chunk.compressed_offset for chunk in chunks]
    assert offsets == sorted(offsets)
    batched = [chunk for chunk in chunks if chunk.flags & ChunkFlag.BATCH]
    assert batched
    assert {chunk.context for chunk in batched} == set(range(batched[-1].context + 1))
    assert all(chunk.uncompressed_size < 16 * KIB for chunk in batched)


def test_a_batch_of_one_is_an_ordinary_chunk(tmp_path: Path) -> None:
    layer = converted(LayerTar().add("a", data=text(1, 100)).tar(), tmp_path, SMALL)
    (chunk,) = layer.chunks
    assert not chunk.flags & ChunkFlag.BATCH


# --- between layers ------------------------------------------------------------------------


def test_a_chunk_of_a_lower_layer_is_taken_from_there(tmp_path: Path) -> None:
    low = LayerTar().add("a", data=text(1, 9000)).add("b", data=text(2, 9000)).tar()
    high = LayerTar().add("copy", data=text(1, 9000)).add("new", data=text(3, 9000)).tar()
    image = converted_image([low, high], tmp_path)
    assert place(image, b"copy", 9000) == place(image, b"a", 9000)
    assert place(image, b"new", 9000).blob_index == 1


def place(image: Bootstrap, name: bytes, size: int) -> Extent:
    """Where all of the file lies."""
    nid = image.lookup(image.root, name)
    assert nid is not None
    (extent,) = image.extents(nid, 0, size)
    return extent


def converted_image(
    tars: Sequence[bytes], work: Path, dictionary: ChunkDictionary | None = None
) -> Bootstrap:
    options = ConvertOptions("", "")
    sources = [source_of_file(tar, work / f"{n}.tar") for n, tar in enumerate(tars)]
    image = convert_layers(sources, options, work, Silence(), dictionary=dictionary)
    write_bootstrap_file(image, options, work / "image.boot")
    return open_bootstrap((work / "image.boot").read_bytes(), "image")


def test_a_blob_of_which_nothing_shows_shares_nothing(tmp_path: Path) -> None:
    """Else a hidden layer would be needed for what an upper layer has as well."""
    low = LayerTar().add("d/a", data=text(1, 9000)).tar()
    high = LayerTar().add("d/.wh..wh..opq").add("d/a", data=text(1, 9000)).add("b", data=b"b").tar()
    assert len(converted_image([low, high], tmp_path).blobs) == 1


def test_a_layer_that_only_repeats_brings_no_blob(tmp_path: Path) -> None:
    low = LayerTar().add("a", data=text(1, 9000)).add("b", data=text(2, 9000)).tar()
    changed = LayerTar().add("a", data=text(1, 9000), uid=7).tar()
    image = converted_image([low, changed], tmp_path)
    assert len(image.blobs) == 1
    nid = image.lookup(image.root, b"a")
    assert nid is not None
    assert image.inode(nid).uid == 7


# --- dictionaries --------------------------------------------------------------------------


def test_chunks_of_a_dictionary_are_not_stored_again(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    known = [(f"k{n}", text(n, 5000)) for n in range(20)]
    tar = LayerTar()
    for name, data in known:
        tar.add(name, data=data)
    base_image = converted_image([tar.tar()], old)
    dictionary = ChunkDictionary(base_image, base_image.chunk_size)
    assert len(dictionary) == 20
    fresh = LayerTar().add("own", data=text(77, 5000))
    for name, data in known[5:]:
        fresh.add(f"again-{name}", data=data)
    image = converted_image([fresh.tar()], new, dictionary)
    assert [blob.blob_id for blob in image.blobs][1:] == [base_image.blobs[0].blob_id]
    assert image.blobs[0].chunk_count == 1
    for name, data in known[5:]:
        found = place(image, f"again-{name}".encode(), len(data))
        assert found._replace(blob_index=0) == place(base_image, name.encode(), len(data))
        assert found.blob_index == 1


def test_a_record_names_chunks_of_its_dictionary(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    base_image = converted_image([LayerTar().add("a", data=text(1, 500)).tar()], tmp_path / "old")
    dictionary = ChunkDictionary(base_image, base_image.chunk_size)
    tar = LayerTar().add("b", data=text(1, 500)).add("c", data=b"c").tar()
    layer = converted(tar, tmp_path / "new", LayerOptions(), dictionary=dictionary)
    record = record_of(layer, dictionary)
    again = read_converted_layer(io.BytesIO(record), tmp_path, "record", dictionary)
    assert record_of(again, dictionary) == record
    with pytest.raises(FormatError, match="dictionary"):
        read_converted_layer(io.BytesIO(record), tmp_path, "record")


def test_nothing_of_a_stack_is_stored_when_all_is_known(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = converted_image([mixed_layer()], tmp_path / "a")
    dictionary = ChunkDictionary(first, first.chunk_size)
    second = converted_image([mixed_layer()], tmp_path, dictionary)
    assert [blob.blob_id for blob in second.blobs] == [first.blobs[0].blob_id]


def test_the_tree_is_the_same_with_batches_and_without(tmp_path: Path) -> None:
    tars = [mixed_layer(), LayerTar().add("d/9", data=text(3, 70 * KIB)).tar()]
    trees = []
    for batch_size in (0, 4 * KIB, 64 * KIB):
        work = tmp_path / str(batch_size)
        work.mkdir()
        options = ConvertOptions(
            "", "", chunk_size=64 * KIB, batch_size=batch_size, prefetch=("/large", "/d/50")
        )
        trees.append(convert_tars(tars, work, options))
    assert trees[0] == trees[1] == trees[2]


def test_a_record_of_which_too_much_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small nodes without end, each right in itself."""
    monkeypatch.setattr("nydusify.layers.converted_layer._MAX_DECODED", 1 << 16)
    node = msgpack.packb([0, b"x", None, 0, [], 0o100644, *[0] * 7, b"", {}, None])
    whole = record_of(converted(LayerTar().add("a").tar(), tmp_path, LayerOptions()))
    content = zstandard.ZstdDecompressor().decompressobj().decompress(whole)
    many = zstandard.compress(content + node * 100_000)
    with pytest.raises(FormatError, match="more than 0 MiB"):
        read_converted_layer(io.BytesIO(many), tmp_path, "many")

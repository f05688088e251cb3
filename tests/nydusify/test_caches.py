"""Layers that were converted before: neither fetched nor converted, nor pushed again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fs import mounts
from fs.registry.store import open_reader
from nydusify.cli import main
from nydusify.layers.layer_cache import LayerCache
from tests.nydusify.test_convert import assert_shows, publish, stack
from tests.parts.layers import LayerTar
from tests.parts.registry import Registry
from tests.parts.waiting import eventually

pytestmark = [pytest.mark.registry, pytest.mark.root, pytest.mark.overlay]

STORAGE = 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NYDUSIFY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def convert(source: str, target: str, *more: str) -> int:
    return main(["convert", "--source", source, "--target", target, *more])


def digest_of(place: str) -> str:
    with closing(open_reader(place)) as reader:
        return reader.resolve(nydus=True).descriptor.digest


class Watch:
    """The requests for blobs of a repository since it began."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self._registry = registry
        self._path = f"/v2/{repository}/blobs/"
        self._before = len(registry.requests(self._path))

    def requests(self) -> list[dict[str, Any]]:
        return self._registry.requests(self._path)[self._before :]

    def methods(self) -> set[str]:
        return {request["http.request.method"] for request in self.requests()}

    def fetched(self) -> list[str]:
        """Digests, each time one was fetched."""
        return [
            request["http.request.uri"].rpartition("/")[2]
            for request in self.requests()
            if request["http.request.method"] == "GET"
        ]


def layers_of(place: str) -> list[str]:
    with closing(open_reader(place)) as reader:
        return [layer.digest for layer in reader.resolve().manifest.layers]


def test_the_same_image_again(registry: Registry, tmp_path: Path) -> None:
    source, target = f"{registry.host}/again/source:1", f"{registry.host}/again/target:1"
    publish(source, stack())
    assert convert(source, target) == 0
    first = digest_of(target)
    reading, writing = Watch(registry, "again/source"), Watch(registry, "again/target")
    report = tmp_path / "report.json"
    assert convert(source, target, "--output-json", str(report)) == 0
    assert [layer["kept"] for layer in json.loads(report.read_text())["layers"]] == [True] * 4
    assert reading.methods() <= {"HEAD"}
    assert writing.methods() == {"HEAD"}
    assert digest_of(target) == first
    assert_shows(target, stack(), tmp_path)


def test_a_new_tag_that_shares_layers(registry: Registry, tmp_path: Path) -> None:
    place = f"{registry.host}/shares/image"
    new = [*stack()[:2], LayerTar().add("new", data=b"new" * 5000).tar()]
    publish(f"{place}:1", stack(), encoding="zstd")
    publish(f"{place}:2", new, encoding="zstd")
    assert convert(f"{place}:1", f"{registry.host}/shares/nydus:1") == 0
    with closing(open_reader(f"{place}:2")) as reader:
        image = reader.resolve().manifest
    watch = Watch(registry, "shares/image")
    assert convert(f"{place}:2", f"{registry.host}/shares/nydus:2") == 0
    assert watch.fetched() == [image.config.digest, image.layers[2].digest]
    assert_shows(f"{registry.host}/shares/nydus:2", new, tmp_path)
    assert convert(f"{place}:2", f"{registry.host}/shares/fresh:2", "--no-layer-cache") == 0
    assert digest_of(f"{registry.host}/shares/fresh:2") == digest_of(
        f"{registry.host}/shares/nydus:2"
    )


def test_other_options_are_other_layers(registry: Registry) -> None:
    source = f"{registry.host}/options/source:1"
    publish(source, stack()[:2])
    digests = set()
    for number, options in enumerate([(), ("--compressor", "none"), ("--chunk-size", "64KiB")]):
        watch = Watch(registry, "options/source")
        for _ in range(2):
            assert convert(source, f"{registry.host}/options/{number}:1", *options) == 0
        digests.add(digest_of(f"{registry.host}/options/{number}:1"))
        expected = 3 if number == 0 else 2  # the configuration is fetched once
        assert len(watch.fetched()) == expected
    assert len(digests) == 3


def test_another_target_gets_the_kept_blobs(registry: Registry, tmp_path: Path) -> None:
    source = f"{registry.host}/elsewhere/source:1"
    publish(source, stack())
    assert convert(source, f"{registry.host}/elsewhere/a:1") == 0
    watch = Watch(registry, "elsewhere/source")
    assert convert(source, f"oci:{tmp_path}/out:b") == 0
    assert watch.requests() == []
    assert_shows(f"oci:{tmp_path}/out:b", stack(), tmp_path)


@pytest.mark.parametrize("part", ["layers", "blobs"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damaged_entries_are_converted_again(
    cache: Path, tmp_path: Path, part: str, damage: str
) -> None:
    publish(f"oci:{tmp_path}/in:a", stack())
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/first:b") == 0
    files = list((cache / part).iterdir())
    assert files
    for file in files:
        if damage == "gone":
            file.unlink()
        else:
            raw = bytearray(file.read_bytes())
            raw[-9] ^= 1
            file.write_bytes(raw if damage == "changed" else raw[: len(raw) // 2])
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/second:b") == 0
    assert digest_of(f"oci:{tmp_path}/second:b") == digest_of(f"oci:{tmp_path}/first:b")
    assert_shows(f"oci:{tmp_path}/second:b", stack(), tmp_path)
    with closing(LayerCache(cache, 1 << 40)) as kept:
        assert len(kept.entries()) == 4


def stored(watch: Watch) -> set[str]:
    """Digests of the blobs whose upload was completed."""
    return {
        request["http.request.uri"].partition("digest=")[2]
        for request in watch.requests()
        if request["http.request.method"] == "PUT" and request["http.response.status"] == 201
    }


def test_a_killed_conversion_goes_on(registry: Registry, tmp_path: Path) -> None:
    """SIGKILL once the first blob has arrived, which is neither made nor pushed again."""
    source, target = f"{registry.host}/killed/source:1", f"{registry.host}/killed/target:1"
    low, _, _, nothing = stack()
    large = LayerTar()
    for number in range(40):
        large.add(f"large{number}", data=os.urandom(1 << 20))
    publish(source, [low, large.tar(), nothing])
    command = [sys.executable, "-m", "nydusify.cli", "convert", "--source", source,
               "--target", target, "--threads", "1",
               "--work-dir", str(tmp_path / "work")]  # fmt: skip
    writing = Watch(registry, "killed/target")
    process = subprocess.Popen(command)
    try:
        eventually(
            lambda: [r for r in writing.requests() if r["http.request.method"] == "PUT"],
            "a blob has arrived",
            pause=0.002,
        )
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    arrived = stored(writing)
    assert registry.requests("/v2/killed/target/manifests/") == []
    reading, writing = Watch(registry, "killed/source"), Watch(registry, "killed/target")
    assert convert(source, target) == 0
    assert layers_of(source)[0] not in reading.fetched()
    assert arrived
    assert not arrived & stored(writing)
    assert_shows(target, [low, large.tar(), nothing], tmp_path)


def test_layers_are_kept_by_dictionary(registry: Registry, tmp_path: Path) -> None:
    """A layer that refers to a dictionary is another one than the same without it."""
    place = f"{registry.host}/kept-dict"
    low = stack()[0]
    for tag, tar in (("old", low), ("new", LayerTar().add("own", data=b"own" * 9000).tar())):
        publish(f"{place}:{tag}", [low, tar][tag == "old" :])
    assert convert(f"{place}:old", f"{place}:old-n", "--no-layer-cache") == 0
    use = ("--chunk-dict", f"{place}:old-n")
    for tag in ("a", "b"):
        watch = Watch(registry, "kept-dict")
        assert convert(f"{place}:new", f"{registry.host}/kept-dict-target:{tag}", *use) == 0
    read = [digest for digest in watch.fetched() if digest in layers_of(f"{place}:new")]
    assert read == []
    assert digest_of(f"{registry.host}/kept-dict-target:a") == digest_of(
        f"{registry.host}/kept-dict-target:b"
    )
    assert_shows(f"{registry.host}/kept-dict-target:b", [low, tar], tmp_path)
    watch = Watch(registry, "kept-dict")
    assert convert(f"{place}:new", f"{registry.host}/kept-dict-target:c") == 0
    assert set(layers_of(f"{place}:new")) <= set(watch.fetched())


def test_a_kept_layer_whose_blob_is_only_at_the_backend(cache: Path, tmp_path: Path) -> None:
    """What guesses the start reads it there."""
    python = LayerTar().directory("usr").directory("usr/bin")
    python.add("usr/bin/app", data=b"#!/usr/bin/sh\n" + b"x" * 9000, mode=0o755)
    python.add("usr/bin/sh", data=b"\x7fELF" + bytes(9000), mode=0o755)
    publish(f"oci:{tmp_path}/in:a", [python.tar()], config={"config": {"Cmd": ["/usr/bin/app"]}})
    config = json.dumps({"dir": str(tmp_path / "blobs")})
    use = ("--backend-type", "localfs", "--backend-config", config)
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b", *use) == 0
    for blob in (cache / "blobs").iterdir():
        blob.unlink()
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:c", *use) == 0
    assert list((cache / "blobs").iterdir()) == []
    assert digest_of(f"oci:{tmp_path}/out:b") == digest_of(f"oci:{tmp_path}/out:c")


def test_what_has_no_digest_is_not_kept(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(stack()[0])
    for _ in range(2):
        assert convert(f"layer:{tmp_path}/l", f"oci:{tmp_path}/out:b") == 0
    assert list((cache / "layers").iterdir()) == []


# --- room ---------------------------------------------------------------------------------------


def kept_sources(cache: Path) -> list[str]:
    with closing(LayerCache(cache, 1 << 40)) as opened:
        return [entry.source for entry in opened.entries()]


def test_the_least_recently_used_go(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tars = [LayerTar().add(f"f{n}", data=os.urandom(300_000)).tar() for n in range(3)]
    for number, tar in enumerate([*tars, tars[0]]):
        publish(f"oci:{tmp_path}/in:{number}", [tar], encoding="zstd")
        assert convert(f"oci:{tmp_path}/in:{number}", f"oci:{tmp_path}/out:{number}",
                       "--layer-cache-size", "700K") == 0  # fmt: skip
        time.sleep(0.01)
    first, _, third = (layers_of(f"oci:{tmp_path}/in:{n}")[0] for n in range(3))
    assert kept_sources(cache) == [first, third]
    assert len(list((cache / "blobs").iterdir())) == 2
    capsys.readouterr()
    assert main(["cache", "ls", "--json"]) == 0
    assert [entry["source"] for entry in json.loads(capsys.readouterr().out)] == [first, third]
    assert main(["cache", "ls"]) == 0
    assert first in capsys.readouterr().out
    assert main(["cache", "prune", "--size", "400K"]) == 0
    assert kept_sources(cache) == [first]
    assert main(["cache", "prune", "--json"]) == 0
    assert kept_sources(cache) == []
    assert list((cache / "blobs").iterdir()) == list((cache / "documents").iterdir()) == []


def test_a_cache_in_use_is_not_pruned(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(f"oci:{tmp_path}/in:a", stack())
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b") == 0
    with closing(LayerCache(cache, 1 << 40)) as used:
        before = used.entries()
        assert main(["cache", "prune"]) == STORAGE
        assert "in use by another nydusify" in capsys.readouterr().err
        assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:c",
                       "--layer-cache-size", "1") == 0  # fmt: skip
        assert {entry.key for entry in used.entries()} == {entry.key for entry in before}


def test_several_at_once(registry: Registry, cache: Path, tmp_path: Path) -> None:
    source = f"{registry.host}/several/source:1"
    publish(source, stack())
    commands = [
        [sys.executable, "-m", "nydusify.cli", "convert", "--source", source,
         "--target", f"{registry.host}/several/{number}:1"]
        for number in range(4)
    ]  # fmt: skip
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait() for process in running] == [0] * 4
    assert len({digest_of(f"{registry.host}/several/{number}:1") for number in range(4)}) == 1
    assert len(kept_sources(cache)) == 4
    assert not list(cache.rglob(".new-*"))


def test_a_cache_that_cannot_be_used_costs_a_note(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(f"oci:{tmp_path}/in:a", stack())
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b") == 0
    assert "note: no cache of layers" in capsys.readouterr().err
    assert list(cache.iterdir()) == []
    assert_shows(f"oci:{tmp_path}/out:b", stack(), tmp_path)


def test_a_full_disk_costs_a_note(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(f"oci:{tmp_path}/in:a", stack())
    cache.mkdir(mode=0o700)
    mounts.mount("tmpfs", cache, "tmpfs", 0, "size=1m,mode=700")
    try:
        for tag in ("b", "c"):
            assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:{tag}") == 0
            assert "No space left on device" in capsys.readouterr().err
        assert not list(cache.rglob(".new-*"))
    finally:
        mounts.umount(cache, mounts.MNT_DETACH)
    assert_shows(f"oci:{tmp_path}/out:c", stack(), tmp_path)


# --- the registry's cache -----------------------------------------------------------------------


def entries(place: str) -> list[dict[str, Any]]:
    with closing(open_reader(place)) as reader:
        index = reader.index()
        assert index
        layers: list[dict[str, Any]] = json.loads(reader.read_manifest(index.manifests[0]))[
            "layers"
        ]
    return layers


def records(place: str) -> list[str]:
    return [
        layer["annotations"]["containerd.io/snapshot/nydus-source-digest"]
        for layer in entries(place)
        if layer["mediaType"] == "application/vnd.lazyrun.converted-layer.v1"
    ]


def other_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NYDUSIFY_CACHE", str(tmp_path / "other"))


def test_another_machine_uses_the_build_cache(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = f"{registry.host}/build"
    publish(f"{at}/source:1", stack())
    use = ("--build-cache", f"{at}/cache:v")
    assert convert(f"{at}/source:1", f"{at}/one:1", *use) == 0
    assert records(f"{at}/cache:v") == layers_of(f"{at}/source:1")
    other_machine(monkeypatch, tmp_path)
    reading, writing = Watch(registry, "build/source"), Watch(registry, "build/two")
    assert convert(f"{at}/source:1", f"{at}/two:1", *use) == 0
    assert len(reading.fetched()) == 1  # the configuration
    uploads = [r for r in writing.requests() if r["http.request.method"] == "PUT"]
    assert len(uploads) == 2  # configuration and bootstrap; the blobs were mounted
    assert digest_of(f"{at}/two:1") == digest_of(f"{at}/one:1")
    assert_shows(f"{at}/two:1", stack(), tmp_path)
    reading = Watch(registry, "build/source")
    assert convert(f"{at}/source:1", f"oci:{tmp_path}/out:b", *use) == 0  # where nothing is mounted
    assert reading.requests() == []


def test_what_a_build_cache_brought_is_for_those_who_name_it(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a conversion without it would believe whoever may push to it."""
    at = f"{registry.host}/believed"
    publish(f"{at}/source:1", stack())
    use = ("--build-cache", f"{at}/cache:v")
    assert convert(f"{at}/source:1", f"{at}/one:1", *use) == 0
    other_machine(monkeypatch, tmp_path)
    assert convert(f"{at}/source:1", f"{at}/two:1", *use) == 0
    reading = Watch(registry, "believed/source")
    assert convert(f"{at}/source:1", f"{at}/three:1") == 0
    assert set(layers_of(f"{at}/source:1")) <= set(reading.fetched())
    assert digest_of(f"{at}/three:1") == digest_of(f"{at}/one:1")


def test_without_a_cache_of_its_own(registry: Registry, tmp_path: Path) -> None:
    """And to a target that cannot mount."""
    at = f"{registry.host}/build-only"
    publish(f"{at}/source:1", stack())
    use = ("--build-cache", f"{at}/cache:v", "--no-layer-cache")
    assert convert(f"{at}/source:1", f"oci:{tmp_path}/one:b", *use) == 0
    reading = Watch(registry, "build-only/source")
    assert convert(f"{at}/source:1", f"oci:{tmp_path}/two:b", *use) == 0
    assert len(reading.fetched()) == 1
    assert digest_of(f"oci:{tmp_path}/one:b") == digest_of(f"oci:{tmp_path}/two:b")
    assert_shows(f"oci:{tmp_path}/two:b", stack(), tmp_path)


def test_the_build_cache_beside_the_target_keeps_the_latest(registry: Registry) -> None:
    place = f"{registry.host}/build-tag"
    tars = [LayerTar().add(f"f{n}", data=b"%d" % n * 9000).tar() for n in range(3)]
    for number, tar in enumerate(tars):
        publish(f"{place}:{number}", [tar])
        assert convert(f"{place}:{number}", f"{place}:n{number}", "--build-cache-tag", "cache",
                       "--build-cache-max-records", "2") == 0  # fmt: skip
    first, second, third = (layers_of(f"{place}:{n}")[0] for n in range(3))
    assert records(f"{place}:cache") == [third, second]
    assert convert(f"{place}:1", f"{place}:n1", "--build-cache-tag", "cache",
                   "--build-cache-max-records", "2") == 0  # fmt: skip
    assert records(f"{place}:cache") == [second, third]
    assert first not in records(f"{place}:cache")
    assert convert(f"{place}:0", f"{place}:n0", "--build-cache-tag", "cache",
                   "--build-cache-version", "v2") == 0  # fmt: skip
    assert records(f"{place}:cache") == [first]  # other versions are as good as nothing


def test_what_is_wrong_with_a_build_cache_costs_a_note(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{registry.host}/build-wrong"
    publish(f"{place}:1", stack())
    assert convert(f"{place}:1", f"{place}:n", "--build-cache", f"{place}:1") == 0
    assert "no build cache" in capsys.readouterr().err  # it is an image, and stays one
    assert records_are_of_an_image(f"{place}:1")
    assert convert(f"{place}:1", f"{place}:m", "--build-cache", "127.0.0.1:1/x:1",
                   "--push-retry-count", "0") == 0  # fmt: skip
    assert "no build cache" in capsys.readouterr().err
    assert digest_of(f"{place}:m") == digest_of(f"{place}:n")


def records_are_of_an_image(place: str) -> bool:
    with closing(open_reader(place)) as reader:
        return len(reader.resolve().manifest.layers) == 4


@pytest.mark.parametrize("what", ["record", "blob"])
def test_damaged_entries_of_a_build_cache(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The cache as a layout, so that its files can be damaged: nothing wrong gets through."""
    publish(f"oci:{tmp_path}/in:a", stack())
    use = ("--build-cache", f"oci:{tmp_path}/kept:v")
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/one:b", *use) == 0
    kind = "converted-layer" if what == "record" else "nydus.blob"
    for layer in entries(f"oci:{tmp_path}/kept:v"):
        if kind in layer["mediaType"]:
            path = tmp_path / "kept/blobs/sha256" / layer["digest"][7:]
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.write_bytes(raw)
    other_machine(monkeypatch, tmp_path)
    capsys.readouterr()
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/two:b", *use) == 0
    assert "note: cache of layers" in capsys.readouterr().err
    assert digest_of(f"oci:{tmp_path}/two:b") == digest_of(f"oci:{tmp_path}/one:b")
    assert_shows(f"oci:{tmp_path}/two:b", stack(), tmp_path)

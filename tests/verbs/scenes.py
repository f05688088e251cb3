"""What the examples in help texts speak of, made real: images, registries, files, a container.

`Scenery` is made once. Each verb's examples run in a directory of their own, in which one of
`SCENES` has put what they name.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs.registry.descriptor import Descriptor
from fs.registry.mediatypes import OCI_INDEX
from fs.registry.platform import default_platform, parse_platform
from fs.registry.store import StoreOptions, open_reader, open_writer
from nydusify.cli import main
from tests.nydusify.images import pull
from tests.nydusify.test_convert import publish
from tests.parts.containerd import Containerd
from tests.parts.layers import LayerTar, overlay_mount
from tests.parts.registry import (
    Registry,
    free_port,
    htpasswd_auth,
    self_signed,
    start_registry,
)
from tests.parts.waiting import PATIENCE

COMMANDS = Path(sys.executable).parent
_PATH = "PATH=/bin:/sbin:/usr/bin:/usr/sbin"
OTHER = "linux/arm64" if str(default_platform()) != "linux/arm64" else "linux/amd64"


@dataclass(frozen=True)
class Scenery:
    """`images` is a layout: `1` is plain, of all other tags each a Nydus image."""

    images: Path
    registry: Registry
    private: Registry
    certificate: Path
    port: int
    containerd: Containerd

    def words(self, place: Path) -> dict[str, str]:
        """What stands in help texts → what is meant here."""
        return {
            "reg.example.com": f"{self.registry.host}/listening",
            "registry.example.com": self.registry.host,
            "mirror.example.com": f"{self.registry.host}/mirror",
            "private.example.com": self.private.host,
            "--ready-port 80": f"--ready-port {self.port}",
            "linux/arm64": OTHER,
            "/srv/blobs": f"{place}/srv",
            "/var/lib/x/upper": f"{place}/upper",
            " /mnt": f" {place}/mnt",
        }

    def environment(self, place: Path) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{COMMANDS}:{os.environ['PATH']}",
            "LAZYRUN_ROOT": f"{place}/root",
            "NYDUS_FS_STATE_ROOT": f"{place}/state",
            "NYDUS_FS_CACHE_DIR": f"{place}/cache",
            "NYDUSIFY_CACHE": f"{place}/kept",
            "CONTAINERD_ADDRESS": str(self.containerd.address),
        }


@contextmanager
def build_scenery(
    root: Path, base_layer: bytes, registry: Registry, containerd: Containerd
) -> Iterator[Scenery]:
    port, images, host = free_port(), root / "images", registry.host
    layers: list[bytes] = [gzip.decompress(base_layer), _wasted(), _app().tar()]
    _publish(f"oci:{images}:1", layers, ["/usr/bin/app"])
    _publish(
        f"oci:{images}:other", [*layers, LayerTar().add("etc/app", data=b"2" * 9000).tar()], ["app"]
    )
    _nydus(f"oci:{images}:1", f"oci:{images}:nydus")
    _nydus(f"oci:{images}:other", f"oci:{images}:b")
    for tag in ("a", "app1", "gcc"):
        _copy(f"oci:{images}:nydus", f"oci:{images}:{tag}")
    _copy(f"oci:{images}:b", f"oci:{images}:app2")
    _publish_index(f"{host}/app:1", layers)
    for name in ("app:nydus", "dict:1", "listening/a:nydus"):
        _copy(f"oci:{images}:nydus", f"{host}/{name}")
    _copy(f"oci:{images}:b", f"{host}/listening/b:nydus")
    _publish(f"{host}/listening/app:1", layers, ["nc", "-l", "-p", str(port)])
    _nydus(f"{host}/listening/app:1", f"{host}/listening/app:nydus")
    containerd.ctr("images", "pull", "--plain-http", f"{host}/app:1")
    certificate, key = self_signed(root)
    auth = htpasswd_auth(root, "user", "secret")
    tls = {"certificate": str(certificate), "key": str(key)}
    with start_registry(root, auth=auth, tls=tls) as private:
        logins = {"auths": {private.host: {"username": "user", "password": "secret"}}}
        (root / "login.json").write_text(json.dumps(logins))
        access = StoreOptions(ca_file=certificate, auth_file=root / "login.json")
        _publish(f"oci:{root}/private:1", [_app().tar()], ["app"])
        words = ["--ca-file", str(certificate), "--auth-file", str(access.auth_file)]
        _copy(f"oci:{root}/private:1", f"{private.host}/app:1", *words)
        yield Scenery(images, registry, private, certificate, port, containerd)


def _wasted() -> bytes:
    """A layer of which the next one leaves little."""
    noise = random.Random(1).randbytes(300_000)
    return LayerTar().add("var/waste", data=noise).add("var/kept", data=noise[:9000]).tar()


def _app() -> LayerTar:
    """What the examples name inside of images."""
    tar = LayerTar().add("etc/app", data=b"settings of app\n" * 900).directory("var/lib/data")
    tar.add("usr/bin/app", data=b"#!/bin/sh\ncat /etc/app\n", mode=0o755)
    tar.symlink("usr/bin/gcc", "/bin/busybox").symlink("usr/bin/python3", "/bin/sh")
    return tar.add("usr/share/zoneinfo/UTC", data=b"UTC").add("var/.wh.waste")


def _publish(place: str, tars: list[bytes], command: list[str]) -> None:
    config: dict[str, Any] = {
        "architecture": default_platform().architecture,
        "config": {"Env": [_PATH], "Cmd": command},
    }
    publish(place, tars, config=config)


def _publish_index(place: str, tars: list[bytes]) -> None:
    """The image for this machine's platform, and one that only says that it is for another."""
    entries = []
    for platform in (default_platform(), parse_platform(OTHER)):
        config = {
            "architecture": platform.architecture,
            "config": {"Env": [_PATH], "Cmd": ["/usr/bin/app"]},
        }
        publish(f"{place}-{platform.architecture}", tars, config=config)
        manifest = open_reader(f"{place}-{platform.architecture}").resolve(platform).manifest
        entries.append(
            Descriptor(manifest.media_type, manifest.digest, len(manifest.raw), platform=platform)
        )
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry.to_json() for entry in entries],
    }
    writer = open_writer(place)
    writer.push_manifest(json.dumps(index).encode(), OCI_INDEX, tag=True)
    writer.close()


def _nydus(source: str, target: str) -> None:
    assert main(["convert", "--source", source, "--target", target]) == 0


def _copy(source: str, target: str, *more: str) -> None:
    assert main(["copy", "--source", source, "--target", target, *more]) == 0


def put_images(scenery: Scenery, place: Path, _: ExitStack | None = None) -> None:
    shutil.copytree(scenery.images, place / "images")


def put_files(scenery: Scenery, place: Path, _: ExitStack | None = None) -> None:
    """An image as files: image.boot, and blobs/ with its blobs."""
    (place / "blobs").mkdir()
    bootstrap, _blobs = pull(f"oci:{scenery.images}:nydus", place / "blobs")
    bootstrap.rename(place / "image.boot")


def _images_and_files(scenery: Scenery, place: Path, _: ExitStack) -> None:
    put_images(scenery, place)
    put_files(scenery, place)


def _convert(scenery: Scenery, place: Path, _: ExitStack) -> None:
    put_images(scenery, place)
    shutil.copy(scenery.certificate, place / "ca.pem")
    shutil.copy(scenery.certificate.parent / "login.json", place)
    _copy(f"oci:{scenery.images}:1", f"docker-archive:{place}/saved.tar")


def _directories(_: Scenery, place: Path, __: ExitStack) -> None:
    """What file systems are built from; one of them is mounted."""
    for name in ("app", "new", "rootfs"):
        (place / name / "etc").mkdir(parents=True)
        (place / name / "etc/note").write_bytes(name.encode() * 5000)
        (place / name / "etc/same").write_bytes(b"in all of them" * 5000)
    for name in ("blobs", "images", "mnt", "out"):
        (place / name).mkdir()
    (place / "layer.tar.gz").write_bytes(gzip.compress(_app().tar()))


def _layers(_: Scenery, place: Path, __: ExitStack) -> None:
    for name in ("layer1", "layer2"):
        tar = LayerTar().add(name, data=name.encode() * 1000)
        (place / f"{name}.tar.gz").write_bytes(gzip.compress(tar.tar()))
        words = ["create", "-t", "targz-rafs", "--bootstrap", f"{place}/{name}.boot", "--blob-dir"]
        (place / "images").mkdir(exist_ok=True)
        assert main([*words, f"{place}/images", f"{place}/{name}.tar.gz"]) == 0


def _bootstraps(scenery: Scenery, place: Path, _: ExitStack) -> None:
    put_images(scenery, place)
    (place / "bootstraps").mkdir()
    for tag, target in (("a", "bootstraps/a.boot"), ("b", "new.boot")):
        work = place / tag
        work.mkdir()
        pull(f"oci:{scenery.images}:{tag}", work)[0].rename(place / target)


def run_container(scenery: Scenery, place: Path, stack: ExitStack) -> None:
    """The container `build` runs; and somebody else's overlay mount has been written to."""
    for name in ("data", "lower", "upper"):
        (place / name).mkdir()
    (place / "data/kept").write_text("mounted\n")
    (place / "lower/a").write_text("a")
    with overlay_mount([place / "lower"], place / "overlay", place / "upper") as merged:
        (merged / "b").write_text("written")
    run = [
        str(COMMANDS / "lazyrun"),
        "run",
        "-i",
        "--rm",
        "--name",
        "build",
        "-v",
        f"{place}/data:/var/lib/data",
    ]
    script = "echo built >/etc/built; echo no >/tmp/scratch; echo up; read line"
    running = subprocess.Popen(
        [*run, f"{scenery.registry.host}/app:nydus", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=scenery.environment(place),
        text=True,
    )
    stack.callback(running.communicate, "on\n", PATIENCE)
    assert running.stdout
    assert running.stdout.readline() == "up\n"


def _traced(scenery: Scenery, place: Path, _: ExitStack) -> None:
    put_images(scenery, place)
    subprocess.run(
        [str(COMMANDS / "lazyrun"), "run", "--rm", "--trace", "app.trace", "oci:images:nydus"],
        cwd=place,
        env=scenery.environment(place),
        stdout=subprocess.DEVNULL,
        check=True,
    )


def _kept(scenery: Scenery, place: Path, _: ExitStack) -> None:
    """A cache of converted layers with something in it."""
    words = ["convert", "--source", f"oci:{scenery.images}:1", "--target", f"oci:{place}/o:1"]
    assert main([*words, "--layer-cache", f"{place}/kept"]) == 0


def _disk(scenery: Scenery, place: Path, _: ExitStack) -> None:
    put_files(scenery, place)
    (place / "mnt").mkdir()


Scene = Callable[[Scenery, Path, ExitStack], None]
#: For each verb, what its examples name. The stack ends what runs for them.
SCENES: dict[str, Scene] = {
    "nydusify convert": _convert,
    "nydusify check": _images_and_files,
    "nydusify chunkdict": put_images,
    "nydusify commit": run_container,
    "nydusify compact": put_files,
    "nydusify create": _directories,
    "nydusify export": _disk,
    "nydusify inspect": _images_and_files,
    "nydusify merge": _layers,
    "nydusify pack": _directories,
    "nydusify build": _directories,
    "nydusify stat": _bootstraps,
    "nydusify unpack": put_files,
    "nydusify cache": _kept,
    "nydusify optimize": _traced,
}

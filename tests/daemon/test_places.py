"""Mounts whose content comes by mirrors, proxies and configured backends."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fs.daemon import launch
from fs.registry.store import StoreOptions
from tests.daemon.mounting import BIN, Place, nydus_fs
from tests.image.build import BuiltImage
from tests.image.publish import publish
from tests.parts.proxy import start_proxy
from tests.parts.registry import Registry, start_registry
from tests.parts.s3_server import REGION, start_s3
from tests.parts.trees import differences, scan
from tests.parts.waiting import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.fuse]
SECRET = "pr0xy-s3cret"


def nydusd_config(path: Path, kind: str, **fields: object) -> Path:
    path.write_text(json.dumps({"device": {"backend": {"type": kind, "config": fields}}}))
    return path


@pytest.mark.registry
def test_mirror_that_lies_and_then_ends(
    tree: Path, image: BuiltImage, here: Place, registry: Registry, tmp_path: Path
) -> None:
    publish(image, f"{registry.host}/daemon/mirror:1", StoreOptions(plain_http=True))
    directory = tmp_path / "certs.d/images.invalid"
    directory.mkdir(parents=True)
    source, options = "images.invalid/daemon/mirror:1", here.options
    options = options._replace(hosts_dir=str(directory.parent), prefetch="none")
    digest = image.record.blob_id
    (tmp_path / "mirror").mkdir()
    with start_registry(tmp_path / "mirror") as mirror:
        text = f'server = "http://{registry.host}"\n[host."http://{mirror.host}"]'
        (directory / "hosts.toml").write_text(text)
        publish(image, f"{mirror.host}/daemon/mirror:1", StoreOptions(plain_http=True))
        stored = mirror.storage / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
        stored.write_bytes(bytes(stored.stat().st_size))
        launch.mount(source, str(here.mountpoint), options)
        assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
        assert mirror.requests(digest)
        assert here.status()["requests"] == 2
    assert differences(scan(tree), scan(here.mountpoint)) == []
    here.unmount()


@pytest.mark.s3
def test_bucket(tree: Path, image: BuiltImage, here: Place, tmp_path: Path) -> None:
    with start_s3(tmp_path) as server:
        s3 = server.client("s3")
        s3.create_bucket(Bucket="images", CreateBucketConfiguration={"LocationConstraint": REGION})
        name = f"blobs/{image.record.blob_id}"
        s3.put_object(Bucket="images", Key=name, Body=image.blob.read_bytes())
        config = nydusd_config(
            tmp_path / "config.json",
            "s3",
            scheme="http",
            endpoint=server.host,
            region=REGION,
            bucket_name="images",
            object_prefix="blobs/",
            access_key_id=server.key_id,
            access_key_secret=server.secret,
        )
        options = ["--cache-dir", here.root / "cache", "--state-root", here.state]
        done = nydus_fs(
            "mount", image.bootstrap, here.mountpoint, "--backend-config", config, *options
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert differences(scan(tree), scan(here.mountpoint)) == []
        here.unmount()
        assert server.secret not in here.log()


@pytest.mark.registry
def test_proxy_with_a_login(tree: Path, image: BuiltImage, here: Place, registry: Registry) -> None:
    publish(image, f"{registry.host}/daemon/proxy:1", StoreOptions(plain_http=True))
    host, _, port = registry.host.partition(":")
    with start_proxy() as proxy:
        proxy.login = f"user:{SECRET}"
        proxy.names["images.invalid:80"] = (host, int(port))
        command = [BIN / "nydus-fs", "mount", "images.invalid/daemon/proxy:1", here.mountpoint]
        options = ["--plain-http", "--json", "--log-level", "debug", "--outage-deadline", "0"]
        places = ["--cache-dir", here.root / "cache", "--state-root", here.state]
        mounted = subprocess.run(
            [*map(str, [*command, *places]), *options],
            env={**os.environ, "HTTP_PROXY": f"http://user:{SECRET}@{proxy.host}"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
        proxy.login = "another:login"
        with pytest.raises(OSError, match="Input/output error"):
            (here.mountpoint / "big").read_bytes()
        told = mounted.stdout + mounted.stderr + here.log() + json.dumps(here.status())
        assert "407" in here.log()
        assert SECRET not in told
        here.unmount()


@contextlib.contextmanager
def dripping() -> Iterator[str]:
    """A server that sends a byte every tenth of a second."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Length", str(last - first + 1))
            self.send_header("Content-Range", f"bytes {first}-{last}/*")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(first, last + 1):
                    self.wfile.write(b"x")
                    time.sleep(0.1)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def test_dripping_server_holds_a_reader_for_a_bounded_time(
    image: BuiltImage, here: Place, tmp_path: Path
) -> None:
    with dripping() as url:
        config = nydusd_config(tmp_path / "config.json", "http", url=url, timeout=0.5)
        here.mount(image, blob_dir=None, backend_config=str(config), prefetch="none")
        begun = time.monotonic()
        with pytest.raises(OSError, match="Input/output error"):
            (here.mountpoint / "hello").read_bytes()
        # Its deadline is one second; to let the server finish would take a day.
        assert time.monotonic() - begun < PATIENCE
        assert "timed out" in here.log()
        here.unmount()

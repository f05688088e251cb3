"""Blobs kept outside of the registry: in a directory and in a bucket, mounted from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fs.registry.store import open_reader
from nydusify.cli import main
from nydusify.images.opened import ImagePlace, open_image
from tests.nydusify.test_convert import publish, stack
from tests.parts.s3_server import REGION, S3Server, start_s3

ACCESS, NOT_FOUND, USAGE, UNREACHABLE = 6, 5, 2, 7


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with start_s3(tmp_path_factory.mktemp("s3")) as running:
        s3 = running.client("s3")
        s3.create_bucket(Bucket="blobs", CreateBucketConfiguration={"LocationConstraint": REGION})
        yield running


def bucket(server: S3Server, **changes: str) -> str:
    fields = {
        "scheme": "http", "endpoint": server.host, "region": REGION, "bucket_name": "blobs",
        "access_key_id": server.key_id, "access_key_secret": server.secret,
        "object_prefix": "nydus/", **changes,
    }  # fmt: skip
    return json.dumps(fields)


def convert(tmp_path: Path, *options: str, target: str = "out:b") -> int:
    if not (tmp_path / "in").exists():
        publish(f"oci:{tmp_path}/in:a", stack())
    return main(["convert", "--source", f"oci:{tmp_path}/in:a",
                 "--target", f"oci:{tmp_path}/{target}", *options])  # fmt: skip


def blob_ids(place: str) -> list[str]:
    """Of an image whose manifest names its bootstrap only."""
    with closing(open_reader(place)) as reader:
        image = reader.resolve(nydus=True)
    (bootstrap,) = image.manifest.layers
    assert len(image.config.diff_ids) == 1
    filled = [entry for entry in image.config.document["history"] if not entry.get("empty_layer")]
    assert len(filled) == 1
    ids: list[str] = json.loads(
        bootstrap.annotations["containerd.io/snapshot/nydus-reference-blob-ids"]
    )
    return ids


def read_back(tmp_path: Path, kind: str, config: str) -> None:
    """All content, verified, through the backend that reads."""
    file = tmp_path / "config.json"
    file.write_text(config)
    place = ImagePlace(f"oci:{tmp_path}/out:b", backend_type=kind, backend_config=str(file))
    (tmp_path / "cache").mkdir()
    with open_image(place, tmp_path) as opened, opened.contents(tmp_path / "cache") as contents:
        contents.load()


def test_directory(tmp_path: Path) -> None:
    config = json.dumps({"dir": str(tmp_path / "blobs")})
    options = ("--backend-type", "localfs", "--backend-config", config)
    assert convert(tmp_path, *options) == 0
    ids = blob_ids(f"oci:{tmp_path}/out:b")
    assert sorted(path.name for path in (tmp_path / "blobs").iterdir()) == sorted(ids)
    read_back(tmp_path, "localfs", config)
    first = (tmp_path / "blobs" / ids[0]).stat().st_mtime_ns
    assert convert(tmp_path, *options) == 0
    assert (tmp_path / "blobs" / ids[0]).stat().st_mtime_ns == first
    assert convert(tmp_path, *options, "--backend-force-push") == 0
    assert (tmp_path / "blobs" / ids[0]).stat().st_mtime_ns > first


def test_and_back(tmp_path: Path) -> None:
    """--reverse takes the blobs from the directory; the backend is told in a file or at once."""
    config = json.dumps({"dir": str(tmp_path / "blobs")})
    (tmp_path / "config.json").write_text(config)
    assert convert(tmp_path, "--backend-type", "localfs", "--backend-config", config) == 0
    digests = set()
    for number, given in enumerate([config, str(tmp_path / "config.json")]):
        target = f"oci:{tmp_path}/plain:{number}"
        assert main(["convert", "--reverse", "--source", f"oci:{tmp_path}/out:b",
                     "--target", target, "--source-backend-type", "localfs",
                     "--source-backend-config", given]) == 0  # fmt: skip
        with closing(open_reader(target)) as reader:
            digests.add(reader.resolve().descriptor.digest)
    assert len(digests) == 1


@pytest.mark.s3
def test_bucket(server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "backend.json").write_text(bucket(server))
    options = ("--backend-type", "s3", "--backend-config-file", f"{tmp_path}/backend.json")
    assert convert(tmp_path, *options) == 0
    s3 = server.client("s3")
    found = [item["Key"] for item in s3.list_objects_v2(Bucket="blobs")["Contents"]]
    ids = blob_ids(f"oci:{tmp_path}/out:b")
    assert sorted(found) == sorted(f"nydus/{blob_id}" for blob_id in ids)
    read_back(tmp_path, "s3", bucket(server))
    puts = server.log.read_text().count("PUT /blobs/nydus/")
    assert convert(tmp_path, *options) == 0
    assert server.log.read_text().count("PUT /blobs/nydus/") == puts
    assert convert(tmp_path, *options, "--backend-force-push") == 0
    assert server.log.read_text().count("PUT /blobs/nydus/") == puts + len(ids)


@pytest.mark.s3
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"access_key_secret": "wrong-secret"}, ACCESS),
        ({"bucket_name": "none"}, NOT_FOUND),
        ({"endpoint": "127.0.0.1:1"}, UNREACHABLE),
    ],
)
def test_a_bucket_that_refuses(
    server: S3Server,
    tmp_path: Path,
    changes: dict[str, str],
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Noticed before anything is converted, and no key is shown."""
    config = bucket(server, **changes)
    options = ("--backend-type", "s3", "--backend-config", config, "--push-retry-count", "0")
    assert convert(tmp_path, *options) == code
    said = capsys.readouterr()
    assert said.err.startswith("nydusify: s3://")
    assert said.err.count("\n") == 1
    for secret in (server.secret, server.key_id, "wrong-secret"):
        assert secret not in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--backend-type", "oss", "--backend-config", "{}"), "use s3"),
        (("--backend-type", "localfs"), "needs --backend-config"),
        (("--backend-config", "{}"), "does not say which type"),
        (("--backend-type", "localfs", "--backend-config", "{}"), "dir is missing"),
        (("--backend-type", "localfs", "--backend-config", "x"), "not a JSON object"),
        (("--backend-config", "{}", "--backend-config-file", "x"), "exclude each other"),
        (("--target-suffix", "-n"), "exclude each other"),
        (("--platform", "linux/amd64", "--all-platforms"), "exclude each other"),
        (("--push-retry-delay", "soon"), "is no time"),
        (("--push-retry-count", "-1"), "from 0 to 1000"),
        (("--fs-version", "5"), "only version 6"),
    ],
)
def test_command_lines_that_cannot_be(
    tmp_path: Path, options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(tmp_path, *options) == USAGE
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_options_of_nydusify_without_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(tmp_path, "--nydus-image", "/usr/bin/nydus-image", "--fs-align-chunk",
                   "--oci", "--push-retry-count", "3", "--push-retry-delay", "5s",
                   "--prefetch-dir", "/usr") == 0  # fmt: skip
    noted = capsys.readouterr().err
    assert "--nydus-image has no effect" in noted
    assert "--fs-align-chunk has no effect" in noted

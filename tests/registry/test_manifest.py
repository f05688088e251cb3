"""Manifests, indexes and configurations: what is read, what is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fs.format.errors import FormatError
from fs.registry.config import parse_config
from fs.registry.descriptor import descriptor_from_json
from fs.registry.manifest import (
    MAX_MANIFEST,
    NYDUS_BOOTSTRAP_ANNOTATION,
    Index,
    Manifest,
    find_bootstrap_layer,
    is_nydus,
    parse_manifest,
)
from fs.registry.mediatypes import (
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    NYDUS_BLOB,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    layer_compression,
)
from tests.registry.images import make_image

BLOB = {"mediaType": OCI_LAYER, "digest": "sha256:" + "00" * 32, "size": 1}


def manifest(**changes: object) -> bytes:
    fields: dict[str, Any] = {"schemaVersion": 2, "config": BLOB, "layers": [BLOB]}
    return json.dumps({k: v for k, v in {**fields, **changes}.items() if v is not ...}).encode()


def test_manifest_without_media_type_as_umoci_writes() -> None:
    parsed = parse_manifest(manifest(), None, "x")
    assert isinstance(parsed, Manifest)
    assert parsed.media_type == OCI_MANIFEST
    assert parsed.layers[0].size == 1


def test_the_senders_type_is_taken_where_the_document_has_none() -> None:
    parsed = parse_manifest(manifest(), f"{DOCKER_MANIFEST}; charset=utf-8", "x")
    assert parsed.media_type == DOCKER_MANIFEST
    index = parse_manifest(manifest(config=..., layers=..., manifests=[]), DOCKER_INDEX, "x")
    assert isinstance(index, Index)
    assert index.media_type == DOCKER_INDEX


def test_digest_is_of_the_bytes_as_sent() -> None:
    sample = make_image(b"x")
    assert parse_manifest(sample.raw, None, "x").digest == sample.descriptor.digest


@pytest.mark.parametrize(
    ("raw", "media_type", "says"),
    [
        (b"", None, "not JSON"),
        (b"\xff", None, "not JSON"),
        (b"[" * 100000, None, "not JSON"),
        (b"[]", None, "no JSON object"),
        (manifest(schemaVersion=1), None, "schema 1"),
        (manifest(), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (manifest(schemaVersion=3), None, "schemaVersion"),
        (manifest(manifests=[]), None, "at once"),
        (manifest(mediaType=OCI_INDEX), None, "not what its type"),
        (manifest(mediaType=OCI_MANIFEST), DOCKER_MANIFEST, "sender says"),
        (manifest(mediaType="text/plain"), None, "no manifest type"),
        (manifest(mediaType=3), None, "no text"),
        (manifest(config=...), None, "config"),
        (manifest(layers={}), None, "layers is no list"),
        (manifest(layers=[BLOB, {**BLOB, "size": -1}]), None, "layer 1: .*size"),
        (manifest(layers=[{**BLOB, "size": 1.0}]), None, "size"),
        (manifest(layers=[{**BLOB, "size": True}]), None, "size"),
        (manifest(layers=[{**BLOB, "digest": "sha256:../../etc"}]), None, "digest"),
        (manifest(layers=[{**BLOB, "digest": "sha256:" + "0" * 64 + "\n"}]), None, "digest"),
        (manifest(layers=[{**BLOB, "digest": "md5:" + "0" * 32}]), None, "digest"),
        (manifest(layers=[{**BLOB, "annotations": {"a": 1}}]), None, "annotations"),
        (manifest(layers=[BLOB] * 5000), None, "at most 4096"),
        (b" " * (MAX_MANIFEST + 1), None, "at most"),
    ],
)
def test_refused(raw: bytes, media_type: str | None, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        parse_manifest(raw, media_type, "x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
KEYS = ["mediaType", "digest", "size", "platform", "annotations", "urls", "config", "layers"]
KEYS += ["manifests", "schemaVersion", "subject", "artifactType", "os", "rootfs", "diff_ids"]
KEYS += ["Env", "Entrypoint", "Volumes", "Labels"]
documents = st.dictionaries(st.sampled_from(KEYS), json_values | st.just(BLOB))


@given(documents, st.sampled_from([None, OCI_MANIFEST, OCI_INDEX, "x"]))
def test_any_json_is_a_manifest_or_one_error(
    document: dict[str, object], media_type: str | None
) -> None:
    for fields in (document, {"schemaVersion": 2, "config": BLOB, **document}):
        raw = json.dumps(fields).encode()
        with contextlib.suppress(FormatError):
            assert parse_manifest(raw, media_type, "x").raw == raw


@given(documents, documents)
def test_any_json_is_a_config_or_one_error(document: dict[str, object], process: object) -> None:
    raw = json.dumps({**document, "config": process}).encode()
    with contextlib.suppress(FormatError):
        assert parse_config(raw, "x").document is not None


def test_descriptor_round_trip_keeps_every_field() -> None:
    fields = {
        **BLOB,
        "urls": ["https://x"],
        "annotations": {"a": "b"},
        "platform": {"architecture": "arm", "os": "linux", "variant": "v6"},
        "artifactType": "application/x",
    }
    assert descriptor_from_json(fields, "x").to_json() == fields


def test_bootstrap_layer() -> None:
    plain = parse_manifest(manifest(), None, "x")
    marked = {**BLOB, "annotations": {NYDUS_BOOTSTRAP_ANNOTATION: "true"}, "size": 7}
    nydus = parse_manifest(manifest(layers=[BLOB, marked]), None, "x")
    assert isinstance(plain, Manifest)
    assert isinstance(nydus, Manifest)
    assert not is_nydus(plain)
    assert is_nydus(nydus)
    found = find_bootstrap_layer(nydus)
    assert found
    assert found.size == 7


def test_layer_compression() -> None:
    assert layer_compression(OCI_LAYER) == "none"
    assert layer_compression(OCI_LAYER_ZSTD) == "zstd"
    assert layer_compression(DOCKER_LAYER_GZIP) == "gzip"
    for refused, says in [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "foreign"),
        (NYDUS_BLOB, "Nydus"),
        ("text/html", "not supported"),
    ]:
        with pytest.raises(FormatError, match=says):
            layer_compression(refused)


def test_config() -> None:
    sample = make_image(
        b"x",
        Env=["A=1"],
        Entrypoint=["/e"],
        Cmd=["c", "d"],
        WorkingDir="/w",
        User="u:g",
        StopSignal="SIGINT",
        Labels={"l": "m"},
        Volumes={"/v": {}},
        ExposedPorts={"80/tcp": {}},
    )
    config = parse_config(sample.blobs[sample.config.digest], "x")
    assert (config.env, config.entrypoint, config.cmd) == (["A=1"], ["/e"], ["c", "d"])
    assert (config.workdir, config.user, config.stop_signal) == ("/w", "u:g", "SIGINT")
    assert (config.volumes, config.exposed_ports) == (["/v"], ["80/tcp"])
    assert config.labels == {"l": "m"}
    assert len(config.diff_ids) == 1


def test_config_nulls_are_nothing() -> None:
    config = parse_config(b'{"config":{"Env":null,"Volumes":null,"User":null}}', "x")
    assert (config.env, config.volumes, config.user, config.diff_ids) == ([], [], "", [])


@pytest.mark.parametrize(
    "raw", [b"[]", b'{"config":[]}', b'{"config":{"Env":[1]}}', b'{"rootfs":{"diff_ids":["x"]}}']
)
def test_bad_config(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse_config(raw, "x")

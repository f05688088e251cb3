"""The media types of images: OCI's, Docker's and Nydus's."""

from __future__ import annotations

from typing import Final, Literal

from fs.format.errors import FormatError

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
#: Of a draft that was given up; ORAS 0.15 and its kin wrote it.
ARTIFACT_MANIFEST: Final = "application/vnd.oci.artifact.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_SCHEMA1_PREFIX: Final = "application/vnd.docker.distribution.manifest.v1+"

NYDUS_BLOB: Final = "application/vnd.oci.image.layer.nydus.blob.v1"
NYDUS_ARTIFACT: Final = "application/vnd.nydus.image.manifest.v1+json"
NYDUS_CONFIG: Final = "application/vnd.nydus.image.config.v1+json"
NYDUS_OS_FEATURE: Final = "nydus.remoteimage.v1"

#: Of images that docker 1.9 and older pushed.
UNTYPED_CONFIG: Final = "application/octet-stream"

MANIFEST_TYPES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES: Final = (OCI_INDEX, DOCKER_INDEX)
#: Of container images; anything else with a manifest is an artifact.
CONFIG_TYPES: Final = (OCI_CONFIG, DOCKER_CONFIG, NYDUS_CONFIG, UNTYPED_CONFIG)

_COMPRESSIONS: Final[dict[str, Literal["gzip", "zstd", "none"]]] = {
    OCI_LAYER: "none",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    DOCKER_LAYER: "none",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
}


def is_foreign(media_type: str) -> bool:
    """Whether such layers may not be distributed by registries, but are at URLs of their maker."""
    return "foreign" in media_type or "nondistributable" in media_type


def layer_compression(media_type: str) -> Literal["gzip", "zstd", "none"]:
    """How a layer of this type is compressed; FormatError if it is no tar layer we read."""
    known = _COMPRESSIONS.get(media_type)
    if known:
        return known
    if is_foreign(media_type):
        raise FormatError(
            f"foreign layers ({media_type[:120]}) may not be distributed; they are not converted"
        )
    if media_type == NYDUS_BLOB:
        raise FormatError("this is a Nydus data blob, not a tar layer")
    kind = "encrypted layers" if media_type.endswith("+encrypted") else "layers of type"
    raise FormatError(f"{kind} {media_type[:120]!r} are not supported")

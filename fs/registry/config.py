"""The image configuration: what to run, as whom, and the layers' diff IDs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fs.format.errors import FormatError
from fs.registry.descriptor import text_map
from fs.registry.digest import check_digest
from fs.registry.manifest import parse_json_object
from fs.registry.platform import Platform, platform_from_json

MAX_CONFIG = 4 << 20


@dataclass(frozen=True)
class ImageConfig:
    """`document` is the whole JSON object, for those who write a changed one."""

    platform: Platform
    env: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    workdir: str = ""
    user: str = ""
    stop_signal: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    exposed_ports: list[str] = field(default_factory=list)
    diff_ids: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict, repr=False)


def parse_config(raw: bytes, where: str) -> ImageConfig:
    """Parse an OCI or Docker image configuration; FormatError."""
    document = parse_json_object(raw, "image configuration", where)
    process = _object(document, "config", where)
    rootfs = _object(document, "rootfs", where)
    return ImageConfig(
        platform=platform_from_json(document, where),
        env=_texts(process, "Env", where),
        entrypoint=_texts(process, "Entrypoint", where),
        cmd=_texts(process, "Cmd", where),
        workdir=_text(process, "WorkingDir", where),
        user=_text(process, "User", where),
        stop_signal=_text(process, "StopSignal", where),
        labels=text_map(process.get("Labels"), "Labels", where),
        volumes=sorted(_object(process, "Volumes", where)),
        exposed_ports=sorted(_object(process, "ExposedPorts", where)),
        diff_ids=[check_digest(d, f"{where}: diff_ids") for d in _list(rootfs, "diff_ids", where)],
        document=document,
    )


def _object(fields: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    found = fields.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise FormatError(f"{key} is no object", where)
    return found


def _list(fields: dict[str, Any], key: str, where: str) -> list[Any]:
    found = fields.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise FormatError(f"{key} is no list", where)
    return found


def _texts(fields: dict[str, Any], key: str, where: str) -> list[str]:
    found = fields.get(key)
    if isinstance(found, str):  # very old images: a shell command line
        return ["/bin/sh", "-c", found]
    items = _list(fields, key, where)
    if not all(isinstance(item, str) for item in items):
        raise FormatError(f"{key} is no list of texts", where)
    return items


def _text(fields: dict[str, Any], key: str, where: str) -> str:
    found = fields.get(key) or ""
    if not isinstance(found, str):
        raise FormatError(f"{key} is no text", where)
    return found

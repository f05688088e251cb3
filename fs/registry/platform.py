"""Platforms of images: normalised, and matched as containerd and Docker match them.

An ARM machine runs images of lower variants too; the closest wins. Everything
else must be equal.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from fs.format.errors import FormatError, UsageError

_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ARCHITECTURES = {
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "ppc64el": "ppc64le",
    "loongarch64": "loong64",
}
_ARM_VARIANTS = ("v8", "v7", "v6", "v5")


class Platform(NamedTuple):
    """`variant` is "" where the architecture has none, or is the usual one (arm64 v8)."""

    os: str
    architecture: str
    variant: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def rank(self, offered: Platform) -> int | None:
        """How well an image for `offered` fits this machine: 0 is best, None not at all."""
        candidates = _runnable(self)
        wanted = (offered.os, offered.architecture, offered.variant)
        return candidates.index(wanted) if wanted in candidates else None

    def to_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            fields["variant"] = self.variant
        if self.os_features:
            fields["os.features"] = list(self.os_features)
        return fields


def _runnable(own: Platform) -> list[tuple[str, str, str]]:
    """What a machine of platform `own` runs, best first."""
    found = [(own.os, own.architecture, own.variant)]
    if own.architecture == "arm64" and not own.variant:
        found += [(own.os, "arm", variant) for variant in _ARM_VARIANTS]
    elif own.architecture == "arm" and own.variant in _ARM_VARIANTS:
        lower = _ARM_VARIANTS[_ARM_VARIANTS.index(own.variant) + 1 :]
        found += [(own.os, "arm", variant) for variant in lower]
    elif own.architecture == "amd64" and own.variant:
        lower_levels = range(int(own.variant[1:]) - 1, 1, -1) if own.variant[1:].isdigit() else ()
        found += [(own.os, "amd64", f"v{level}") for level in lower_levels]
        found.append((own.os, "amd64", ""))
    return found


def normalize(
    os_name: str, architecture: str, variant: str = "", os_features: tuple[str, ...] = ()
) -> Platform:
    """The usual spelling of a platform: x86_64 is amd64, arm without a variant is v7."""
    os_name, architecture, variant = os_name.lower(), architecture.lower(), variant.lower()
    if architecture == "armel":
        variant = variant or "v6"
    if os_name == "macos":
        os_name = "darwin"
    architecture = _ARCHITECTURES.get(architecture, architecture)
    if variant.isdigit():
        variant = f"v{variant}"
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    if architecture == "arm" and not variant:
        variant = "v7"
    return Platform(os_name, architecture, variant, os_features)


def parse_platform(text: str) -> Platform:
    """`OS/ARCH[/VARIANT]`, or ARCH alone for this machine's system; else UsageError."""
    parts = text.split("/")
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
        raise UsageError(f"{text[:80]!r} is not a platform: OS/ARCHITECTURE[/VARIANT]")
    if len(parts) == 1:
        return normalize("linux", parts[0])
    return normalize(parts[0], parts[1], parts[2] if len(parts) == 3 else "")


def default_platform() -> Platform:
    """The platform of this machine's kernel and of this process's word size."""
    machine = os.uname().machine.lower()
    small = struct.calcsize("P") == 4
    if machine.startswith("armv"):
        return normalize("linux", "arm", machine[4:5])
    if machine in ("aarch64", "arm64") and small:
        return normalize("linux", "arm", "v8")
    if machine == "x86_64" and small:
        return normalize("linux", "386")
    return normalize("linux", machine)


def platform_from_json(fields: object, where: str) -> Platform:
    if not isinstance(fields, Mapping):
        raise FormatError("platform is no object", where)
    texts = [fields.get(key) or "" for key in ("os", "architecture", "variant")]
    features = fields.get("os.features") or []
    if not isinstance(features, list) or not all(isinstance(t, str) for t in texts + features):
        raise FormatError("platform has fields that are no text", where)
    return normalize(texts[0], texts[1], texts[2], tuple(features))

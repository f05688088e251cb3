"""What a mount and a daemon were asked to be: shared by client, supervisor and worker.

Light on purpose (no dataclasses, no subprocess): lazyrun starts cold through here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

#: What of a client's environment decides how registries are reached.
_VARIABLES = ("HOME", "PATH", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class MountOptions(NamedTuple):
    """How to mount. Directories default by user: see `cache_dir` and `state_root` below."""

    plain_http: bool = False
    insecure: bool = False
    platform: str | None = None
    auth_file: str | None = None
    ca_file: str | None = None
    cache_dir: str | None = None
    state_root: str | None = None
    blob_dir: str | None = None
    backend_url: str | None = None
    backend_type: str | None = None
    backend_config: str | None = None
    """A file in nydusd's format that says where blobs are."""
    hosts_dir: str | None = None
    """Mirrors and certificates of registries; None: where containerd and docker have them."""
    outage_deadline: float = 120.0
    """Seconds that reads wait through an outage of the backend before they fail with EIO."""
    amplify: int = 128 << 10
    """Bytes that a missing chunk's request brings at first; more where much is missed."""
    cache_size: int | None = None
    """Bytes that the cache directory may take on disk; what was read longest ago goes first."""
    prefetch: str | bool = "table"
    """What is fetched unasked: the image's "table" (True), "all", or "none" (False)."""
    prefetch_bandwidth: int | None = None
    """Bytes a second for what "all" fetches beyond the table."""
    trace: str | None = None
    """The file that records what is touched first."""
    nosuid: bool = False
    log_level: str = "info"
    driver: str = "auto"
    """How the tree reaches the kernel: erofs, fuse, or auto, the better one that works here."""

    @property
    def prefetch_mode(self) -> str:
        if isinstance(self.prefetch, bool):
            return "table" if self.prefetch else "none"
        return self.prefetch


class Order(NamedTuple):
    """One mount: `source` and `mountpoint` (absolute, resolved), how, and for whom."""

    source: str
    mountpoint: str
    options: MountOptions
    environment: Mapping[str, str] = {}
    token: str = ""
    """Whoever asks again after a worker's death is known by it."""

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "mountpoint": self.mountpoint,
            "options": self.options._asdict(),
            "environment": dict(self.environment),
            "token": self.token,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Order:
        """Raises TypeError or KeyError when `fields` do not make an order."""
        options = MountOptions(**fields["options"])
        environment = dict(fields.get("environment", {}))
        return cls(
            fields["source"], fields["mountpoint"], options, environment, fields.get("token", "")
        )


class DaemonOptions(NamedTuple):
    """One daemon: its directory, and when it ends.

    `stay`: it ends when told to, not when its last image is gone. `single` is the
    mountpoint of a daemon that may not mount but by the set-user-ID helper, and
    therefore shows its only image there directly. `cache_size` is for mounts that do not say.
    """

    directory: str
    stay: bool = False
    single: str | None = None
    log_level: str = "info"
    cache_size: int | None = None


def relevant(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of a client's environment that its daemon is told."""
    return {
        name: value
        for name, value in environment.items()
        if name in _VARIABLES or name.startswith("XDG_") or name.lower() in _PROXIES
    }


def default_cache_dir() -> str:
    if os.geteuid() == 0:
        return "/var/lib/nydus-fs"
    return os.path.join(_xdg("XDG_CACHE_HOME", "~/.cache"), "nydus-fs")


def default_state_root() -> str:
    if os.geteuid() == 0:
        return "/run/nydus-fs"
    return os.path.join(_xdg("XDG_RUNTIME_DIR", "~/.local/state"), "nydus-fs")


def _xdg(variable: str, fallback: str) -> str:
    return os.environ.get(variable) or os.path.expanduser(fallback)

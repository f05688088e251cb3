"""Mounts that the HTTP API asks for: nydusd's mountpoints and configurations as our orders.

nydusd shows an instance below its own mount, at the path that the request names.
Here that path is below STATE_ROOT/api, and the worker itself puts the mount there.
A request's configuration lies in STATE_ROOT/api.config as long as an instance is
made from it: it may hold keys, so it is nobody else's and is never told again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from fs.daemon.mountpoints import attach, is_mounted, mount_device, unmount_kernel
from fs.daemon.operations import Operations
from fs.daemon.order import MountOptions, Order, relevant
from fs.daemon.state import API_CONFIG, API_ROOT
from fs.drivers.instances import Instance
from fs.format.errors import MountError, NotFoundError, UsageError

_MAX_AMPLIFY = 16 << 20


class ApiMounts:
    """The mounts of one daemon under the names that the API has for them."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        directory = operations.identity.options.directory
        self._root = os.path.join(directory, API_ROOT)
        self._configs = os.path.join(directory, API_CONFIG)
        self._changing = trio.Lock()

    def all(self) -> dict[str, Instance]:
        """The mounted instances by name: a path below the API's root, or an absolute one."""
        return {self.name_of(instance): instance for instance in self._operations.roster.mounted()}

    def name_of(self, instance: Instance) -> str:
        inside = instance.mountpoint.startswith(self._root + "/")
        return instance.mountpoint[len(self._root) :] if inside else instance.mountpoint

    def find(self, name: str) -> Instance:
        """NotFoundError when there is none."""
        found = self.all().get(os.path.normpath(name))
        if found is None:
            raise NotFoundError(f"{name}: not mounted by this daemon")
        return found

    async def mount(self, name: str, source: str, config: str) -> Instance:
        """Mount `source` at `name`. UsageError for what cannot be understood; any Failure."""
        operations = self._operations
        if operations.identity.options.single is not None:
            raise MountError("this daemon serves one mountpoint only")
        path = self._path(name)
        async with self._changing:
            try:
                options = self._options(config)
                order = Order(source, path, options, relevant(os.environ), os.urandom(8).hex())
                await trio.to_thread.run_sync(partial(os.makedirs, path, exist_ok=True))
                return await self._mount(order)
            except OSError as error:
                raise MountError(f"{path}: {error.strerror}") from error
            finally:
                await self._tidy(path)

    async def _mount(self, order: Order) -> Instance:
        operations, path = self._operations, order.mountpoint
        instance = await operations.mount(order, replace=not is_mounted(path))
        try:
            descriptor = await operations.attach(instance)
            try:
                await trio.to_thread.run_sync(attach, descriptor, path)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(os.close, descriptor)
            operations.taken(instance)
        except BaseException:
            operations.abandon(instance)
            raise
        return instance

    async def umount(self, name: str) -> None:
        """Take the mount away; who still uses it keeps it until they leave."""
        async with self._changing:
            instance = self.find(name)
            path = instance.mountpoint
            if self._operations.identity.options.single is not None:
                raise MountError("this daemon ends with its mount: exit")
            if mount_device(path) == instance.device:
                await trio.to_thread.run_sync(unmount_kernel, path, True)
            elif is_mounted(path):
                raise MountError(f"{path}: something else is mounted there")
            await self._operations.umount(instance)
            await self._tidy(path)

    def _path(self, name: str) -> str:
        """Where `name` is; no name leads out of the API's root."""
        parts = name.split("/")
        if not name.startswith("/") or "\0" in name or {".", ".."} & set(parts) or not any(parts):
            raise UsageError(f"invalid mountpoint {name!r}")
        if len(os.fsencode(name)) > 1024:
            raise UsageError("the mountpoint is too long")
        return os.path.normpath(self._root + name)

    async def _tidy(self, path: str) -> None:
        """Remove what no instance needs: empty directories, configurations."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._remove_empty, path)
        self.remove_configs()

    def _remove_empty(self, path: str) -> None:
        """Remove directories from `path` upwards, none but ours. Blocks.

        Never in the thread that serves: a mount that lies above may be one of ours.
        """
        while path == self._root or path.startswith(self._root + "/"):
            try:
                os.rmdir(path)
            except OSError:
                return  # a mount, or others below it
            path = os.path.dirname(path)

    def remove_configs(self) -> None:
        """Remove the configurations that no instance is made from."""
        with suppress(FileNotFoundError):
            used = {
                each.order.options.backend_config for each in self._operations.roster.everything()
            }
            for name in os.listdir(self._configs):
                path = os.path.join(self._configs, name)
                if path not in used:
                    os.unlink(path)
            with suppress(OSError):
                os.rmdir(self._configs)

    def _options(self, config: str) -> MountOptions:
        """What a configuration of nydusd's asks for; UsageError if it is none."""
        try:
            document = json.loads(config) if config else {}
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise UsageError("failed to parse configuration information")
        options = _options(document)
        device = document.get("device", document)
        if not isinstance(device, dict) or not device.get("backend"):
            return options
        return options._replace(backend_config=self._write(config))

    def _write(self, config: str) -> str:
        """A private file of this content, the same for the same content."""
        raw = config.encode(errors="replace")
        os.makedirs(self._configs, mode=0o700, exist_ok=True)
        path = os.path.join(self._configs, hashlib.sha256(raw).hexdigest())
        with suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
                file.write(raw)
        return path


def _options(document: Mapping[str, Any]) -> MountOptions:
    """Cache directory, prefetch and amplification of either version of configuration."""
    if "device" in document:
        cache = _map(_map(_map(document, "device"), "cache"), "config")
        prefetch, rate = _map(document, "fs_prefetch"), "bandwidth_rate"
        amplify = document.get("amplify_io")
    else:
        cache = _map(_map(document, "cache"), "filecache")
        rafs = _map(document, "rafs")
        prefetch, rate = _map(rafs, "prefetch"), "bandwidth_limit"
        amplify = rafs.get("batch_size")
    work = cache.get("work_dir")
    if work is not None and not (isinstance(work, str) and os.path.isabs(work)):
        raise UsageError("work_dir is no absolute path")
    mode = "none"
    if prefetch.get("enable") is True:
        mode = "table" if prefetch.get("prefetch_all") is False else "all"
    options = MountOptions(cache_dir=work, prefetch=mode)
    limit = _number(prefetch, rate)
    if amplify is not None:
        options = options._replace(amplify=min(_number({"": amplify}, ""), _MAX_AMPLIFY))
    return options._replace(prefetch_bandwidth=limit or None)


def _map(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{key} is no map")
    return found


def _number(document: Mapping[str, Any], key: str) -> int:
    found = document.get(key, 0)
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise UsageError(f"{key} is no number")
    return found

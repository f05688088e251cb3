"""What each path of the HTTP API answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from fs.daemon import api_documents
from fs.daemon.api_mounts import ApiMounts
from fs.daemon.metrics import Traffic, exposition
from fs.daemon.operations import Operations
from fs.daemon.recent import RecentErrors
from fs.daemon.roster import Served
from fs.format.errors import Failure, NotFoundError

log = logging.getLogger(__name__)

#: A document, a text, or nothing.
Told = dict[str, Any] | list[Any] | str | None

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_NO_OBJECT = "object or filesystem doesn't exist"


class Refusal(Exception):
    """Why there is no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Call:
    """One request. `ends` is set by what ends the daemon."""

    def __init__(
        self,
        operations: Operations,
        traffic: Traffic,
        mounts: ApiMounts,
        recent: RecentErrors,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes,
    ) -> None:
        self.operations = operations
        self.traffic = traffic
        self.mounts = mounts
        self.recent = recent
        self.method = method
        self.path = path
        self.query = query
        self.body = body
        self.ends = False

    def wanted(self, key: str) -> str:
        """A parameter of the query that must be there."""
        found = self.query.get(key)
        if found is None:
            reason = f"'{key}' should be specified in query string"
            raise Refusal(400, f"QueryString({_quoted(reason)})")
        return found

    def document(self, *texts: str) -> dict[str, Any]:
        """The body, a map with a text under each of `texts`."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            raise Refusal(400, 'ParseBody(Error("expected value"))') from None
        for key in texts:
            if not isinstance(found, dict) or not isinstance(found.get(key), str):
                raise Refusal(400, f"ParseBody(Error({_quoted(f'missing field `{key}`')}))")
        return dict(found)

    def instance(self, where: str) -> tuple[str, Served]:
        """The instance `id`, or the only one, with its name."""
        instances = self.mounts.all()
        name = self.query.get("id")
        if name is None and len(instances) == 1:
            (name,) = instances
        if name is None or name not in instances:
            raise Refusal(404, f"{where}(Metrics(Stats(NoCounter)))")
        return name, self.operations.roster.served(instances[name])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


async def answer(call: Call) -> Told:
    """What a request is answered with. Raises Refusal only."""
    methods = _ROUTES.get(call.path)
    if methods is None:
        raise Refusal(404, "NoRoute")
    handler = methods.get(call.method)
    if handler is None:
        raise Refusal(400, "BadRequest")
    return await handler(call)


async def _daemon(call: Call) -> Told:
    return api_documents.daemon(call.operations, call.mounts.all())


async def _daemon_v2(call: Call) -> Told:
    return api_documents.daemon(call.operations, None)


async def _configure(call: Call) -> Told:
    """The log's level, until the next worker."""
    level = _LEVELS.get(call.document("log_level")["log_level"])
    if level is None:
        raise Refusal(400, 'ParseBody(Error("unknown log level"))')
    logging.getLogger().setLevel(level)
    return None


async def _events(call: Call) -> Told:
    return call.recent.to_json()


async def _exit(call: Call) -> Told:
    call.ends = True
    return None


async def _start(call: Call) -> Told:
    raise Refusal(400, 'Configure(DaemonAbnormal(UnexpectedEvent("Start")))')


async def _hand_over(call: Call) -> Told:
    raise Refusal(400, "Upgrade(Unsupported): the supervisor replaces workers by itself")


async def _backend(call: Call) -> Told:
    try:
        instance = call.mounts.find(call.wanted("mountpoint"))
    except NotFoundError:
        reason = f"FsBackendInfo(Metrics(Daemon(Other({_quoted(_NO_OBJECT)}))))"
        raise Refusal(500, reason) from None
    served = call.operations.roster.served(instance)
    try:
        return await trio.to_thread.run_sync(api_documents.superblock, served)
    except OSError as error:
        raise Refusal(500, f"FsBackendInfo({_quoted(str(error))})") from None


# -- mounts ---------------------------------------------------------------------------------


async def _mount(call: Call) -> Told:
    name = call.wanted("mountpoint")
    order = call.document("source", "fs_type", "config")
    _check_type(order["fs_type"])
    if name in call.mounts.all():
        raise _not_mounted("object or filesystem already exists")
    try:
        await call.mounts.mount(name, order["source"], order["config"])
    except Failure as failure:
        log.error("mount of %s at %s: %s", order["source"], name, failure)
        raise _not_mounted(failure.message) from None
    return None


async def _remount(call: Call) -> Told:
    """Only what changes nothing: another image is another mount."""
    name = call.wanted("mountpoint")
    order = call.document("source", "fs_type", "config")
    _check_type(order["fs_type"])
    try:
        instance = call.mounts.find(name)
    except NotFoundError:
        raise _not_mounted(_NO_OBJECT) from None
    if order["source"] != instance.source:
        raise _not_mounted("a mounted image is not replaced: umount it, mount the other")
    return None


async def _umount(call: Call) -> Told:
    name = call.wanted("mountpoint")
    try:
        await call.mounts.umount(name)
    except NotFoundError:
        raise _not_mounted(_NO_OBJECT) from None
    except Failure as failure:
        raise _not_mounted(failure.message) from None
    return None


def _check_type(kind: str) -> None:
    if kind != "rafs":
        raise _not_mounted(f"invalid argument `only 'rafs' is supported, but {kind} was specified`")


def _not_mounted(reason: str) -> Refusal:
    return Refusal(500, f"Mount(MountFilesystem(Other({_quoted(reason)})))")


# -- figures --------------------------------------------------------------------------------


async def _metrics(call: Call) -> Told:
    name, served = call.instance("GlobalMetrics")
    return call.traffic.of(served.instance.number).to_json(name)


async def _files(call: Call) -> Told:
    """Nothing is counted by file: the flags of the metrics say so."""
    call.instance("FsFilesMetrics")
    return [] if call.query.get("latest") == "true" else {}


async def _pattern(call: Call) -> Told:
    call.instance("Pattern")
    return []


async def _backend_metrics(call: Call) -> Told:
    return api_documents.backend_metrics(call.instance("BackendMetrics")[1])


async def _cache_metrics(call: Call) -> Told:
    return api_documents.cache_metrics(call.instance("BlobcacheMetrics")[1])


async def _under_way(call: Call) -> Told:
    return call.traffic.under_way() or None


async def _prometheus(call: Call) -> Told:
    return exposition(api_documents.families(call.operations, call.traffic, call.mounts.all()))


# -- configurations -------------------------------------------------------------------------


async def _config(call: Call) -> Told:
    """Without keys."""
    call.wanted("id")
    return api_documents.config(call.instance("Config")[1])


async def _set_config(call: Call) -> Told:
    call.wanted("id")
    call.instance("Config")
    raise Refusal(400, "Configure(Unsupported): an instance's configuration does not change")


_ROUTES: dict[str, dict[str, Callable[[Call], Awaitable[Told]]]] = {
    "/api/v1/daemon": {"GET": _daemon, "PUT": _configure},
    "/api/v2/daemon": {"GET": _daemon_v2, "PUT": _configure},
    "/api/v1/daemon/events": {"GET": _events},
    "/api/v1/daemon/exit": {"PUT": _exit},
    "/api/v1/daemon/start": {"PUT": _start},
    "/api/v1/daemon/fuse/sendfd": {"PUT": _hand_over},
    "/api/v1/daemon/fuse/takeover": {"PUT": _hand_over},
    "/api/v1/daemon/backend": {"GET": _backend},
    "/api/v1/mount": {"POST": _mount, "PUT": _remount, "DELETE": _umount},
    "/api/v1/metrics": {"GET": _metrics},
    "/api/v1/metrics/files": {"GET": _files},
    "/api/v1/metrics/pattern": {"GET": _pattern},
    "/api/v1/metrics/backend": {"GET": _backend_metrics},
    "/api/v1/metrics/blobcache": {"GET": _cache_metrics},
    "/api/v1/metrics/inflight": {"GET": _under_way},
    "/api/v1/config": {"GET": _config, "PUT": _set_config},
    "/metrics": {"GET": _prometheus},
}

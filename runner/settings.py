"""What an image's configuration says about running it, and docker's rules for overriding it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fs.format.errors import FormatError, NotFoundError, UsageError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageSettings(NamedTuple):
    """The part of an image configuration that concerns a process."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    volumes: tuple[str, ...] = ()


def image_settings(document: Mapping[str, Any] | None, where: str) -> ImageSettings:
    """Read an image configuration; FormatError where it is not as the specification says."""
    config = (document or {}).get("config") or {}
    if not isinstance(config, dict):
        raise FormatError("config is no object", where)
    volumes = config.get("Volumes") or {}
    if not isinstance(volumes, dict):
        raise FormatError("Volumes is no object", where)
    return ImageSettings(
        _texts(config, "Entrypoint", where),
        _texts(config, "Cmd", where),
        _texts(config, "Env", where),
        _text(config, "WorkingDir", where),
        _text(config, "User", where),
        tuple(sorted(volumes)),
    )


def _texts(config: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    found = config.get(key) or []
    if isinstance(found, str):  # very old images: a shell command line
        return ("/bin/sh", "-c", _checked(found, key, where))
    if not isinstance(found, list):
        raise FormatError(f"{key} is no list", where)
    return tuple(_checked(item, key, where) for item in found)


def _text(config: Mapping[str, Any], key: str, where: str) -> str:
    return _checked(config.get(key) or "", key, where)


def _checked(item: object, key: str, where: str) -> str:
    if not isinstance(item, str) or "\0" in item:
        raise FormatError(f"{key} is no text", where)
    return item


def command_line(
    image: ImageSettings, entrypoint: str | None, command: Iterable[str]
) -> tuple[str, ...]:
    """What is executed: another entrypoint also puts the image's command out of force."""
    given = tuple(command)
    if entrypoint is None:
        words = image.entrypoint + (given or image.cmd)
    else:
        words = ((entrypoint,) if entrypoint else ()) + given
    if not words:
        raise UsageError("no command given, and the image names none")
    return words


def environment(
    image: ImageSettings,
    given: Iterable[str],
    *,
    hostname: str,
    tty: bool,
    outer: Mapping[str, str],
) -> dict[str, str]:
    """Later ones win: defaults, the image's, `given`. "KEY" alone takes the value of `outer`."""
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if tty:
        merged["TERM"] = "xterm"
    for setting in image.env:
        key, _, value = setting.partition("=")
        merged[key] = value
    for setting in given:
        key, equals, value = setting.partition("=")
        if not key or "\0" in setting:
            raise UsageError(f"not an environment setting: {setting!r}")
        if equals:
            merged[key] = value
        elif key in outer:
            merged[key] = outer[key]
        else:
            merged.pop(key, None)
    return merged


def read_env_file(path: str) -> list[str]:
    """The settings in a file: one a line, "KEY=VALUE" or "KEY"; "#" starts a comment line."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.lstrip().rstrip("\n") for line in file]
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}") from None
    settings = [line for line in lines if line and not line.startswith("#")]
    for setting in settings:
        if any(mark in setting.partition("=")[0] for mark in " \t"):
            raise UsageError(f"{path}: white space in a name: {setting!r}")
    return settings


def working_directory(image: ImageSettings, given: str | None) -> str:
    if given is not None and not given.startswith("/"):
        raise UsageError(f"the working directory must be absolute: {given}")
    return os.path.normpath("/" + (given or image.workdir).lstrip("/"))

"""Logins for registries, from where docker and the containers tools keep them.

    auth_file, if given, and nothing else; otherwise, first hit:
    $REGISTRY_AUTH_FILE
    $DOCKER_CONFIG/config.json
    $XDG_RUNTIME_DIR/containers/auth.json
    ${XDG_CONFIG_HOME:-~/.config}/containers/auth.json
    ~/.docker/config.json

In each: a credential helper for the registry, the general helper, the file's
own entries. Entries may be for a namespace of a registry; the longest wins. No
secret leaves this module but in Credentials, which do not show themselves.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fs.format.errors import AccessError, FormatError, UsageError, local_errors
from fs.registry.manifest import parse_json_object
from fs.registry.reference import DEFAULT_DOMAIN

_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = (DEFAULT_DOMAIN, "index.docker.io", "registry-1.docker.io")
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_SECONDS = 30
_MAX_FILE = 4 << 20
_NO_LOGIN = b"credentials not found"


@dataclass(frozen=True)
class Credentials:
    """A name and password, or an identity token that is traded for access tokens."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


def find_credentials(
    domain: str, repository: str, auth_file: Path | None, environment: Mapping[str, str]
) -> Credentials | None:
    """The login for a repository; None if there is none. UsageError for a broken file."""
    if auth_file is not None:
        with local_errors(str(auth_file)):
            return _search(_read(auth_file), domain, repository, auth_file, environment)
    for path in _places(environment):
        if path.is_file():
            with local_errors(str(path)):
                found = _search(_read(path), domain, repository, path, environment)
            if found:
                return found
    return None


def _places(environment: Mapping[str, str]) -> Iterator[Path]:
    home = environment.get("HOME")
    config = environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else None)
    runtime = environment.get("XDG_RUNTIME_DIR")
    if chosen := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(chosen)
    if docker := environment.get("DOCKER_CONFIG"):
        yield Path(docker, "config.json")
    if runtime:
        yield Path(runtime, "containers/auth.json")
    if config:
        yield Path(config, "containers/auth.json")
    if home:
        yield Path(home, ".docker/config.json")


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        raw = file.read(_MAX_FILE + 1)
    if len(raw) > _MAX_FILE:
        raise UsageError(f"{path}: larger than {_MAX_FILE} bytes")
    if not raw.strip():
        return {}
    try:
        return parse_json_object(raw, "file", str(path))
    except FormatError as error:
        raise UsageError(str(error)) from None


def _search(
    config: dict[str, Any],
    domain: str,
    repository: str,
    path: Path,
    environment: Mapping[str, str],
) -> Credentials | None:
    keys = list(_keys(domain, repository))
    helpers = _object(config, "credHelpers", path)
    for key in keys:
        if key in helpers:
            return _ask_helper(helpers[key], key, environment)
    store = config.get("credsStore")
    if store:
        server = _HUB_KEY if domain == DEFAULT_DOMAIN else domain
        found = _ask_helper(store, server, environment)
        if found:
            return found
    entry = _entry(_object(config, "auths", path), keys, domain)
    return _decode(entry, path) if entry else None


def _keys(domain: str, repository: str) -> Iterator[str]:
    """The keys that hold for a repository, most specific first."""
    parts = repository.split("/")
    for end in range(len(parts), 0, -1):
        yield "/".join([domain, *parts[:end]])
    yield domain
    if domain == DEFAULT_DOMAIN:
        yield _HUB_KEY
        yield from _HUB_HOSTS[1:]


def _entry(auths: dict[str, Any], keys: list[str], domain: str) -> dict[str, Any] | None:
    for key in keys:
        if isinstance(auths.get(key), dict) and auths[key]:
            return auths[key]  # type: ignore[no-any-return]
    hosts = _HUB_HOSTS if domain == DEFAULT_DOMAIN else (domain,)
    for key, entry in auths.items():
        if _server_of(key) in hosts and isinstance(entry, dict) and entry:
            return entry
    return None


def _server_of(key: str) -> str | None:
    """The registry of a key that is a server's URL, as old dockers wrote it."""
    match = re.fullmatch(r"(https?://)?([^/]+)(/v[12])?/?", key)
    return match[2] if match else None


def _decode(entry: dict[str, Any], path: Path) -> Credentials | None:
    texts = {key: entry.get(key) or "" for key in ("auth", "username", "password")}
    tokens = {key: entry.get(key) or "" for key in ("identitytoken", "registrytoken")}
    if not all(isinstance(text, str) for text in [*texts.values(), *tokens.values()]):
        raise UsageError(f"{path}: a login holds something that is no text")
    username, password = texts["username"], texts["password"]
    if texts["auth"]:
        try:
            pair = base64.b64decode(texts["auth"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise UsageError(f"{path}: a login is not valid base64") from None
        username, colon, password = pair.partition(":")
        password = password.rstrip("\0")
        if not colon:
            raise UsageError(f"{path}: a login has no ':' between name and password")
    credentials = Credentials(username, password, tokens["identitytoken"], tokens["registrytoken"])
    return credentials if any((username, *tokens.values())) else None


def _ask_helper(name: object, server: str, environment: Mapping[str, str]) -> Credentials | None:
    """Ask `docker-credential-NAME get`; None if it knows no login for `server`."""
    if not isinstance(name, str) or not _HELPER_NAME.fullmatch(name):
        raise UsageError("the name of a credential helper is malformed")
    program = f"docker-credential-{name}"
    found = shutil.which(program, path=environment.get("PATH"))
    if not found:
        raise UsageError(f"{program}, the credential helper for {server}, is not in PATH")
    try:
        answer = subprocess.run(
            [found, "get"],
            input=server.encode(),
            capture_output=True,
            env=dict(environment),
            timeout=_HELPER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        raise AccessError(f"{program}: cannot be run, or does not end") from None
    if answer.returncode != 0:
        if _NO_LOGIN in answer.stdout or _NO_LOGIN in answer.stderr:
            return None
        raise AccessError(f"{program}: ended with status {answer.returncode} for {server}")
    return _from_helper(answer.stdout, program)


def _from_helper(raw: bytes, program: str) -> Credentials | None:
    try:
        document = json.loads(raw)
        username, secret = document["Username"], document["Secret"]
    except (ValueError, KeyError, TypeError):
        raise AccessError(f"{program}: answered with something that is no login") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise AccessError(f"{program}: answered with something that is no login")
    if username == "<token>":
        return Credentials(identity_token=secret)
    return Credentials(username, secret) if username or secret else None


def _object(config: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise UsageError(f"{path}: {key} is no object")
    return found

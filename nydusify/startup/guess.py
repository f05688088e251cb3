"""The whole guess for an image: what its entry point, its command and every start read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fs.format.errors import Failure
from fs.registry.config import ImageConfig
from nydusify.startup.files import ImageFiles
from nydusify.startup.locale import want_environment
from nydusify.startup.programs import Start
from nydusify.startup.wanted import Want, Wanted

#: Read by the runner, which looks up the user, and by the C library of most programs.
_ACCOUNTS = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf")
_ZONE = "/etc/localtime"
_OPENSSL = "/etc/ssl/openssl.cnf"
_LINKED = ("libcrypto.so",)


def guess(
    files: ImageFiles, config: ImageConfig, arguments: Sequence[str] | None = None
) -> list[Want]:
    """What the start reads, in about its order. `arguments` take the place of the command.

    What is not understood adds nothing; a damaged file ends the guess, not the caller.
    """
    wanted = Wanted()
    start = Start(files, wanted, _environment(config), config.workdir)
    try:
        for path in _ACCOUNTS:
            wanted.add(files.file(path), "accounts")
        command = list(config.cmd if arguments is None else arguments)
        start.want_command([*config.entrypoint, *command], "entry point")
        if config.entrypoint:
            start.want_command(command, "command")
        _want_rest(start)
    except (Failure, RecursionError):
        return list(wanted)
    return list(wanted)


def _environment(config: ImageConfig) -> Mapping[str, str]:
    pairs = (setting.partition("=") for setting in config.env)
    return {name: value for name, _, value in pairs}


def _want_rest(start: Start) -> None:
    """What the C library and others read once they run."""
    start.wanted.add(start.files.file(_ZONE), "time zone")
    want_environment(start)
    names = [want.file.name for want in start.wanted]
    if any(name.startswith(_LINKED) for name in names):
        start.wanted.add(start.files.file(_OPENSSL), "libraries")

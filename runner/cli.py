"""The command `lazyrun`: its verbs, and how failures become exit codes.

A verb's module is imported when the verb is known. `run` first starts this
program again from a read-only mount (see protect.py), before anything else is imported,
`typing` too, which costs as much as Python itself.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # type checkers take it for typing's
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from fs.commandline import Parser

#: Of each verb. They stand in `--help` and are run by tests.
_EXAMPLES = {
    "run": """\
  lazyrun run --rm registry.example.com/app:nydus
  lazyrun run --rm -it registry.example.com/app:nydus sh
  lazyrun run --rm -v $PWD:/src:ro -w /src -e DEBUG=1 registry.example.com/app:nydus sh main.sh
  lazyrun run --rm --network none oci:images:nydus
  lazyrun run --name build registry.example.com/app:nydus true
""",
    "ps": """\
  lazyrun ps
  lazyrun ps -a
  lazyrun ps -a --json
""",
    "rm": """\
  lazyrun rm old
  lazyrun rm -f build
""",
    "prune": """\
  lazyrun prune
""",
}
_RUN_NOTES = """\
IMAGE is a registry reference, oci:DIR[:TAG] or another source that `nydus-fs mount` takes.
Images that are not in Nydus format are pulled in full first. Options stand before
IMAGE; everything after it is the command and its arguments.

exit codes: that of the command; 128 + n if signal n ended it; 125 if lazyrun itself
fails, 126 if the command cannot be executed, 127 if it is not found.
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""

    from fs.commandline import Parser

    top = Parser(
        prog="lazyrun",
        description="Run containers from images that are loaded while they run.",
        epilog=_examples("run"),
        allow_abbrev=False,
    )
    top.add_version()
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    run = _verb(verbs, "run", "run a command in a new container", "\n" + _RUN_NOTES)
    _add_run_arguments(run)
    listing = _verb(verbs, "ps", "list containers")
    listing.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    listing.add_argument("--json", action="store_true", help="as one JSON list")
    removal = _verb(verbs, "rm", "remove containers that have ended")
    removal.add_argument("-f", "--force", action="store_true", help="kill those still running")
    removal.add_argument("containers", nargs="+", metavar="CONTAINER", help="name or identifier")
    _verb(verbs, "prune", "remove layers of plain images that no container uses")
    return top


def _verb(
    verbs: argparse._SubParsersAction[Parser],
    name: str,
    text: str,
    notes: str = "",
) -> argparse.ArgumentParser:
    from runner.state import DEFAULT_ROOT

    verb = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_examples(name) + notes,
        allow_abbrev=False,
    )
    verb.add_argument(
        "--root",
        metavar="DIR",
        default=os.environ.get("LAZYRUN_ROOT", DEFAULT_ROOT),
        help="where containers and layers are kept, with LAZYRUN_ROOT or this also caches and"
        f" daemon state (default {DEFAULT_ROOT})",
    )
    return verb


def _examples(verb: str) -> str:
    return "examples:\n" + _EXAMPLES[verb]


def _add_run_arguments(run: argparse.ArgumentParser) -> None:
    from fs.commandline import add_cache_arguments, add_fetch_arguments, add_serving_arguments

    add = run.add_argument
    add("-i", "--interactive", action="store_true", help="pass standard input on")
    add("-t", "--tty", action="store_true", help="give the container a terminal")
    add("--rm", action="store_true", help="remove the container when it has ended")
    add("--name", metavar="NAME", help="call the container NAME")
    add("-e", "--env", action="append", default=[], metavar="KEY[=VALUE]",
        help="set a variable, or take it over from here")  # fmt: skip
    add("--env-file", action="append", default=[], metavar="FILE", help="settings, one a line")
    add("-w", "--workdir", metavar="DIR", help="working directory, made if missing")
    add("-u", "--user", metavar="USER[:GROUP]", help="names or numbers")
    add("--entrypoint", metavar="COMMAND", help="in place of the image's; '' for none")
    add("-v", "--volume", action="append", default=[], metavar="SOURCE:TARGET[:ro]",
        help="show a host directory or file; options ro, rw, noexec, nosuid")  # fmt: skip
    add("--tmpfs", action="append", default=[], metavar="TARGET[:OPTIONS]",
        help="a file system in memory; options size=, mode=, uid=, gid=, ro, exec")  # fmt: skip
    add("--device", action="append", default=[], metavar="PATH[:TARGET]",
        help="let the container use a device of the host")  # fmt: skip
    add("--read-only", action="store_true", help="nothing in the image's tree can be written")
    add("--shm-size", default="64m", metavar="SIZE", help="size of /dev/shm (default 64m)")
    add("--hostname", metavar="NAME", help="host name in the container")
    add("--network", choices=("host", "none"), default="host",
        help="the host's network (default), or none but loopback")  # fmt: skip
    add("--add-host", action="append", default=[], metavar="NAME:ADDRESS",
        help="a line for /etc/hosts")  # fmt: skip
    add("--init", action="store_true", help="run a first process that reaps orphans")
    add("--cap-add", action="append", default=[], metavar="CAP", help="or ALL")
    add("--cap-drop", action="append", default=[], metavar="CAP", help="or ALL")
    add("--security-opt", action="append", default=[], metavar="OPTION",
        choices=("no-new-privileges", "no-new-privileges=true"),
        help="no-new-privileges: set-user-ID programs give no rights")  # fmt: skip
    add("--platform", metavar="OS/ARCH", help="which image of an index (default: this machine's)")
    add("--plain-http", action="store_true", help="speak http with the registry")
    add("--insecure", action="store_true", help="do not check the registry's certificate")
    add("--auth-file", metavar="FILE", help="registry logins (default: docker's and containers')")
    add("--ca-file", metavar="FILE", help="certificates to trust besides the system's")
    add("--hosts-dir", metavar="DIR", help="mirrors (default: containerd's and docker's certs.d)")
    add_cache_arguments(run)
    add_fetch_arguments(run)
    add_serving_arguments(run)
    add("--timings", metavar="FILE", help="write there in JSON when each step was done")
    add("--rootfs", action="store_true", help="IMAGE is a directory; it is never written to")
    add("image", metavar="IMAGE", help="see below")
    command = add("command", nargs="...", metavar="COMMAND", help="in place of the image's")
    command.required = False


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"]:
        from runner import protect

        try:
            protect.restart(words)
        except OSError as error:
            from runner.exitcodes import OUR_FAILURE

            print(f"lazyrun: {sys.executable}: {error.strerror}", file=sys.stderr)
            return OUR_FAILURE
    from fs.reporting import reporting

    return reporting("lazyrun", lambda: _ended(words))


def _ended(words: list[str]) -> int:
    from fs.format.errors import Failure
    from runner import exitcodes

    runs = words[:1] == ["run"]
    try:
        return _main(words)
    except SystemExit as end:  # argparse: --help
        return int(end.code or 0)
    except Failure as failure:
        print(f"lazyrun: {failure.message}", file=sys.stderr)
        if not runs:
            return failure.exit_code
        of_the_command = (exitcodes.CANNOT_EXECUTE, exitcodes.NOT_FOUND)
        return failure.exit_code if failure.exit_code in of_the_command else exitcodes.OUR_FAILURE
    except KeyboardInterrupt:
        return 130


def _main(words: list[str]) -> int:
    top = parser()
    arguments = top.parse_args(words)
    if arguments.verb is None:
        top.print_help(sys.stderr)
        return 2
    if arguments.verb == "run":
        from fs.commandline import absolute_source
        from fs.daemon.launch import expect
        from runner.options import mount_options

        if not arguments.rootfs:
            arguments.image = absolute_source(arguments.image)
        # While the daemon asks for the image, the rest of this program is imported.
        source, options = arguments.image, mount_options(arguments)
        arguments.token = "" if arguments.rootfs else expect(source, options)
    from runner import verbs

    verb = {"run": verbs.run, "ps": verbs.ps, "rm": verbs.rm, "prune": verbs.prune}[arguments.verb]
    return verb(arguments)

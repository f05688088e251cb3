"""What starting a command reads: the program, its interpreters and libraries, and its runtime.

A command is followed as a kernel and a shell would: PATH, links, `#!` lines, wrappers that run
what stands behind them. What a runtime adds is asked of the module that knows it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol

from nydusify.startup.files import File, ImageFiles
from nydusify.startup.loader import Loader
from nydusify.startup.wanted import Wanted

_DEPTH = 12
_HEAD = 512
#: An argument that names a file of at most this size is wanted (bytes).
_ARGUMENT = 1 << 20
#: Of a program's own directory in /etc: files of at most this size, and so many.
_SETTING = 64 << 10
_SETTINGS = 200
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Programs by the name of their file, and the module that knows what they read.
_RUNTIMES = (
    (r"(ba|da|a|k|mk|z)?sh|busybox", "shell"),
    (r"python[0-9.]*|pypy3?", "python"),
    (r"perl[0-9.]*", "perl"),
    (r"ruby[0-9.]*", "ruby"),
    (r"node|nodejs", "node"),
    (r"java", "java"),
    (r"postgres|initdb", "postgres"),
    (r"apache2|httpd", "apache"),
    (r"erlexec", "erlang"),
    (r"mariadbd|mysqld|(mariadb|mysql)[-_]install[-_]db", "mariadb"),
    (r"php[0-9.]*|php-fpm[0-9.]*|php-cgi[0-9.]*", "php"),
)
#: Programs that run what stands behind their own options.
_WRAPPERS = re.compile(
    r"env|gosu|su-exec|tini(-static)?|dumb-init|catatonit|setpriv|nice|nohup|timeout|stdbuf|setsid"
    r"|chroot|runuser|xargs|time|sudo|docker-init|exec"
)

_MODULE = re.compile(
    r"^\s*load_?module\s+(?:\w+\s+)?[\"']?([\w./-]+\.so)", re.IGNORECASE | re.MULTILINE
)
_MODULE_PLACES = ("/usr/lib/{}", "/usr/share/{}", "/etc/{}", "/usr/local/{}")


class Runtime(Protocol):
    """A module of this package that knows a runtime."""

    def want(self, start: Start, program: File, words: Sequence[str], depth: int) -> None:
        """Add what `program` reads when it is started with `words` behind its name."""


class Start:
    """A start of one image. `environment` is that of its configuration."""

    def __init__(
        self, files: ImageFiles, wanted: Wanted, environment: Mapping[str, str], workdir: str
    ) -> None:
        self.files = files
        self.wanted = wanted
        self.environment = environment
        self.workdir = workdir or "/"
        self.loader = Loader(files, wanted, environment.get("LD_LIBRARY_PATH", ""))
        self._commands: set[tuple[str, ...]] = set()

    def program(self, name: str) -> File | None:
        """What a command's name is a program of."""
        for path in self.paths(name):
            found = self.files.find(path)
            if found is not None and found.is_program:
                return found
        return None

    def paths(self, name: str) -> list[str]:
        """Where a command's name is looked for."""
        if "/" in name:
            return [self.absolute(name)]
        path = self.environment.get("PATH") or _DEFAULT_PATH
        return [f"{self.absolute(directory)}/{name}" for directory in path.split(":")]

    def absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"{self.workdir.rstrip('/')}/{path}"

    def want_command(self, words: Sequence[str], why: str, depth: int = 0) -> bool:
        """Want all that is known of a command; whether it is one."""
        if not words or depth > _DEPTH:
            return False
        program = self.program(words[0])
        if program is None:
            return False
        key = (program.path, *words[1:])
        if key in self._commands:
            return True
        self._commands.add(key)
        if interpreter := self._interpreter(program):
            self.wanted.add(program, why)
            self.want_command([*interpreter, program.path, *words[1:]], "interpreter", depth + 1)
            self._want_runtime(program, words[1:], depth)
            return True
        self.loader.want(program, why)
        if _WRAPPERS.fullmatch(program.name):
            self._want_wrapped(words[1:], depth)
        self._want_arguments(words[1:])
        self._want_settings(program.name)
        self._want_runtime(program, words[1:], depth)
        return True

    def _want_runtime(self, program: File, words: Sequence[str], depth: int) -> None:
        for pattern, module in _RUNTIMES:
            if re.fullmatch(pattern, program.name):
                runtime: Runtime = import_module(f"nydusify.startup.{module}")
                runtime.want(self, program, words, depth)

    def _interpreter(self, program: File) -> list[str]:
        """The words of a `#!` line; none for another kind of program."""
        head = self.files.read(program, 0, _HEAD)
        if not head.startswith(b"#!"):
            return []
        line = head[2:].partition(b"\n")[0].decode("utf-8", "surrogateescape").strip()
        interpreter, _, argument = line.partition(" ")
        argument = argument.strip()
        if argument.startswith("-S"):  # of env: split what follows
            return [interpreter, *argument[2:].split()]
        return [word for word in (interpreter, argument) if word]

    def _want_wrapped(self, words: Sequence[str], depth: int) -> None:
        """The first word that is a program begins the command; users and options do not."""
        for position, word in enumerate(words):
            if not word.startswith("-") and "=" not in word and self.program(word):
                self.want_command(words[position:], "command of a wrapper", depth + 1)
                return

    def _want_arguments(self, words: Sequence[str]) -> None:
        for word in words:
            if not word.startswith("-") and "\n" not in word and len(word) < 4096:
                file = self.files.file(self.absolute(word))
                if file is not None and file.size <= _ARGUMENT:
                    self.wanted.add(file, "argument")

    def _want_settings(self, name: str) -> None:
        """The small files of the program's directory in /etc."""
        for directory in dict.fromkeys((name, name.rstrip("0123456789.-"))):
            if directory and self.files.find(f"/etc/{directory}"):
                for file in self.files.below(f"/etc/{directory}", _SETTINGS, "-available"):
                    if file.size <= _SETTING and self.wanted.add(file, "settings"):
                        self._want_modules(directory, self.files.text(file, _SETTING))

    def _want_modules(self, name: str, settings: str) -> None:
        """Libraries that a program's settings have it load."""
        for path in _MODULE.findall(settings):
            for parent in ("",) if path.startswith("/") else _MODULE_PLACES:
                file = self.files.file(f"{parent.format(name)}/{path}")
                if file is not None:
                    self.loader.want(file, "settings")
                    break

"""Python: what the interpreter imports by itself, and what a script imports, module by module.

Imports are found by reading source, line by line: those that stand outside of functions,
but not in the branches that another system or a failed import would take. Of a module that
has compiled code beside it, only that is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from nydusify.startup.files import File
from nydusify.startup.locale import want_locale
from nydusify.startup.programs import Start

_SOURCE = 512 << 10
_MOST_MODULES = 4000
_CHECKED = 0b11
#: Imported by every start; from 3.11 on most of these are part of the interpreter itself.
_CORE = ("encodings", "encodings.aliases", "encodings.utf_8")
_FROZEN = ("codecs", "io", "abc", "site", "os", "stat", "_collections_abc", "posixpath",
           "genericpath", "_sitebuiltins", "ntpath", "importlib", "importlib._bootstrap",
           "importlib._bootstrap_external", "importlib.util", "importlib.machinery", "zipimport",
           "runpy", "_bootlocale")  # fmt: skip
_FROZEN_SINCE = (3, 11)
_VERSION = re.compile(r"python(\d+)\.(\d+)")
_WRITTEN = re.compile(
    r"(?:sys\.platform|os\.name|TYPE_CHECKING|__main__|win32|darwin|_WIN|nt['\"])"
)
_IMPORT = re.compile(r"import\s+(.+)")
_FROM = re.compile(r"from\s+(\.*)\s*([\w.]*)\s+import\s+(.+)")


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Add the interpreter's own start and, as far as it is known, the script's.

    Where the environment asks for no locale, Python takes one of UTF-8.
    """
    python = _Python(start, program)
    for module in (*_FROZEN[:10], *_CORE):
        python.module(module)
    python.want_site()
    want_locale(start, "C.utf8", ("LC_CTYPE",))
    _want_script(start, python, list(words))


def _want_script(start: Start, python: _Python, words: list[str]) -> None:
    while words:
        word = words.pop(0)
        if word == "-m" and words:
            python.path.insert(0, start.workdir)
            for name in ("runpy", "pkgutil", words[0], f"{words[0]}.__main__"):
                python.module(name)
            _want_named_modules(python, words[1:])
            return
        if word == "-c" and words:
            python.scan(words[0], "", is_package=False)
            return
        if word in ("-W", "-X"):
            words[:1] = []
        elif not word.startswith("-"):
            file = start.files.file(start.absolute(word))
            if file is not None:
                python.path.insert(0, file.directory)
                start.wanted.add(file, "script")
                python.scan(start.files.text(file, _SOURCE), "", is_package=False)
                python.path.insert(0, start.workdir)
                _want_named_modules(python, words)
            return


def _want_named_modules(python: _Python, words: Sequence[str]) -> None:
    """Servers are told their application as MODULE:NAME."""
    for word in words:
        name, colon, _ = word.partition(":")
        if colon and re.fullmatch(r"[A-Za-z_][\w.]*", name):
            python.module(name)


class _Python:
    """Finds modules as sys.path would. `path` begins with where the script is."""

    def __init__(self, start: Start, program: File) -> None:
        self._start = start
        self._files = start.files
        self._seen: set[str] = set()
        match = _VERSION.search(program.name) or self._version_of_library(program)
        major, minor = (match[1], match[2]) if match else ("3", "0")
        self.version = (int(major), int(minor))
        self._tag = f"cpython-{major}{minor}"
        machines = ("x86_64-linux-gnu", "aarch64-linux-gnu", "x86_64-linux-musl")
        self._suffixes = [f".{self._tag}-{machine}.so" for machine in machines]
        self._suffixes += [".abi3.so", ".so"]
        prefix = program.directory.rpartition("/")[0]
        self._name = f"python{major}.{minor}"
        self._library = f"{prefix}/lib/{self._name}"
        more = start.environment.get("PYTHONPATH", "").split(":")
        self.path = [path for path in more if path] + [self._library,
                     f"{self._library}/lib-dynload", *self._sites(prefix)]  # fmt: skip

    def _version_of_library(self, program: File) -> re.Match[str] | None:
        for name in reversed(self._files.names(f"{program.directory.rpartition('/')[0]}/lib")):
            if match := _VERSION.fullmatch(name):
                return match
        return None

    def _sites(self, prefix: str) -> list[str]:
        virtual = self._start.environment.get("VIRTUAL_ENV", "")
        places = [f"{virtual}/lib/{self._name}/site-packages"] if virtual else []
        places += [f"{prefix}/lib/{self._name}/site-packages",
                   f"/usr/local/lib/{self._name}/dist-packages",
                   "/usr/lib/python3/dist-packages"]  # fmt: skip
        return [place for place in places if self._files.find(place)]

    def want_site(self) -> None:
        """What `site` reads: .pth files, and sitecustomize with what it imports."""
        for place in self.path:
            for name in self._files.names(place) if place.endswith("-packages") else ():
                if name.endswith(".pth"):
                    file = self._files.file(f"{place}/{name}")
                    if file and self._start.wanted.add(file, "site"):
                        self._follow_pth(self._files.text(file, _SOURCE), place)
        self.module("sitecustomize")

    def _follow_pth(self, text: str, place: str) -> None:
        for line in text.splitlines():
            if line.startswith("import "):
                for part in line.split(";"):
                    self.scan(part.strip(), "", is_package=False)
            elif line and not line.startswith("#"):
                self.path.append(line if line.startswith("/") else f"{place}/{line}")

    def module(self, name: str) -> bool:
        """Want a module, its packages and its imports; whether it is there."""
        if name in self._seen or (name in _FROZEN and self.version >= _FROZEN_SINCE):
            return True
        parent, _, _ = name.rpartition(".")
        if parent and not self.module(parent):
            return False
        if len(self._seen) > _MOST_MODULES:
            return False
        for directory in self.path:
            base = f"{directory}/{name.replace('.', '/')}"
            if source := self._files.file(f"{base}/__init__.py"):
                return self._load(name, source, is_package=True)
            for suffix in self._suffixes:
                if extension := self._files.file(base + suffix):
                    self._seen.add(name)
                    self._start.loader.want(extension, "import")
                    return True
            if source := self._files.file(f"{base}.py"):
                return self._load(name, source, is_package=False)
            if self._files.find(base) and "." in name:
                self._seen.add(name)
                return True
        return False

    def _load(self, name: str, source: File, *, is_package: bool) -> bool:
        self._seen.add(name)
        stem = source.name.removesuffix(".py")
        compiled = self._files.file(f"{source.directory}/__pycache__/{stem}.{self._tag}.pyc")
        self._start.wanted.add(compiled or source, "import")
        if compiled and self._is_checked(compiled):
            self._start.wanted.add(source, "import")
        self.scan(self._files.text(source, _SOURCE), name, is_package=is_package)
        return True

    def _is_checked(self, compiled: File) -> bool:
        """Whether compiled code is valid only with a source of a certain digest."""
        flags = self._files.read(compiled, 4, 4)
        return len(flags) == 4 and flags[0] & _CHECKED == _CHECKED

    def scan(self, source: str, name: str, *, is_package: bool) -> None:
        """Want what a module's source imports. `name` is that of the module."""
        package = name if is_package else name.rpartition(".")[0]
        for module, names in imports(source, package):
            if self.module(module):
                for each in names:
                    if self._has(f"{module}.{each}"):
                        self.module(f"{module}.{each}")

    def _has(self, name: str) -> bool:
        """Whether a name that is imported from a package is a module of it."""
        tail = name.replace(".", "/")
        for directory in self.path:
            if self._files.find(f"{directory}/{tail}.py") or self._files.find(
                f"{directory}/{tail}/__init__.py"
            ):
                return True
        return False


def imports(source: str, package: str) -> Iterator[tuple[str, list[str]]]:
    """(module, names imported from it) of each import that a module's first run would make."""
    for statement in _statements(source):
        if match := _FROM.fullmatch(statement):
            dots, module, names = match[1], match[2], match[3]
            if dots:
                parts = package.split(".") if package else []
                parts = parts[: len(parts) - len(dots) + 1]
                module = ".".join([*parts, module] if module else parts)
            if module:
                yield module, [each.split()[0] for each in _listed(names)]
        elif match := _IMPORT.fullmatch(statement):
            for each in _listed(match[1]):
                yield each.split()[0], []


def _listed(names: str) -> list[str]:
    return [each.strip() for each in names.strip(" ()").split(",") if each.strip(" ()")]


def _statements(source: str) -> Iterator[str]:
    """Import statements, each on one line, of the module's level or of a block that counts."""
    inside = False  # of a block whose imports count
    lines = iter(source.splitlines())
    for line in lines:
        indented = line[:1] in (" ", "\t")
        if indented and not inside:  # most of all lines
            continue
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if not indented:
            inside = bare.startswith(("try:", "if ", "with ", "else:")) and not _WRITTEN.search(
                bare
            )
        if bare.startswith(("import ", "from ")):
            statement = bare.partition("#")[0].strip()
            while ("(" in statement and ")" not in statement) or statement.endswith("\\"):
                more = next(lines, None)
                if more is None:
                    break
                statement = f"{statement.rstrip(chr(92))} {more.partition('#')[0].strip()}"
            yield statement.partition(";")[0].strip()

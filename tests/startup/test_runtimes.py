"""What runtimes of languages read by themselves, and what their scripts load."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from nydusify.startup.python import imports
from tests.startup.trees import Content, link, paths, wants, write_tree

_BINARY = b"\x7fELF no program that could run"
_LIB = "/usr/lib/python3.11"
_PYC = struct.pack("<II", 0, 0)


def python_tree(root: Path, more: dict[str, Content]) -> Path:
    files: dict[str, Content] = {
        "/usr/bin/python3": "-> python3.11", "/usr/bin/python3.11": _BINARY,
        f"{_LIB}/encodings/__init__.py": "from . import aliases\n",
        f"{_LIB}/encodings/aliases.py": "", f"{_LIB}/encodings/utf_8.py": "import codecs\n",
        f"{_LIB}/os.py": "", f"{_LIB}/json/__init__.py": "from .decoder import JSONDecoder\n",
        f"{_LIB}/json/decoder.py": "import re\n", f"{_LIB}/re.py": "",
    }  # fmt: skip
    return write_tree(root, {path: text or "pass" for path, text in (files | more).items()})


def test_the_interpreters_own_modules(tmp_path: Path) -> None:
    root = python_tree(tmp_path / "root", {})
    found = paths(wants(root, tmp_path, ["python3"]))
    assert f"{_LIB}/encodings/utf_8.py" in found
    assert f"{_LIB}/os.py" not in found  # part of the interpreter
    assert f"{_LIB}/json/__init__.py" not in found


def test_imports_of_a_script(tmp_path: Path) -> None:
    root = python_tree(tmp_path / "root", {
        "/app/main.py": "import json\nimport own.deep\nfrom web import App, views\n",
        "/app/own/__init__.py": "", "/app/own/deep.py": "from . import near\nfrom .. import no\n",
        "/app/own/near.py": "def f():\n    import re2\n",
        "/usr/lib/python3/dist-packages/web/__init__.py": "class App: ...\n",
        "/usr/lib/python3/dist-packages/web/views.py":
            "try:\n    import fast\nexcept E:\n    import slow\n",
        "/usr/lib/python3/dist-packages/fast.cpython-311-x86_64-linux-gnu.so": _BINARY,
        "/usr/lib/python3/dist-packages/slow.py": "", f"{_LIB}/re2.py": "",
    })  # fmt: skip
    found = paths(wants(root, tmp_path, ["python3", "-u", "main.py"], workdir="/app"))
    for name in ("/app/main.py", "/app/own/near.py", f"{_LIB}/json/decoder.py", f"{_LIB}/re.py",
                 "/usr/lib/python3/dist-packages/web/views.py"):  # fmt: skip
        assert name in found
    assert f"{_LIB}/re2.py" not in found
    assert "/usr/lib/python3/dist-packages/slow.py" not in found


@pytest.mark.parametrize("words", [["-m", "own"], ["-c", "import own.__main__"], ["-", "own:app"]])
def test_other_ways_to_name_a_module(words: list[str], tmp_path: Path) -> None:
    root = python_tree(tmp_path / "root", {
        "/app/own/__init__.py": "", "/app/own/__main__.py": "import json\n",
    })  # fmt: skip
    env = ["PYTHONPATH=/app"]
    found = paths(wants(root, tmp_path, ["python3", *words], env, workdir="/app"))
    assert ("/app/own/__main__.py" in found) is (words[0] != "-")


def test_compiled_code_stands_for_its_source(tmp_path: Path) -> None:
    cached = f"{_LIB}/encodings/__pycache__"
    checked = struct.pack("<II", 0, 0b11)
    code = {"utf_8": _PYC + b"code", "aliases": checked + b"code"}
    files: dict[str, Content] = {
        f"{cached}/{name}.cpython-311.pyc": data for name, data in code.items()
    }
    root = python_tree(tmp_path / "root", files)
    found = paths(wants(root, tmp_path, ["python3"]))
    assert f"{cached}/utf_8.cpython-311.pyc" in found
    assert f"{_LIB}/encodings/utf_8.py" not in found
    assert f"{cached}/aliases.cpython-311.pyc" in found
    assert f"{_LIB}/encodings/aliases.py" in found


def test_path_files_of_site(tmp_path: Path) -> None:
    site = "/usr/local/lib/python3.11/dist-packages"
    root = python_tree(tmp_path / "root", {
        f"{site}/a.pth": "# comment\n/opt/more\nimport hook; hook.go()\n",
        f"{site}/hook.py": "import extra\n", "/opt/more/extra.py": "",
    })  # fmt: skip
    found = paths(wants(root, tmp_path, ["python3"]))
    assert f"{site}/a.pth" in found
    assert "/opt/more/extra.py" in found


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("import a.b as c, d", "", [("a.b", []), ("d", [])]),
        ("from a import (b,  # why\n    c as d,\n)", "", [("a", ["b", "c"])]),
        ("from . import x\nfrom .y import z\nfrom ..up import w", "p.q",
         [("p.q", ["x"]), ("p.q.y", ["z"]), ("p.up", ["w"])]),
        ("from a import \\\n    b", "", [("a", ["b"])]),
        ("if TYPE_CHECKING:\n    import a\nimport b", "", [("b", [])]),
        ("try:\n    import a\nexcept ImportError:\n    import b\n", "", [("a", [])]),
        ("class C:\n    import a\ndef f():\n    import b\n", "", []),
        ("from . import x", "", []),
        ("'''import a'''\n  \nimport (", "", []),
    ],
)  # fmt: skip
def test_imports_of_source(source: str, package: str, found: list[tuple[str, list[str]]]) -> None:
    assert list(imports(source, package)) == found


def test_perl_modules(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "/usr/bin/perl": _BINARY,
        "/app/x.pl": "#!/usr/bin/perl\nuse My::Mod qw(a);\n__END__\nuse No;\n",
        "/usr/share/perl/5.36/My/Mod.pm": "package My::Mod;\nrequire Low;\n",
        "/usr/share/perl5/Low.pm": "1;", "/usr/share/perl5/No.pm": "1;",
        "/usr/share/perl/5.36/auto/My/Mod/Mod.so": b"no library",
    })  # fmt: skip
    found = paths(wants(root, tmp_path, ["/app/x.pl"]))
    assert "/usr/share/perl5/Low.pm" in found
    assert "/usr/share/perl5/No.pm" not in found


def test_node_modules(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "/usr/bin/node": _BINARY,
        "/app/src/main.js": "const a = require('pkg'); import b from './near';\nrequire('fs')\n",
        "/app/src/near.js": "require('../data.json')", "/app/data.json": "{}",
        "/app/node_modules/pkg/package.json": '{"main": "lib/x"}',
        "/app/node_modules/pkg/lib/x.js": "require('other')",
        "/app/node_modules/other/index.js": "1",
    })  # fmt: skip
    found = set(paths(wants(root, tmp_path, ["node", "src/main.js"], workdir="/app")))
    assert found >= {"/app/src/main.js", "/app/src/near.js", "/app/data.json",
                     "/app/node_modules/pkg/package.json", "/app/node_modules/pkg/lib/x.js",
                     "/app/node_modules/other/index.js"}  # fmt: skip


def test_ruby_requirements(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "/usr/bin/ruby3.1": _BINARY, "/usr/bin/ruby": "-> ruby3.1",
        "/usr/lib/ruby/vendor_ruby/rubygems.rb": "require_relative 'rubygems/errors'\n",
        "/usr/lib/ruby/vendor_ruby/rubygems/errors.rb": "def x\n    require 'late'\nend\n",
        "/usr/lib/ruby/3.1.0/rubygems.rb": "1", "/usr/lib/ruby/3.1.0/late.rb": "1",
        "/usr/lib/ruby/3.1.0/json.rb": "1", "/app/x.rb": "require 'json'\n",
    })  # fmt: skip
    found = paths(wants(root, tmp_path, ["ruby", "/app/x.rb"]))
    assert "/usr/lib/ruby/vendor_ruby/rubygems/errors.rb" in found
    assert "/usr/lib/ruby/3.1.0/json.rb" in found
    assert "/usr/lib/ruby/3.1.0/late.rb" not in found
    assert "/usr/lib/ruby/3.1.0/rubygems.rb" not in found


def test_of_javas_modules_only_the_index_is_wanted(tmp_path: Path) -> None:
    home = "/usr/lib/jvm/x"
    head = struct.pack("<7I", 0xCAFEDADA, 1 << 16, 0, 10, 10, 300, 400)
    root = write_tree(tmp_path / "root", {
        f"{home}/bin/java": _BINARY, "/usr/bin/java": f"-> {home}/bin/java",
        f"{home}/lib/modules": head + bytes(3 << 20), f"{home}/lib/server/classes.jsa": "x",
        f"{home}/lib/jvm.cfg": "x", "/app/A.class": "c", "/app/b.jar": b"j" * (9 << 20),
        "/app/c.jar": "no archive",
    })  # fmt: skip
    found = wants(root, tmp_path, ["java", "-cp", "/app", "A"])
    spans = {want.file.path: list(want.spans) for want in found}
    assert spans[f"{home}/lib/modules"] == [(0, 28 + 80 + 700)]
    assert spans["/app/A.class"] == [(0, 1)]
    assert spans["/app/b.jar"] == [((9 << 20) - (256 << 10), 256 << 10)]
    assert spans["/app/c.jar"] == [(0, 10)]
    assert f"{home}/lib/server/classes.jsa" in spans


def jimage(resources: dict[tuple[str, str], int]) -> tuple[bytes, int]:
    """A file of modules: sizes by module and package; and where the first lies."""
    strings, locations, offsets, place = b"\0", b"", [], 0
    for (module, package), size in resources.items():
        numbers = []
        for name in (module, package):
            numbers.append(len(strings))
            strings += name.encode() + b"\0"
        offsets.append(len(locations))
        for kind, value in ((1, numbers[0]), (2, numbers[1]), (5, place), (7, size)):
            locations += bytes([kind << 3 | 3]) + value.to_bytes(4, "big")
        locations += b"\0"
        place += size
    count = len(offsets)
    head = struct.pack("<7I", 0xCAFEDADA, 1 << 16, 0, count, count, len(locations), len(strings))
    tables = bytes(4 * count) + struct.pack(f"<{count}I", *offsets)
    index = head + tables + locations + strings
    return index + bytes(place), len(index)


def jar(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def test_the_archives_of_a_java_server_and_the_modules_that_they_name(tmp_path: Path) -> None:
    home, large = "/usr/lib/jvm/x", 20 << 20
    sizes = {
        ("java.base", "java/lang"): 100_000, ("java.desktop", "java/awt"): large,
        ("java.desktop", "java/beans"): 70_000, ("java.naming", "javax/naming/spi"): 80_000,
        ("java.naming", "javax/naming"): 5000, ("java.sql", "java/sql"): 90_000,
    }  # fmt: skip
    modules, at = jimage(sizes)
    manifest = b"Manifest-Version: 1.0\r\nClass-Path: ../mo\r\n re/b.jar none.jar\r\n"
    root = write_tree(tmp_path / "root", {
        "/bin/sh": _BINARY, f"{home}/bin/java": _BINARY, "/usr/bin/java": f"-> {home}/bin/java",
        f"{home}/lib/modules": modules, "/srv/conf/server.xml": "x", "/srv/more/b.jar": jar({}),
        "/srv/bin/start.sh": '#!/bin/sh\nHERE=`cd "$(dirname "$0")/.." >/dev/null; pwd`\n'
                             'exec java -cp "$HERE/run.jar" Main\n',
        "/srv/run.jar": jar({"Main.class": b"\1Ljava/beans/Introspector;\1\20javax/naming/Name"}),
        "/srv/lib/a.jar": jar({"META-INF/MANIFEST.MF": manifest}), "/srv/lib/no": "x",
    })  # fmt: skip
    found = wants(root, tmp_path, ["/srv/bin/start.sh"])
    assert {"/srv/run.jar", "/srv/lib/a.jar", "/srv/more/b.jar", "/srv/conf/server.xml"} <= set(
        paths(found)
    )
    assert "/srv/lib/no" not in paths(found)
    spans = [span for want in found if want.file.name == "modules" for span in want.spans]
    beans = at + 100_000 + large
    assert spans == [(0, at), (at, 100_000), (beans, 70_000 + 85_000)]


def test_php_extensions(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "/usr/bin/php8.2": _BINARY, "/etc/php/8.2/cli/php.ini": "; none\n",
        "/etc/php/8.2/cli/conf.d/20-x.ini": "extension=x.so\n", "/etc/php/8.2/fpm/php.ini": "",
        "/usr/lib/php/20220829/x.so": _BINARY,
    })  # fmt: skip
    found = paths(wants(root, tmp_path, ["php8.2", "-a"]))
    assert "/etc/php/8.2/cli/conf.d/20-x.ini" in found
    assert "/etc/php/8.2/fpm/php.ini" not in found


def test_what_postgres_makes_a_database_of(tmp_path: Path) -> None:
    home, share = "/usr/lib/postgresql/15", "/usr/share/postgresql/15"
    root = write_tree(tmp_path / "root", {
        f"{home}/bin/initdb": _BINARY, f"{home}/bin/postgres": _BINARY, "/bin/sh": _BINARY,
        f"{home}/lib/plpgsql.so": _BINARY, f"{share}/postgres.bki": "x", f"{share}/other": "x",
        "/usr/bin/locale": _BINARY,
    })  # fmt: skip
    env = [f"PATH={home}/bin:/usr/bin:/bin"]
    found = paths(wants(root, tmp_path, ["initdb"], env))
    assert {f"{home}/bin/postgres", "/usr/bin/locale", f"{share}/postgres.bki",
            f"{home}/lib/plpgsql.so"} <= set(found)  # fmt: skip
    assert f"{share}/other" not in found


def test_of_icu_a_new_database_reads_collations(tmp_path: Path) -> None:
    home, library = "/usr/lib/postgresql/15", "/usr/lib/libicudata.so.1"
    items = {"x/brkitr/a.brk": 9000, "x/coll/de.res": 5000, "x/coll/en.res": 6000,
             "x/curr/a.res": 8000, "x/lang/en.res": 7000, "x/zone/a.res": 4000}  # fmt: skip
    table, names, contents = struct.pack("<I", len(items)), b"", b""
    first = 4 + 8 * len(items)
    data = first + sum(len(name) + 1 for name in items)
    for name, size in items.items():
        table += struct.pack("<2I", first + len(names), data + len(contents))
        names += name.encode() + b"\0"
        contents += bytes(size)
    head = struct.pack("<H10xI", 32, 0)[:12] + b"CmnD" + bytes(16)
    elf = tmp_path / "root" / library[1:]
    write_tree(tmp_path / "root", {f"{home}/bin/initdb": _BINARY})
    blob = tmp_path / "data.bin"
    blob.write_bytes(head + table + names + contents)
    source = f'__asm__(".section .rodata\\n.balign 16\\n.incbin \\"{blob}\\"");'
    link(elf, "-shared", "-Wl,-soname,libicudata.so.1", source=source)
    link(tmp_path / "root" / f"{home[1:]}/bin/initdb", str(elf), "-Wl,-rpath,/usr/lib",
         source="void _start(void) {}")  # fmt: skip
    found = wants(tmp_path / "root", tmp_path, [f"{home}/bin/initdb"])
    start = elf.read_bytes().index(b"CmnD") - 12 + 32
    spans = [span for want in found if want.why == "initdb" for span in want.spans]
    coll, lang = start + data + 9000, start + data + 9000 + 11_000 + 8000
    assert spans == [(0, start + data), (coll, 11_000), (lang, 7000)]


def test_what_mariadb_makes_a_database_of(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "/usr/bin/mariadb-install-db": "#!/bin/sh\nexit\n", "/bin/sh": _BINARY,
        "/usr/sbin/mariadbd": _BINARY, "/usr/share/mysql/english/errmsg.sys": "x",
        "/usr/share/mysql/mysql_system_tables.sql": "x", "/usr/share/mysql/french/errmsg.sys": "x",
    })  # fmt: skip
    found = paths(wants(root, tmp_path, ["mariadb-install-db"]))
    assert {"/usr/sbin/mariadbd", "/usr/share/mysql/english/errmsg.sys",
            "/usr/share/mysql/mysql_system_tables.sql"} <= set(found)  # fmt: skip
    assert "/usr/share/mysql/french/errmsg.sys" not in found


def test_the_modules_that_apache_has_enabled(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "/usr/sbin/apache2": _BINARY, "/usr/lib/apache2/modules/libphp8.2.so": _BINARY,
        "/usr/lib/apache2/modules/mod_x.so": _BINARY,
        "/etc/apache2/mods-available/php.load":
            "LoadModule php_module /usr/lib/apache2/modules/libphp8.2.so\n",
        "/etc/apache2/mods-available/x.load": "LoadModule x /usr/lib/apache2/modules/mod_x.so\n",
        "/etc/apache2/mods-enabled/php.load": "-> ../mods-available/php.load",
        "/etc/php/8.2/apache2/php.ini": "; none\n",
    })  # fmt: skip
    found = paths(wants(root, tmp_path, ["apache2", "-DFOREGROUND"]))
    assert "/usr/lib/apache2/modules/libphp8.2.so" in found
    assert "/etc/php/8.2/apache2/php.ini" in found
    assert "/usr/lib/apache2/modules/mod_x.so" not in found


def test_the_emulator_of_erlang_and_its_libraries(tmp_path: Path) -> None:
    home = "/usr/lib/erlang"
    root = write_tree(tmp_path / "root", {
        "/usr/bin/erl": f"-> {home}/bin/erl", "/bin/sh": _BINARY,
        f"{home}/bin/erl": f'#!/bin/sh\nROOTDIR="{home}"\nBINDIR=$ROOTDIR/erts-13/bin\n'
                           'exec "$BINDIR/erlexec" ${1+"$@"}\n',
        f"{home}/erts-13/bin/erlexec": _BINARY, f"{home}/erts-13/bin/beam.smp": _BINARY,
        f"{home}/bin/start.boot": "x", f"{home}/lib/kernel-8.5/ebin/code.beam": "x",
        f"{home}/lib/ssl-10/ebin/ssl.beam": "x",
    })  # fmt: skip
    found = paths(wants(root, tmp_path, ["erl"]))
    assert {f"{home}/erts-13/bin/beam.smp", f"{home}/bin/start.boot",
            f"{home}/lib/kernel-8.5/ebin/code.beam"} <= set(found)  # fmt: skip
    assert f"{home}/lib/ssl-10/ebin/ssl.beam" not in found


def test_a_release_of_erlang_with_the_applications_that_it_needs(tmp_path: Path) -> None:
    home, release = "/usr/lib/erlang", "/opt/queue"
    root = write_tree(tmp_path / "root", {
        "/bin/sh": _BINARY, f"{home}/erts-1/bin/erlexec": _BINARY,
        f"{home}/lib/ssl-10/ebin/ssl.app": "{application, ssl, [{applications, [kernel]}]}.",
        f"{home}/lib/ssl-10/ebin/ssl.beam": "x", f"{home}/lib/ssl-10/priv/lib/c.so": _BINARY,
        f"{home}/lib/wx-2/ebin/wx.beam": "x", f"{home}/lib/kernel-8.5/ebin/code.beam": "x",
        f"{release}/sbin/run": '#!/bin/sh\nDIR=$(dirname "$0")\n. "$DIR/names"\n'
                               f'exec {home}/erts-1/bin/erlexec -s $BOOT_MODULE boot\n',
        f"{release}/sbin/names": 'BOOT_MODULE="queue"\n',
        f"{release}/plugins/queue-1.2/ebin/queue.app":
            "{application, queue, [\n{applications, [kernel,\n ssl]}]}.",
        f"{release}/plugins/queue-1.2/ebin/queue.beam": "x",
        f"{release}/plugins/other-1/ebin/other.beam": "x",
    })  # fmt: skip
    found = paths(wants(root, tmp_path, [f"{release}/sbin/run"]))
    assert {f"{release}/plugins/queue-1.2/ebin/queue.beam", f"{home}/lib/ssl-10/ebin/ssl.beam",
            f"{home}/lib/ssl-10/priv/lib/c.so"} <= set(found)  # fmt: skip
    assert not {f"{home}/lib/wx-2/ebin/wx.beam",
                f"{release}/plugins/other-1/ebin/other.beam"} & set(found)  # fmt: skip

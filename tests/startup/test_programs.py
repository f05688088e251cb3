"""Commands: links, `#!` lines, wrappers, shell scripts, settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from nydusify.startup.shell import commands
from tests.startup.trees import paths, wants, write_tree

_BINARY = b"\x7fELF no program that could run"


def test_interpreters_of_interpreters(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "/usr/bin/tool": "#!/usr/bin/env -S inner -x\n", "/usr/bin/env": _BINARY,
        "/usr/local/bin/inner": "-> ../../../opt/inner", "/opt/inner": "#! /bin/sh\n",
        "/bin/sh": "-> dash", "/bin/dash": _BINARY,
    })  # fmt: skip
    assert paths(wants(root, tmp_path, ["tool"])) == ["/usr/bin/tool", "/usr/bin/env", "/opt/inner",
                                                      "/bin/dash"]  # fmt: skip


def test_an_interpreter_loop_ends(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"/bin/a": "#!/bin/b\n", "/bin/b": "#!/bin/a\n"})
    assert set(paths(wants(root, tmp_path, ["a"]))) == {"/bin/a", "/bin/b"}


def test_path_and_working_directory(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"/srv/app/run": _BINARY, "/bin/run": _BINARY,
                                          "/srv/app/conf": "x", "/x/run": _BINARY})  # fmt: skip
    assert paths(wants(root, tmp_path / "1", ["./run", "conf"], workdir="/srv/app")) == [
        "/srv/app/run", "/srv/app/conf",
    ]  # fmt: skip
    assert paths(wants(root, tmp_path / "2", ["run"], ["PATH=/none:/x:/bin"])) == ["/x/run"]
    assert paths(wants(root, tmp_path / "3", ["no-such"])) == []


def test_wrappers_run_what_stands_behind_them(tmp_path: Path) -> None:
    files = {f"/bin/{name}": _BINARY for name in ("tini", "gosu", "server", "env")}
    root = write_tree(tmp_path / "root", files)
    found = paths(wants(root, tmp_path, ["tini", "--", "gosu", "nobody", "env", "A=1", "server"]))
    assert found == ["/bin/tini", "/bin/gosu", "/bin/env", "/bin/server"]


_ENTRY_POINT = """#!/bin/sh
set -e   # comments name find and date
. /opt/functions
if [ "$1" = server ] && [ "$(id -u)" = 0 ]; then
    chown -R app "$DATA"; LANG=C mkdir -p "$DATA" \\
        || grep -q x /etc/passwd
    exec setpriv --reuid=app "$0" "$@"
fi
for f in /docker-entrypoint.d/*; do sed -i s/a/b/ "$f"; done
exec "$@"
"""


def test_an_entry_point_script_and_its_command(tmp_path: Path) -> None:
    names = "dash id chown mkdir grep setpriv sed server find date test awk"
    files: dict[str, str | bytes] = {f"/bin/{name}": _BINARY for name in names.split()}
    files |= {"/bin/sh": "-> dash", "/entry.sh": _ENTRY_POINT, "/opt/functions": "awk 1\n"}
    root = write_tree(tmp_path / "root", files)
    found = paths(wants(root, tmp_path, ["/entry.sh", "server"]))
    wanted = {"dash", "id", "chown", "mkdir", "grep", "setpriv", "sed", "awk"}
    assert {path for path in found if path.startswith("/bin/")} == {f"/bin/{n}" for n in wanted}
    assert "/opt/functions" in found


def test_the_text_behind_c(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"/bin/sh": _BINARY, "/bin/tool": _BINARY})
    assert paths(wants(root, tmp_path, ["sh", "-ec", "true && tool --now"])) == [
        "/bin/sh", "/bin/tool",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a b | c 'd e'; f", [["a", "b"], ["c", "d e"], ["f"]]),
        ("X=1 Y=2 a $Z b", [["a", "b"]]),
        ("if ! a; then b; fi", [["a"], ["b"], ["fi"]]),
        ("$x a\n'unfinished", [["unfinished"]]),
        ("x=$(a b) c", [["a", "b"], ["c"]]),
        ('A=/opt\n"$A"/run ${B:-x} $C', [["/opt/run", "x"]]),
        ("A=$(b)\n$A/run", [["b"]]),
        ("command -v a >/dev/null", [["which", "a"]]),
        ("", []),
    ],
)
def test_commands_of_a_script(text: str, found: list[list[str]]) -> None:
    assert list(commands(text)) == found


def test_settings_and_the_modules_that_they_load(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "/usr/sbin/server": _BINARY, "/etc/server/server.conf": "load_module modules/mod_a.so;\n",
        "/usr/lib/server/modules/mod_a.so": _BINARY, "/etc/server/deep/large": "x" * 70_000,
        "/etc/other/other.conf": "x",
    })  # fmt: skip
    found = paths(wants(root, tmp_path, ["server"]))
    assert "/etc/server/server.conf" in found
    assert "/etc/server/deep/large" not in found
    assert "/etc/other/other.conf" not in found


def test_accounts_and_time_zone(tmp_path: Path) -> None:
    files = {"/etc/passwd": "root", "/etc/group": "root"}
    files |= {"/etc/localtime": "-> ../usr/zone", "/usr/zone": "z"}
    root = write_tree(tmp_path / "root", files)
    assert paths(wants(root, tmp_path, [])) == ["/etc/passwd", "/etc/group", "/usr/zone"]


def test_variables_of_the_environment_and_programs_looked_for(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "/bin/sh": _BINARY, "/usr/bin/java": _BINARY, "/usr/bin/which": _BINARY,
        "/opt/home/bin/start.sh": '#!/bin/sh\n. "$HOME_DIR"/bin/paths.sh\nexec "$RUN" x\n',
        "/opt/home/bin/paths.sh": "RUN=`which java 2>/dev/null`\n",
    })  # fmt: skip
    env = ["HOME_DIR=/opt/home"]
    found = paths(wants(root, tmp_path, ["/opt/home/bin/start.sh"], env))
    assert "/opt/home/bin/paths.sh" in found
    assert "/usr/bin/java" in found

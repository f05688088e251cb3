"""What an installation contains, and what a command costs before it works."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fs.commandline import VERSION
from tests.house.sources import PACKAGES, REPOSITORY, tracked_files

CLI_MODULES = {"nydusify": "nydusify.cli", "nydus-fs": "fs.cli", "lazyrun": "runner.cli"}

# Each costs tens of milliseconds to import (pyfuse3 and requests above a hundred).
HEAVY = {"trio", "requests", "urllib3", "pyfuse3", "rich", "asyncio", "http.client", "zstandard"}

LOADED_AFTER_HELP = """
import contextlib, io, json, sys
from importlib import import_module
main = import_module(sys.argv[1]).main
imported = sorted(sys.modules)
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["--help"])
print(json.dumps([imported, sorted(sys.modules)]))
"""


def pyproject() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_listed_packages_are_the_folders() -> None:
    folders = {
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for path in tracked_files("*.py")
        if path.relative_to(REPOSITORY).parts[0] in PACKAGES
    }
    assert set(pyproject()["tool"]["setuptools"]["packages"]) == folders


def test_commands_are_the_three_tools() -> None:
    targets = {name: f"{module}:main" for name, module in CLI_MODULES.items()}
    assert pyproject()["project"]["scripts"] == targets


@pytest.mark.parametrize("module", CLI_MODULES.values())
def test_help_loads_nothing_heavy(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED_AFTER_HELP, module],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    at_import, after_help = (set(names) for names in json.loads(done.stdout))
    assert at_import & HEAVY == set()
    assert after_help & HEAVY == set()


@pytest.mark.parametrize("command", CLI_MODULES)
def test_installed_command_starts(command: str, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / command
    if not program.exists():
        pytest.skip("not installed; ./dev setup does it")
    done = subprocess.run([program, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {command}")
    assert done.stderr == ""


@pytest.mark.parametrize(("command", "module"), CLI_MODULES.items())
def test_every_command_has_the_version_of_the_package(command: str, module: str) -> None:
    call = f"import sys; from {module} import main; sys.exit(main(['--version']))"
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{command} {VERSION}\n"
    assert pyproject()["project"]["dynamic"] == ["version"]
    taken = pyproject()["tool"]["setuptools"]["dynamic"]["version"]
    assert taken == {"attr": "fs.commandline.VERSION"}


@pytest.mark.parametrize(
    ("module", "verb", "code"),
    [("nydusify.cli", "convert", 2), ("fs.cli", "mount", 2), ("runner.cli", "run", 125)],
)
def test_wrong_usage_has_its_exit_code(module: str, verb: str, code: int) -> None:
    """2 as everywhere; `lazyrun run` has docker's 125, as lower ones belong to the container."""
    call = f"import sys; from {module} import main; sys.exit(main(['{verb}', '--no-such-flag']))"
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr

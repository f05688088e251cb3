"""Images whose authors want out: links where we write and mount, tricks with /proc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parts.trees import scan
from tests.parts.waiting import PATIENCE
from tests.runner.conftest import Lazyrun

pytestmark = [pytest.mark.root, pytest.mark.overlay, pytest.mark.system]


@pytest.fixture
def hostile(lazyrun: Lazyrun, tmp_path: Path) -> Lazyrun:
    """A copy of the image that a test may spoil, beside a directory that nobody may touch."""
    image = tmp_path / "image"
    subprocess.run(["cp", "-a", lazyrun.image, image], check=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").write_text("untouched")
    return Lazyrun(lazyrun.root, image)


def replace(path: Path, target: str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def make_file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


UP = "../../../../../../../../../.."
SPOILINGS: dict[str, Callable[[Path, str], None]] = {
    "etc": lambda image, outside: replace(image / "etc", outside),
    "etc relative": lambda image, outside: replace(image / "etc", UP + outside),
    "resolv.conf": lambda image, outside: replace(image / "etc/resolv.conf", f"{outside}/new"),
    "hosts": lambda image, outside: replace(image / "etc/hosts", f"{outside}/precious"),
    "hosts in proc": lambda image, outside: replace(image / "etc/hosts", "/proc/self/attr/exec"),
    "hostname magic": lambda image, outside: replace(image / "etc/hostname", "/proc/self/root/x"),
    "work directory": lambda image, outside: replace(image / "srv", outside),
    "volume": lambda image, outside: replace(image / "mnt", outside),
    "volume in proc": lambda image, outside: replace(image / "mnt", "/proc/1"),
    "volume up": lambda image, outside: replace(image / "mnt", UP + outside),
    "volume loop": lambda image, outside: replace(image / "mnt", "/mnt"),
    "proc": lambda image, outside: replace(image / "proc", outside),
    "dev": lambda image, outside: replace(image / "dev", outside),
    "sys": lambda image, outside: replace(image / "sys", "tmp"),
    "dev in proc": lambda image, outside: replace(image / "dev", "/proc/self/root/dev"),
    "proc a file": lambda image, outside: make_file(image / "proc"),
}


@pytest.mark.parametrize("name", SPOILINGS)
def test_links_lead_nowhere_outside(hostile: Lazyrun, tmp_path: Path, name: str) -> None:
    outside, volume = tmp_path / "outside", tmp_path / "volume"
    volume.mkdir()
    (volume / "own").touch()
    SPOILINGS[name](hostile.image, str(outside))
    before, image_before = scan(outside), scan(hostile.image)
    flags = ["-v", f"{volume}:/mnt/at", "-w", "/srv/made", "-e", "X=1"]
    script = "test -e /mnt/at/own && cat /proc/self/mountinfo"
    done = hostile.run(*flags, "--", "sh", "-c", script)
    assert scan(outside) == before
    assert scan(hostile.image) == image_before
    refused = name in ("proc", "dev", "sys", "dev in proc", "proc a file", "volume in proc",
                       "volume loop", "hosts in proc")  # fmt: skip
    assert done.returncode == (125 if refused else 0), done.stderr
    assert len(done.stderr.splitlines()) == (1 if refused else 0)
    assert "Traceback" not in done.stderr
    assert not Path("/srv/made").exists()


def test_the_interpreter_of_the_host_cannot_be_written(hostile: Lazyrun) -> None:
    """CVE-2019-5736: an entrypoint that is /proc/self/exe, and one that names it as interpreter."""
    replace(hostile.image / "bin/again", "/proc/self/exe")
    hostile.run("/bin/again", "-c", "open('/proc/self/exe', 'r+b')")
    (hostile.image / "bin/script").write_text("#!/proc/self/exe -c\n")
    (hostile.image / "bin/script").chmod(0o755)
    hostile.run("/bin/script")
    # With the host's libraries at hand the program does start, and still cannot write.
    flags = ["-v", "/lib:/lib", "-v", "/usr:/usr:ro", "-v", "/lib64:/lib64"]
    flags = flags if Path("/lib64").exists() else flags[:4]
    done = hostile.run(*flags, "--", "/proc/self/exe", "-I", "-S", "-c",
                       "import os; os.open('/proc/self/exe', os.O_WRONLY)")  # fmt: skip
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr or "Text file busy" in done.stderr


def test_the_mount_of_the_interpreter_is_read_only(hostile: Lazyrun) -> None:
    """So it stays unwritten also when no running process keeps it busy any more."""
    process = subprocess.Popen(
        hostile.command("--init", "--", "sh", "-c", "echo $$; sleep 1000"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert os.statvfs(f"/proc/{process.pid}/exe").f_flag & os.ST_RDONLY
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert os.statvfs(f"/proc/{child}/exe").f_flag & os.ST_RDONLY
    assert not os.statvfs(sys.executable).f_flag & os.ST_RDONLY
    process.terminate()
    process.communicate(timeout=PATIENCE)


def test_no_module_of_the_image_is_imported(hostile: Lazyrun) -> None:
    """Whatever goes wrong after the image's root is entered, its Python is never run."""
    trap = "import os; os.mkdir('/sprung')\n"
    for place in {Path(os.__file__).parent, Path("/usr/lib/python3/dist-packages")}:
        directory = hostile.image / str(place).lstrip("/")
        directory.mkdir(parents=True)
        for module in ("traceback", "linecache", "encodings/idna", "locale", "warnings"):
            file = directory / f"{module}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(trap)
    keep = hostile.command("--name", "kept", "--", "no-such-command")
    keep.remove("--rm")
    assert subprocess.run(keep, capture_output=True).returncode == 127
    assert not list(hostile.root.glob("store/snapshots/*/fs/sprung"))


def test_the_way_out_by_chroot_is_closed(lazyrun: Lazyrun) -> None:
    """chroot into a directory below and climb: ends at the container's own root."""
    script = "mkdir /d; cd /; chroot /d /x 2>/dev/null; cd ../../../..; ls; stat -c %i / /.."
    told = lazyrun.output("sh", "-c", script).splitlines()
    assert "d" in told
    assert told[-1] == told[-2]

"""Networks between the registry and the machine that starts containers.

"loopback" is just that. The others lead over a veth pair into a network namespace
with a registry of its own on the same data: a token bucket at both ends gives the
rate, a forwarder (delay.c) the time on the way, which takes nothing off the rate.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import run_to_end
from benchmarks.services import Registry, await_socket, running, serve_registry

_HERE, _THERE, _PORT = "10.77.0.1", "10.77.0.2", 5000
_NEAR, _FAR = "bench0", "bench1"
_LEAST_BUFFER = 256 << 10


class Network(NamedTuple):
    """`megabits` a second each way; `round_trip` in milliseconds."""

    name: str
    megabits: int | None = None
    round_trip: float = 0.0

    @property
    def text(self) -> str:
        if self.megabits is None:
            return self.name
        return f"{self.megabits} Mbit/s, {self.round_trip:g} ms"


NETWORKS = {
    network.name: network
    for network in (
        Network("loopback"),
        Network("1gbit", 1000, 1.0),
        Network("100mbit", 100, 20.0),
        Network("20mbit", 20, 80.0),
    )
}


#: Of these the first that was measured is what charts of a single network show.
CHARTED = ("100mbit", "20mbit", "1gbit", "loopback")


def charted(names: Collection[str]) -> str | None:
    return next((name for name in CHARTED if name in names), None)


class Reached(NamedTuple):
    """A registry as it is reached: its log, and the interface that its answers come in by."""

    server: Registry
    interface: str

    def wire_bytes(self) -> int:
        """Bytes received so far, headers too; on loopback also what else is said there."""
        for line in Path("/proc/net/dev").read_text().splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == self.interface:
                return int(counters.split()[0])
        raise RuntimeError(f"no interface {self.interface}")


class Wire(NamedTuple):
    """The registries, both of the same data, and what leads to the far one."""

    near: Registry
    far: Registry | None
    enter: tuple[str, ...]
    forwarder: Path

    @contextmanager
    def over(self, network: Network, work: Path) -> Iterator[Reached]:
        """Let the way be like `network`: token buckets and forwarder are new ones."""
        if network.megabits is None:
            yield Reached(self.near, "lo")
            return
        assert self.far
        shape(_NEAR, network.megabits)
        shape(_FAR, network.megabits, self.enter)
        target = int(self.far.host.rpartition(":")[2])
        command = forward(self.forwarder, _THERE, _PORT, target, network)
        log = work / "delay.log"
        with running([*self.enter, *command], log) as process:
            await_socket((_THERE, _PORT), process, log)
            yield Reached(Registry(f"{_THERE}:{_PORT}", self.far.log), _NEAR)


@contextmanager
def wire(work: Path, data: Path, forwarder: Path, shaped: bool) -> Iterator[Wire]:
    """Registries of `data` here and, if `shaped`, behind a veth pair in another namespace.

    To be called in a network namespace of one's own.
    """
    with ExitStack() as stack:
        near = stack.enter_context(serve_registry(work, data))
        if not shaped:
            yield Wire(near, None, (), forwarder)
            return
        holder = stack.enter_context(
            running(["unshare", "--net", "sleep", "infinity"], work / "namespace.log")
        )
        enter = ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
        _join(holder, enter)
        far = stack.enter_context(serve_registry(work, data, enter))
        yield Wire(near, far, enter, forwarder)


def _join(holder: subprocess.Popen[bytes], enter: tuple[str, ...]) -> None:
    own = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{holder.pid}/ns/net").readlink() == own:
        if holder.poll() is not None:
            raise RuntimeError("no network namespace could be made")
    ip = ["ip", "link"]
    run_to_end([*ip, "add", _NEAR, "type", "veth", "peer", "name", _FAR, "netns", str(holder.pid)])
    for prefix, interface, address in (((), _NEAR, _HERE), (enter, _FAR, _THERE)):
        run_to_end([*prefix, "ip", "address", "add", f"{address}/24", "dev", interface])
        for name in (interface, "lo"):
            run_to_end([*prefix, *ip, "set", name, "up"])


def shape(interface: str, megabits: int, enter: tuple[str, ...] = ()) -> None:
    """Let no more than that many megabits a second out of the interface."""
    run_to_end(
        [*enter, "tc", "qdisc", "replace", "dev", interface, "root", "tbf",
         "rate", f"{megabits}mbit", "burst", "256kb", "limit", "4mb"]
    )  # fmt: skip


def forward(program: Path, address: str, port: int, target: int, network: Network) -> list[str]:
    """The forwarder's command line: half the round trip is spent each way."""
    one_way = int(network.round_trip * 1000 / 2)
    buffer = buffer_bytes(network)
    return [str(program), address, str(port), str(target), str(one_way), str(buffer)]


def buffer_bytes(network: Network) -> int:
    """What the forwarder holds of a direction: three times what is on the way at full rate."""
    on_the_way = (network.megabits or 0) * 1e6 / 8 * network.round_trip / 2 / 1000
    return max(_LEAST_BUFFER, int(3 * on_the_way))


def build_forwarder(directory: Path) -> Path:
    """Compile delay.c into `directory`; needs gcc."""
    program = directory / "delay"
    source = Path(__file__).with_name("delay.c")
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        directory.mkdir(parents=True, exist_ok=True)
        run_to_end(["gcc", "-O2", "-o", str(program), str(source)])
    return program

"""Every run has its turn once, what tells most first, in an order that the seed gives."""

from __future__ import annotations

from pathlib import Path

from benchmarks.images.catalogue.servers import NGINX
from benchmarks.images.catalogue.systems import BUSYBOX
from benchmarks.suite.estimate import Estimate, table
from benchmarks.suite.networks import NETWORKS
from benchmarks.suite.plan import Asked, keys, stage, turns
from benchmarks.suite.records import Key
from benchmarks.suite.subject import Subject
from benchmarks.suite.suite import all_modes
from tests.benchmarks.measurement import measurement


def asked(*modes: str, runs: int = 5, reads: int = 1) -> Asked:
    known = all_modes(Path("/nowhere"))
    subjects = [Subject(recipe, Path("/nowhere")) for recipe in (BUSYBOX, NGINX)]
    return Asked(subjects, [known[name] for name in modes], [*NETWORKS.values()], runs, reads)


def order(what: Asked, seed: int) -> list[Key]:
    return [key for _, turn in turns(what, seed) for key in turn]


def test_every_run_has_its_turn_once() -> None:
    what = asked("oci-containerd", "nydus-fuse", "native")
    of_one = list(keys(what, what.subjects[0]))
    assert len(of_one) == 2 * 4 * (5 + 1) + 2 * 1 + 5
    assert {key.network for key in of_one if key.mode == "native"} == {"loopback"}
    found = order(what, 1)
    assert len(found) == len(set(found)) == 2 * len(of_one)
    assert set(of_one) < set(found)


def test_trees_are_read_most_where_it_is_drawn() -> None:
    what = asked("nydus", reads=2)
    read = [key for key in keys(what, what.subjects[0]) if key.kind != "start"]
    assert {(key.kind, key.network, key.repeat) for key in read} == {
        *((kind, "100mbit", repeat) for kind in ("read", "scatter") for repeat in range(2)),
        *(("read", network, 0) for network in set(NETWORKS) - {"100mbit"}),
    }


def test_headline_of_all_images_comes_first() -> None:
    what = asked("oci-containerd", "oci-podman", "nydus")
    found = order(what, 1)
    first = found[: 2 * 2 * 5]
    assert {(key.kind, key.network) for key in first} == {("start", "100mbit")}
    assert {key.mode for key in first} == {"oci-containerd", "nydus"}
    assert [stage(key) for key in found] == sorted(stage(key) for key in found)


def test_what_compares_networks_and_reading_comes_before_more_of_all() -> None:
    known = all_modes(Path("/nowhere"))
    modes = [known[name] for name in ("oci-containerd", "nydus", "nydus-optimized", "nydus-fuse")]
    subjects = [Subject(recipe, Path("/nowhere")) for recipe in (BUSYBOX, NGINX)]
    found = order(Asked(subjects, modes, [*NETWORKS.values()], 5, 1), 1)[2 * 3 * 5 :]
    few = found[: 3 * 3]
    assert {(key.image, key.repeat) for key in few} == {("nginx", 0)}
    assert {key.network for key in few} == set(NETWORKS) - {"100mbit"}
    assert found[9] == Key("start", "nginx", "nydus-fuse", "100mbit", 0)
    optimized = [key for key in found[10:] if key.mode == "nydus-optimized"]
    first = 3 * 1
    assert {(key.image, key.repeat) for key in optimized[:first]} == {("busybox", 0)}
    assert {(key.mode, key.kind) for key in found[10 + first :][:4]} == {
        (mode, kind) for mode in ("oci-containerd", "nydus") for kind in ("read", "scatter")
    }
    more = 3 * 2 * 4
    assert {key.repeat for key in optimized[first:][:more]} == {1, 2, 3, 4}


def test_plan_tells_runs_and_minutes_of_each_stage() -> None:
    records = measurement([58.0], [2.0])
    key = Key("start", "python", "oci-containerd", "100mbit", 1)
    text = table([key, key._replace(network="20mbit", repeat=0)], Estimate([records]))
    assert Estimate([records]).seconds(key) == 60.0
    assert 20 < Estimate([records]).seconds(key._replace(network="20mbit")) < 30
    head, first, second = text.splitlines()
    assert head.split() == ["runs", "minutes", "in", "all", "what"]
    assert first.split()[:3] == ["1", "1", "1"]
    assert second.split()[0] == "1"


def test_order_is_random_and_comes_from_the_seed() -> None:
    what = asked("oci-containerd", "nydus")
    assert order(what, 1) == order(what, 1)
    assert order(what, 1) != order(what, 2) != sorted(order(what, 2))


def test_what_is_done_has_no_turn() -> None:
    what = asked("nydus")
    done = order(what, 1)[:7]
    left = [key for _, turn in turns(what, 1, set(done)) for key in turn]
    assert left == order(what, 1)[7:]

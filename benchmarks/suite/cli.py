"""`./dev bench`: time from nothing to ready for common images, as plain OCI and lazily.

Images are built here from Debian packages; registry, daemons and networks are private and
end with the program. Each run's figures are written when it is over, below .cache/; a
measurement that was interrupted is gone on with by the same command.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.images.build import cached_image
from benchmarks.images.catalogue.all import chosen
from benchmarks.isolation import isolate
from benchmarks.suite import estimate, machine
from benchmarks.suite.lazy import stargz_daemon
from benchmarks.suite.modes import Mode
from benchmarks.suite.networks import NETWORKS, Network
from benchmarks.suite.plan import HEADLINE_MODES, HEADLINE_NETWORK, Asked, keys
from benchmarks.suite.records import Key, Records, load, resume_or_begin, set_aside, take_up
from benchmarks.suite.subject import Subject
from benchmarks.suite.suite import (
    Outcome,
    all_modes,
    convert_all,
    measure,
    say,
    time_conversions,
)
from fs.format.errors import Failure

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"
RESULTS = REPOSITORY / "benchmarks/results"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="./dev bench",
        description=__doc__,
        epilog="`./dev bench micro` measures single operations of a mount.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = top.add_argument
    add("--quick", action="store_true", help="four images, few modes, one network")
    add("--images", metavar="A,B", help="only these (default: all of the catalogue)")
    add("--alpine", type=Path, metavar="FILE",
        help="the root file system of Alpine, a tar: one more image")  # fmt: skip
    add("--modes", metavar="A,B", help="only these (default: all whose tools are there)")
    add("--networks", metavar="A,B", help=f"only these (default: {','.join(NETWORKS)})")
    add("--runs", type=int, metavar="N", help="starts of each kind (default 5, quick 3)")
    add(
        "--reads",
        type=int,
        metavar="N",
        help="times each tree is read through, over other networks than the charts' only once "
        "(default 2, quick 0)",
    )
    add("--json", type=Path, metavar="FILE",
        help="the record (default: bench.jsonl or bench-quick.jsonl in .cache/)")  # fmt: skip
    add("--seed", type=int, metavar="N", help="of the order of runs (default: a new one)")
    add("--minutes", type=float, metavar="N", help="begin no run after so long: go on another day")
    add("--fresh", action="store_true", help="begin anew, whatever was interrupted")
    add("--mix", action="store_true", help="go on with what other code or another machine began")
    add("--again", metavar="A,B",
        help="with --mix: what other code made of these modes counts no more")  # fmt: skip
    add("--prepare", action="store_true", help="build and convert what is needed, measure nothing")
    add("--plan", action="store_true", help="say what is to be done and how long, measure nothing")
    add("--time-conversions", action="store_true",
        help="only convert again, in a record, what was timed beside others")  # fmt: skip
    add("--compare", type=Path, metavar="OLD.json", help="say what has become slower since then")
    add("--report", type=Path, metavar="FILE", help="measure nothing: report what is in FILE")
    add("--charts", type=Path, metavar="DIR", help="draw the charts there")
    add("--record", action="store_true", help="renew benchmarks/results/ and the README's chart")
    add("--list", action="store_true", help="modes and networks, and why a mode is left out")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    try:
        if arguments.list:
            return show_choices()
        if arguments.report:
            return report(load(arguments.report), arguments, Outcome(0, 0))
        if arguments.compare:
            load(arguments.compare)  # before hours are spent
        return run(arguments, words)
    except KeyboardInterrupt:
        print("bench: interrupted; the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise  # nobody reads on: no failure
    except (LookupError, ValueError, OSError, RuntimeError, Failure) as error:
        print(
            f"bench: {error.args[-1] if isinstance(error, LookupError) else error}", file=sys.stderr
        )
        return 2


def show_choices() -> int:
    for mode in all_modes(CACHE).values():
        print(f"{mode.name:20}{mode.missing() or 'can be measured'}")
    for network in NETWORKS.values():
        print(f"{network.name:20}{network.text}")
    return 0


def run(arguments: argparse.Namespace, words: list[str]) -> int:
    networks = chosen_networks(arguments)
    recipes = chosen(
        arguments.images,
        quick=arguments.quick and not arguments.images,
        alpine_file=arguments.alpine,
    )
    modes = chosen_modes(arguments)
    # Built outside: it needs the way to the mirrors. Inside, all of it is found in the cache.
    subjects = [Subject(recipe, cached_image(recipe, CACHE / "images", say)) for recipe in recipes]
    runs = (3 if arguments.quick else 5) if arguments.runs is None else arguments.runs
    reads = (0 if arguments.quick else 2) if arguments.reads is None else arguments.reads
    asked = Asked(subjects, modes, networks, runs, reads)
    if arguments.plan:
        print(plan_table(arguments, asked, set()))
        return 0
    isolate("benchmarks", words, network=True)
    begun = time.monotonic()
    if arguments.prepare:
        convert_all(asked, CACHE)
        return 0
    records = open_records(arguments, asked)
    until = begun + arguments.minutes * 60 if arguments.minutes else None
    if arguments.time_conversions:
        return report(records, arguments, time_conversions(asked, records, CACHE, until))
    print(plan_table(arguments, asked, records.done()), file=sys.stderr)
    outcome = measure(asked, records, CACHE, until)
    if not outcome.failed and not outcome.left:
        records.add("end")
    return report(records, arguments, outcome)


def plan_table(arguments: argparse.Namespace, asked: Asked, done: Collection[Key]) -> str:
    """What is not done yet, and how long it takes by earlier records."""
    earlier = [load(path) for path in (RESULTS / "startup.jsonl", record_path(arguments))
               if path.exists()]  # fmt: skip
    todo = [key for subject in asked.subjects for key in keys(asked, subject) if key not in done]
    return estimate.table(todo, estimate.Estimate(earlier))


def record_path(arguments: argparse.Namespace) -> Path:
    default = "bench-quick.jsonl" if arguments.quick else "bench.jsonl"
    return Path(arguments.json or CACHE / default)


def open_records(arguments: argparse.Namespace, asked: Asked) -> Records:
    path = record_path(arguments)
    if arguments.fresh:
        set_aside(path)
    seed = random.randrange(1 << 30) if arguments.seed is None else arguments.seed
    head = {
        "asked": {
            "images": [subject.name for subject in asked.subjects],
            "modes": [mode.name for mode in asked.modes],
            "networks": [network.name for network in asked.networks],
            "runs": asked.runs,
            "reads": asked.reads,
            "seed": arguments.seed,
        },
        "seed": seed,
        "builds": {subject.name: subject.layout.name for subject in asked.subjects},
        **machine.description(stargz_daemon(CACHE)),
    }
    if not (arguments.json or arguments.quick or arguments.fresh):
        take_up(RESULTS / "startup.jsonl", path, head, mix=arguments.mix)
    records, resumed = resume_or_begin(path, head, mix=arguments.mix)
    if arguments.again:
        records.outdate(_names(arguments.again, (), tuple(all_modes(CACHE))))
    say(f"{'going on with' if resumed else 'writing'} {path}")
    return records


def chosen_modes(arguments: argparse.Namespace) -> list[Mode]:
    """The modes that can be measured; says which cannot. LookupError for one that is not known."""
    known = all_modes(CACHE)
    wanted = _names(
        arguments.modes, HEADLINE_MODES if arguments.quick else tuple(known), tuple(known)
    )
    modes = []
    for name in wanted:
        if reason := known[name].missing():
            say(f"without {name}: {reason}")
        else:
            modes.append(known[name])
    return modes


def chosen_networks(arguments: argparse.Namespace) -> list[Network]:
    usual = (HEADLINE_NETWORK,) if arguments.quick else tuple(NETWORKS)
    return [NETWORKS[name] for name in _names(arguments.networks, usual, tuple(NETWORKS))]


def _names(text: str | None, usual: tuple[str, ...], known: tuple[str, ...]) -> list[str]:
    names = [word.strip() for word in text.split(",")] if text else list(usual)
    for name in names:
        if name not in known:
            raise LookupError(f"no {name!r}; there are {', '.join(known)}")
    return names


def report(records: Records, arguments: argparse.Namespace, outcome: Outcome) -> int:
    """Print the tables, draw what is wanted, compare; the exit code."""
    from benchmarks.suite import compare, tables

    print(f"\n{tables.markdown(records)}")
    if arguments.charts:
        from benchmarks.suite.charts import draw_all

        arguments.charts.mkdir(parents=True, exist_ok=True)
        draw_all(records, arguments.charts)
    slower = False
    if arguments.compare:
        changes = compare.changes(load(arguments.compare), records)
        print(f"\n{compare.markdown(changes)}")
        slower = any(change.slower for change in changes)
    if arguments.record:
        from benchmarks.suite.results import write_results

        write_results(records, REPOSITORY)
    if outcome.left:
        say(f"{outcome.left} runs are still to be done; the same command goes on with them")
    if outcome.failed:
        print(
            f"bench: {outcome.failed} runs failed; the same command tries them again",
            file=sys.stderr,
        )
    return 1 if outcome.failed or slower else 0


if __name__ == "__main__":
    sys.exit(main())

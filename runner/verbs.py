"""What each verb of `lazyrun` does with its arguments."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from fs.format.errors import UsageError
from runner import capabilities, mountplan, settings
from runner.image import RunnerImages, say
from runner.options import mount_options
from runner.run import RunOptions, remove, sweep
from runner.run import run as run_container
from runner.state import EXITED, ContainerRecord, Containers
from snapshotter.errors import SnapshotStateError
from snapshotter.metadata import COMMITTED
from snapshotter.store import Store


def run(arguments: argparse.Namespace) -> int:
    given = [item for path in arguments.env_file for item in settings.read_env_file(path)]
    steps = [mountplan.volume(text) for text in arguments.volume]
    steps += [mountplan.tmpfs(text) for text in arguments.tmpfs]
    steps += [mountplan.device(text) for text in arguments.device]
    options = RunOptions(
        arguments.image,
        tuple(arguments.command),
        arguments.root,
        mount_options(arguments),
        rootfs=arguments.rootfs,
        name=arguments.name,
        remove=arguments.rm,
        interactive=arguments.interactive,
        tty=arguments.tty,
        with_init=arguments.init,
        env=(*given, *arguments.env),
        workdir=arguments.workdir,
        user=arguments.user,
        entrypoint=arguments.entrypoint,
        steps=tuple(steps),
        read_only=arguments.read_only,
        hostname=arguments.hostname,
        own_network=arguments.network == "none",
        add_hosts=tuple(arguments.add_host),
        capabilities=capabilities.chosen(arguments.cap_add, arguments.cap_drop),
        no_new_privileges=bool(arguments.security_opt),
        shm_size=arguments.shm_size,
        timings=arguments.timings,
        token=arguments.token,
    )
    return run_container(options)


def ps(arguments: argparse.Namespace) -> int:
    records = Containers(arguments.root).all()
    states = [_shown(record) for record in records if "id" in record.state]
    states = [state for state in states if arguments.all or state["status"] != EXITED]
    if arguments.json:
        print(json.dumps(states))
        return 0
    print(f"{'CONTAINER':<14}{'NAME':<20}{'STATUS':<14}{'CREATED':<22}{'IMAGE':<32}COMMAND")
    for state in states:
        code = f" ({state['exit_code']})" if state["status"] == EXITED else ""
        created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state["created"]))
        status, command = state["status"] + code, " ".join(state["command"])
        columns = f"{state['id']:<14}{state['name']:<20}{status:<14}{created:<22}"
        print(f"{columns}{state['image']:<32}{command}")
    return 0


def _shown(record: ContainerRecord) -> dict[str, Any]:
    """The state, with a container whose lazyrun was killed told as ended."""
    state = dict(record.state)
    if state["status"] != EXITED and record.take():
        record.release()
        state |= {"status": EXITED, "exit_code": 137}
    return state


def rm(arguments: argparse.Namespace) -> int:
    containers = Containers(arguments.root)
    with _store(arguments, containers) as store:
        for wanted in arguments.containers:
            record = containers.find(wanted)
            _remove(record, store, force=arguments.force)
            print(wanted)
    return 0


def _remove(record: ContainerRecord, store: Store, *, force: bool) -> None:
    while not record.take():
        if not force:
            raise UsageError(f"{record.state['name']} is running: stop it first, or use -f")
        if not record.reload():
            return  # its own lazyrun has removed it
        record.kill()
        time.sleep(0.02)
    remove(record, store)


def prune(arguments: argparse.Namespace) -> int:
    containers = Containers(arguments.root)
    removed = freed = 0
    with _store(arguments, containers) as store:
        for info in reversed(list(store.walk())):
            if info.kind != COMMITTED or not info.name.startswith("sha256:"):
                continue
            size = store.usage(info.name).size
            try:
                store.remove(info.name)
            except SnapshotStateError:
                continue  # something stands on it
            removed, freed = removed + 1, freed + size
        store.cleanup()
    say(f"{removed} layers removed, {freed} bytes freed")
    return 0


def _store(arguments: argparse.Namespace, containers: Containers) -> Store:
    images = RunnerImages(mount_options(arguments))
    store = Store(os.path.join(containers.root, "store"), images)
    sweep(containers, store)
    return store

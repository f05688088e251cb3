"""From the command line of `nydusify convert` to its options. UsageError for what cannot be."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

from fs.backend.config import BackendConfig, load_config, parse_config
from fs.format.blobtable import Compressor
from fs.format.errors import FormatError, UsageError, local_failure
from fs.registry.platform import Platform, parse_platform
from fs.registry.reference import parse_reference
from fs.registry.retry import RetryPolicy
from fs.registry.store import StoreOptions, registry_reference
from nydusify.options import (
    MAX_RECORDS,
    CacheOptions,
    ConvertOptions,
    TargetForm,
    parse_batch_size,
    parse_chunk_size,
    parse_size,
)
from nydusify.verbs import words

#: Sources that are in no registry.
_ELSEWHERE = ("oci:", "oci-archive:", "docker-archive:", "containerd:", "dir:", "layer:")
_DELAY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def convert_options(arguments: argparse.Namespace) -> ConvertOptions:
    if arguments.fs_version != "6":
        raise UsageError(f"--fs-version {arguments.fs_version}: only version 6 is written")
    if arguments.threads < 1:
        raise UsageError("--threads must be 1 or more")
    source = _source(arguments)
    chunk_size = parse_chunk_size(arguments.fs_chunk_size)
    return ConvertOptions(
        source=source,
        target=_target(arguments, source),
        platforms=_platforms(arguments.platform),
        all_platforms=arguments.all_platforms,
        form=_form(arguments),
        compressor=Compressor[(arguments.compressor or "zstd").upper()],
        chunk_size=chunk_size,
        batch_size=parse_batch_size(arguments.batch_size, chunk_size),
        prefetch=_prefetch_patterns(arguments),
        chunk_dict=arguments.chunk_dict,
        chunk_dict_store=words.store_options(arguments, insecure=arguments.chunk_dict_insecure),
        startup=arguments.startup,
        refer=arguments.oci_ref,
        repack=not arguments.compressor and arguments.batch_size is None,
        work_dir=words.work_dir(arguments),
        caches=_caches(arguments),
        source_store=words.store_options(arguments, insecure=arguments.source_insecure),
        target_store=_target_store(arguments),
        threads=arguments.threads,
    )


def _source(arguments: argparse.Namespace) -> str:
    source: str | None = arguments.source
    if arguments.source_archive is not None:
        return _archive_place(arguments.source_archive, source)
    if source is None:
        raise UsageError("--source or --source-archive is required")
    return source


def _archive_place(file: str, name: str | None) -> str:
    """docker-archive: or oci-archive:, by what is in the tar file."""
    try:
        with tarfile.open(file) as archive:
            names = set(archive.getnames())
    except OSError as error:
        raise local_failure(error, repr(file)) from None
    except (tarfile.TarError, EOFError, ValueError):
        raise FormatError("not a tar file", repr(file)) from None
    suffix = f":{name}" if name else ""
    return f"{'docker' if 'manifest.json' in names else 'oci'}-archive:{file}{suffix}"


def _target(arguments: argparse.Namespace, source: str) -> str:
    if arguments.target is not None and arguments.target_suffix is not None:
        raise UsageError("--target and --target-suffix exclude each other")
    name = arguments.target
    if arguments.target_suffix is not None:
        name = _with_suffix(source, arguments.target_suffix)
    if arguments.target_archive is not None:
        return f"docker-archive:{arguments.target_archive}{f':{name}' if name else ''}"
    if name is None:
        raise UsageError("--target, --target-suffix or --target-archive is required")
    return str(name)


def _with_suffix(source: str, suffix: str) -> str:
    if source.startswith(_ELSEWHERE):
        raise UsageError("--target-suffix works only with a source in a registry")
    reference = parse_reference(source.removeprefix("docker://"))
    if reference.tag is None:
        raise UsageError(f"--target-suffix: {source} has no tag")
    return f"{reference.domain}/{reference.repository}:{reference.tag}{suffix}"


def _platforms(text: str | None) -> tuple[Platform, ...]:
    if text is None:
        return ()
    return tuple(dict.fromkeys(parse_platform(each.strip()) for each in text.split(",")))


def _form(arguments: argparse.Namespace) -> TargetForm:
    if arguments.oci and arguments.docker_v2_format:
        raise UsageError("--oci and --docker-v2-format exclude each other")
    return TargetForm(
        merged=arguments.merge_platform,
        referring=arguments.with_referrer,
        docker=arguments.docker_v2_format,
        backend=_backend(arguments),
        force_push=arguments.backend_force_push,
    )


def _backend(arguments: argparse.Namespace) -> BackendConfig | None:
    kind, text, file = (
        arguments.backend_type,
        arguments.backend_config,
        arguments.backend_config_file,
    )
    if text is not None and file is not None:
        raise UsageError("--backend-config and --backend-config-file exclude each other")
    if kind == "oss":
        raise UsageError("--backend-type oss: use s3 with the S3 endpoint of OSS")
    if text is None and file is None:
        if kind:
            raise UsageError(f"--backend-type {kind} needs --backend-config or …-config-file")
        return None
    if file is not None:
        return load_config(file, kind)
    return parse_config(text.encode(), "--backend-config", kind)


def cache_directory(arguments: argparse.Namespace) -> Path | None:
    """Where converted layers are kept; None if an empty $NYDUSIFY_CACHE forbids it."""
    if arguments.layer_cache is not None:
        return Path(arguments.layer_cache)
    given = os.environ.get("NYDUSIFY_CACHE")
    if given is not None:
        return Path(given) if given else None
    if os.geteuid() == 0:
        return Path("/var/cache/nydusify")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "nydusify"


def _caches(arguments: argparse.Namespace) -> CacheOptions:
    if not 1 <= arguments.build_cache_max_records <= MAX_RECORDS:
        raise UsageError(f"--build-cache-max-records is from 1 to {MAX_RECORDS}")
    registry = arguments.build_cache or ""
    if arguments.build_cache_tag is not None:
        registry = _beside_target(arguments)
    return CacheOptions(
        directory=None if arguments.no_layer_cache else cache_directory(arguments),
        limit=parse_size(arguments.layer_cache_size),
        registry=registry,
        registry_store=replace(
            _target_store(arguments),
            insecure=arguments.build_cache_insecure or arguments.target_insecure,
        ),
        version=arguments.build_cache_version,
        max_records=arguments.build_cache_max_records,
    )


def _beside_target(arguments: argparse.Namespace) -> str:
    target = _target(arguments, _source(arguments))
    reference = registry_reference(target)
    if reference is None:
        raise UsageError("--build-cache-tag works only with a target in a registry")
    return f"{reference.name}:{arguments.build_cache_tag}"


def _prefetch_patterns(arguments: argparse.Namespace) -> tuple[str, ...]:
    values: list[str] | None = arguments.prefetch_patterns
    if arguments.prefetch_dir is not None:
        values = [arguments.prefetch_dir]
    if values is None:
        return ()
    return words.prefetch_patterns(values or sys.stdin.read().splitlines())


def _target_store(arguments: argparse.Namespace) -> StoreOptions:
    options = words.store_options(arguments, insecure=arguments.target_insecure)
    policy = RetryPolicy()
    if (count := arguments.push_retry_count) is not None:
        if not 0 <= count <= 1000:
            raise UsageError("--push-retry-count is from 0 to 1000")
        policy = replace(policy, attempts=count + 1)
    if arguments.push_retry_delay is not None:
        seconds = _seconds(arguments.push_retry_delay)
        policy = replace(policy, base=seconds, longest=seconds)
    return replace(options, retry=policy)


def _seconds(text: str) -> float:
    match = _DELAY.fullmatch(text)
    if not match:
        raise UsageError(f"--push-retry-delay {text[:40]!r} is no time: 500ms, 5s, 1m")
    return float(match[1]) * _SECONDS[match[2] or "s"]

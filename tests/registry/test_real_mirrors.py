"""Real mirrors and proxies: docker-registry as a pull-through cache, nginx, a forward proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fs.format.errors import AccessError, UnreachableError, UsageError
from fs.registry.retry import RetryPolicy
from fs.registry.store import StoreOptions, open_reader, open_writer
from tests.parts.nginx import start_nginx
from tests.parts.proxy import Proxy, start_proxy
from tests.parts.registry import Registry, self_signed, start_registry
from tests.registry.images import Sample, make_image, push_image

pytestmark = pytest.mark.registry
ONCE = RetryPolicy(attempts=1)
SECRET = "pr0xy-s3cret"


@pytest.fixture(scope="module")
def sample() -> Sample:
    return make_image(b"one" * 5000, b"two" * 9000)


@pytest.fixture(scope="module")
def origin(registry: Registry, sample: Sample) -> Registry:
    with closing(open_writer(f"{registry.host}/mirrored:v1")) as writer:
        push_image(writer, sample)
    return registry


def hosts_toml(root: Path, registry: str, text: str) -> StoreOptions:
    name = registry.replace(":", "_") + ("_" if ":" in registry else "")
    (root / name).mkdir()
    (root / name / "hosts.toml").write_text(text)
    return StoreOptions(hosts_dirs=(root,), retry=ONCE)


def check(place: str, sample: Sample, options: StoreOptions) -> None:
    """Everything of the image, whole and in parts."""
    with closing(open_reader(place, options)) as reader:
        assert reader.resolve().descriptor.digest == sample.descriptor.digest
        for layer in sample.layers:
            assert reader.read_blob(layer, 1 << 20) == sample.blobs[layer.digest]
            part = sample.blobs[layer.digest][3:40]
            assert reader.read_range(layer, 3, 37) == part


def test_pull_through_mirror(origin: Registry, sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    with start_registry(tmp_path / "mirror", upstream=f"http://{origin.host}") as mirror:
        options = hosts_toml(
            tmp_path,
            "registry.invalid",
            f'server = "http://{origin.host}"\n[host."http://{mirror.host}"]',
        )
        before = len(origin.requests("/v2/mirrored/manifests/v1"))
        check("registry.invalid/mirrored:v1", sample, options)
        assert [r["http.response.status"] for r in mirror.requests("/manifests/v1")] == [200]
        assert len(mirror.requests(sample.layers[0].digest)) == 2
        assert len(origin.requests("/v2/mirrored/manifests/v1")) > before  # by the mirror
    # With the mirror gone, the registry is asked.
    check("registry.invalid/mirrored:v1", sample, options)


def test_mirror_with_damaged_storage(origin: Registry, sample: Sample, tmp_path: Path) -> None:
    """A mirror serves a layer from a disk that has changed it."""
    (tmp_path / "mirror").mkdir()
    with start_registry(tmp_path / "mirror") as mirror:
        with closing(open_writer(f"{mirror.host}/mirrored:v1")) as writer:
            push_image(writer, sample)
        digest = sample.layers[0].digest.removeprefix("sha256:")
        stored = mirror.storage / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
        stored.write_bytes(bytes(len(stored.read_bytes())))
        options = hosts_toml(
            tmp_path,
            "registry.invalid",
            f'server = "http://{origin.host}"\n[host."http://{mirror.host}"]',
        )
        check("registry.invalid/mirrored:v1", sample, options)
        assert mirror.requests(sample.layers[1].digest)


@pytest.mark.nginx
def test_static_files_as_a_mirror(origin: Registry, sample: Sample, tmp_path: Path) -> None:
    """nginx with a directory of files, below a path that is not the protocol's."""
    blobs = tmp_path / "www/cache/api/mirrored/blobs"
    blobs.mkdir(parents=True)
    for digest, data in sample.blobs.items():
        (blobs / digest).write_bytes(data)
    with start_nginx(tmp_path / "nginx", f"root {tmp_path}/www;") as at:
        text = f"""server = "http://{origin.host}"
            [host."http://{at}/cache/api"]
            capabilities = ["pull"]
            override_path = true"""
        options = hosts_toml(tmp_path, "registry.invalid", text)
        check("registry.invalid/mirrored:v1", sample, options)
    log = (tmp_path / "nginx/access.log").read_text()
    assert log.count(" 206 ") == 2
    assert log.count(" 200 ") == 3
    assert "/manifests/v1" not in log


@pytest.mark.nginx
def test_client_certificate(origin: Registry, sample: Sample, tmp_path: Path) -> None:
    """nginx before a registry that wants to see a certificate; files as docker has them."""
    certificate, key = self_signed(tmp_path)
    lines = f"""ssl_certificate {certificate}; ssl_certificate_key {key};
        ssl_client_certificate {certificate}; ssl_verify_client on;
        location / {{ proxy_pass http://{origin.host}; proxy_set_header Host $http_host; }}"""
    with start_nginx(tmp_path / "nginx", lines, listen="ssl") as at:
        directory = tmp_path / "certs.d" / at
        directory.mkdir(parents=True)
        options = StoreOptions(hosts_dirs=(directory.parent,), retry=ONCE)
        with pytest.raises(UnreachableError, match="not trusted"):
            check(f"{at}/mirrored:v1", sample, options)
        (directory / "ca.crt").write_bytes(certificate.read_bytes())
        with pytest.raises(AccessError, match="status 400"):
            check(f"{at}/mirrored:v1", sample, options)
        (directory / "client.cert").write_bytes(certificate.read_bytes())
        (directory / "client.key").write_bytes(key.read_bytes())
        check(f"{at}/mirrored:v1", sample, options)
        (directory / "client.key").write_text("no key")
        with pytest.raises(UsageError, match=r"client\.cert: no client certificate"):
            check(f"{at}/mirrored:v1", sample, options)


# --- proxies


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with start_proxy() as running:
        yield running


def through(proxy: Proxy, scheme: str, **more: str) -> StoreOptions:
    login = f"{proxy.login.replace('@', '%40')}@" if proxy.login else ""
    environment = {f"{scheme.upper()}_PROXY": f"http://{login}{proxy.host}"}
    return StoreOptions(environment={**environment, **more}, retry=ONCE)


def address(registry: Registry) -> tuple[str, int]:
    host, _, port = registry.host.partition(":")
    return host, int(port)


def test_http_through_a_proxy(origin: Registry, proxy: Proxy, sample: Sample) -> None:
    proxy.names["registry.invalid:80"] = address(origin)
    options = replace(through(proxy, "http"), plain_http=True)
    check("registry.invalid/mirrored:v1", sample, options)
    assert set(proxy.asked) == {("GET", "registry.invalid:80")}


def test_https_through_a_proxy_with_a_login(proxy: Proxy, sample: Sample, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "registry.invalid")
    tls = {"certificate": str(certificate), "key": str(key)}
    with start_registry(tmp_path, tls=tls) as far:
        proxy.names["registry.invalid:443"] = address(far)
        proxy.login = f"user:{SECRET}@x"
        options = replace(through(proxy, "https"), ca_file=certificate)
        with closing(open_writer("registry.invalid/mirrored:v1", options)) as writer:
            push_image(writer, sample)
        check("registry.invalid/mirrored:v1", sample, options)
    assert {method for method, _ in proxy.asked} == {"CONNECT"}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_speaks_tls(
    origin: Registry, sample: Sample, tmp_path: Path, scheme: str
) -> None:
    """TLS to the proxy and, for https, within it to the registry."""
    for name in ("proxy", "far"):
        (tmp_path / name).mkdir()
    near = self_signed(tmp_path / "proxy")
    certificate, key = self_signed(tmp_path / "far", "registry.invalid")
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(near[0].read_text() + certificate.read_text())
    tls = {"certificate": str(certificate), "key": str(key)}
    with start_registry(tmp_path, tls=tls) as far, start_proxy(near) as proxy:
        proxy.names["registry.invalid:443"] = address(far)
        proxy.names["registry.invalid:80"] = address(origin)
        environment = {f"{scheme}_proxy": f"https://{proxy.host}"}
        options = StoreOptions(
            plain_http=scheme == "http", ca_file=trusted, environment=environment, retry=ONCE
        )
        if scheme == "https":
            with closing(open_writer("registry.invalid/mirrored:v1", options)) as writer:
                push_image(writer, sample)
        check("registry.invalid/mirrored:v1", sample, options)
        with pytest.raises(UnreachableError, match=r"by proxy 127\S+: certificate not trusted"):
            check("registry.invalid/mirrored:v1", sample, replace(options, ca_file=certificate))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_refuses_the_login(proxy: Proxy, sample: Sample, scheme: str) -> None:
    proxy.login = f"user:{SECRET}"
    options = replace(through(proxy, scheme), plain_http=scheme == "http")
    proxy.login = "other:login"
    with pytest.raises(AccessError, match="status 407") as caught:
        check("registry.invalid/mirrored:v1", sample, options)
    assert SECRET not in str(caught.value)


def test_proxy_that_cannot_connect(proxy: Proxy, sample: Sample) -> None:
    proxy.login = f"user:{SECRET}"
    with pytest.raises(UnreachableError, match=rf"proxy {proxy.host} refuses \(status 502\)"):
        check("registry.invalid/mirrored:v1", sample, through(proxy, "https"))


@pytest.mark.parametrize(
    "url", ["http://user:pr0xy-s3cret@127.0.0.1:1", "user:pr0xy-s3cret@[::1]:1"]
)
def test_proxy_that_is_not_there(sample: Sample, url: str) -> None:
    options = StoreOptions(environment={"https_proxy": url}, retry=ONCE)
    with pytest.raises(UnreachableError, match=r"registry\.invalid, by proxy \S+:1: ") as caught:
        check("registry.invalid/mirrored:v1", sample, options)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["socks5://user:pr0xy-s3cret@host:1", "http://", "http://[x"])
def test_proxy_of_another_kind(sample: Sample, url: str) -> None:
    options = StoreOptions(environment={"https_proxy": url}, retry=ONCE)
    with pytest.raises(UsageError, match="only http and https") as caught:
        check("registry.invalid/mirrored:v1", sample, options)
    assert SECRET not in str(caught.value)


def test_no_proxy_is_honoured(proxy: Proxy, sample: Sample) -> None:
    options = through(proxy, "https", NO_PROXY="example.com,.invalid")
    with pytest.raises(UnreachableError, match="no such host"):
        check("registry.invalid/mirrored:v1", sample, options)
    assert proxy.asked == []


def test_nothing_of_a_login_in_the_log(
    proxy: Proxy, sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    proxy.login = f"user:{SECRET}"
    with pytest.raises(UnreachableError):
        check("registry.invalid/mirrored:v1", sample, through(proxy, "https"))
    assert SECRET not in caplog.text

"""hosts.toml and certificates as containerd and docker keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fs.format.errors import UsageError
from fs.registry.hosts import MIRROR_CONNECT, Client, Host, find_hosts
from fs.registry.reference import parse_reference
from fs.registry.store import StoreOptions

EVERYTHING = {"pull", "resolve", "push"}
FULL = """
server = "https://registry.example.com"
ca = "own.crt"

[host."https://near.example.com:5000"]
  capabilities = ["pull", "resolve", "dance"]
  ca = ["/abs/a.crt", "b.crt"]
  client = [["c.cert", "c.key"], ["both.pem", ""]]
  [host."https://near.example.com:5000".header]
    X-One = "1"
    X-Many = ["2", "3"]

[host."http://far.example.com/cache"]
  skip_verify = true
  client = "both.pem"
  dial_timeout = "200ms"

[host."https://api.example.com/registry/api"]
  override_path = true

[host."https://api.example.com/v2"]
"""


def hosts(root: Path, reference: str, **options: object) -> tuple[Host, ...]:
    return find_hosts(
        parse_reference(reference),
        StoreOptions(hosts_dirs=(root,), **options),  # type: ignore[arg-type]
    )


def write(root: Path, name: str, text: str) -> Path:
    directory = root / name
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(text)
    return directory


def places(found: tuple[Host, ...]) -> list[str]:
    return [f"{host.url}{host.path}" for host in found]


def test_without_a_directory_the_registry_alone_is_asked(tmp_path: Path) -> None:
    assert hosts(tmp_path, "registry.example.com/a") == (Host("registry.example.com"),)
    assert hosts(tmp_path / "nowhere", "alpine") == (Host("docker.io"),)


def test_all_that_a_file_can_say(tmp_path: Path) -> None:
    directory = write(tmp_path, "registry.example.com", FULL)
    near, far, api, versioned, own = hosts(tmp_path, "registry.example.com/a/b")
    assert places((near, far, api, versioned, own)) == [
        "https://near.example.com:5000/v2",
        "http://far.example.com/cache/v2",
        "https://api.example.com/registry/api",
        "https://api.example.com/v2",
        "https://registry.example.com/v2",
    ]
    assert near.capabilities == {"pull", "resolve"}
    assert near.trust.ca_files == (Path("/abs/a.crt"), directory / "b.crt")
    assert near.trust.clients == (
        Client(directory / "c.cert", directory / "c.key"),
        Client(directory / "both.pem"),
    )
    assert dict(near.headers) == {"X-One": "1", "X-Many": "2, 3"}
    assert near.name == "near.example.com:5000"
    assert near.namespace == "registry.example.com"
    assert not far.trust.checked
    assert near.trust.checked
    assert far.capabilities == EVERYTHING
    timeouts = [host.connect_timeout for host in (near, far, own)]
    assert timeouts == [MIRROR_CONNECT, 0.2, None]
    assert (own.name, own.namespace) == ("registry.example.com", None)
    assert own.trust.ca_files == (directory / "own.crt",)


def test_headers_are_not_shown(tmp_path: Path) -> None:
    text = '[host."https://m"]\n[host."https://m".header]\nX-Key = "s3cret"'
    write(tmp_path, "r.example.com", text)
    assert "s3cret" not in repr(hosts(tmp_path, "r.example.com/a"))


@pytest.mark.parametrize("name", ["r.example.com_5000_", "r.example.com:5000"])
def test_names_with_a_port(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, '[host."https://mirror"]')
    assert len(hosts(tmp_path, "r.example.com:5000/a")) == 2
    assert len(hosts(tmp_path, "r.example.com/a")) == 1


def test_default_directory_is_for_those_without_one(tmp_path: Path) -> None:
    write(tmp_path, "_default", '[host."https://mirror"]')
    write(tmp_path, "r.example.com", 'server = "https://own"')
    found = hosts(tmp_path, "other.example.com/a")
    assert [host.name for host in found] == ["mirror", "other.example.com"]
    assert found[0].namespace == "other.example.com"
    assert places(hosts(tmp_path, "r.example.com/a")) == ["https://own/v2"]


def test_first_directory_of_several_wins(tmp_path: Path) -> None:
    write(tmp_path / "one", "_default", '[host."https://general"]')
    write(tmp_path / "two", "r.example.com", '[host."https://special"]')
    options = StoreOptions(hosts_dirs=(tmp_path / "one", tmp_path / "two"))
    assert find_hosts(parse_reference("r.example.com/a"), options)[0].name == "special"
    assert find_hosts(parse_reference("alpine"), options)[0].name == "general"


@pytest.mark.parametrize(
    "server", ["https://docker.io", "https://index.docker.io", "https://registry-1.docker.io"]
)
def test_docker_hub_has_one_address(tmp_path: Path, server: str) -> None:
    write(tmp_path, "docker.io", f'server = "{server}"')
    (own,) = hosts(tmp_path, "alpine")
    assert (own.url, own.name) == ("https://registry-1.docker.io", "docker.io")


def test_without_a_server_the_scheme_is_found_out(tmp_path: Path) -> None:
    write(tmp_path, "127.0.0.1_5000_", 'skip_verify = true\n[host."mirror:80"]')
    mirror, own = hosts(tmp_path, "127.0.0.1:5000/a")
    assert (mirror.url, own.url) == ("https://mirror:80", None)
    assert not own.trust.checked


def test_certificates_as_docker_keeps_them(tmp_path: Path) -> None:
    directory = tmp_path / "r.example.com:5000"
    directory.mkdir()
    for name in ("ca.crt", "client.cert", "client.key", "README"):
        (directory / name).touch()
    (own,) = hosts(tmp_path, "r.example.com:5000/a", ca_file=Path("/more.pem"))
    assert own.trust.ca_files == (directory / "ca.crt", Path("/more.pem"))
    assert own.trust.clients == (Client(directory / "client.cert", directory / "client.key"),)
    (directory / "client.key").unlink()
    with pytest.raises(UsageError, match=r"its key client\.key is missing"):
        hosts(tmp_path, "r.example.com:5000/a")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("server = ", "hosts.toml"),
        ("server = 5", "server is no str"),
        ('server = "ftp://x"', "no http or https URL"),
        ('server = "https://x:99999"', "no valid port"),
        ('server = "https://u:s3cret@x"', "auth file"),
        ('server = "https://x/?a=b"', "more than scheme"),
        ('server = "https://x\\ny"', "no http or https URL"),
        ("host = 3", "host is no dict"),
        ("[host]\n'https://m' = 3", "is no table"),
        ('[host."https://m"]\ncapabilities = [3]', "capabilities is no text"),
        ('[host."https://m"]\nskip_verify = "no"', "skip_verify is no bool"),
        ('[host."https://m"]\ndial_timeout = "soon"', "dial_timeout is no duration"),
        ('[host."https://m"]\nclient = 7', "client is no file"),
        ('[host."https://m"]\nclient = [["a", "b", "c"]]', "client is no file"),
        ('[host."https://m".header]\n"a b" = "c"', "cannot be sent"),
        ('[host."https://m".header]\na = "b\\r\\nc: d"', "cannot be sent"),
    ],
)
def test_mistakes_are_named_with_their_file(tmp_path: Path, text: str, complaint: str) -> None:
    write(tmp_path, "r.example.com", text)
    with pytest.raises(UsageError, match=complaint) as caught:
        hosts(tmp_path, "r.example.com/a")
    assert "hosts.toml" in caught.value.message
    assert "s3cret" not in caught.value.message

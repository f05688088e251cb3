"""Logins are found where docker and the containers tools keep them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from fs.format.errors import AccessError, Failure, NotFoundError, UsageError
from fs.registry.credentials import Credentials, find_credentials


def entry(user: str, password: str = "p") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, **config: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return path


def user_of(found: Credentials | None) -> str | None:
    return found.username if found else None


def test_places_in_order(tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path / "home"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "REGISTRY_AUTH_FILE": str(tmp_path / "chosen.json"),
    }
    places = [
        "home/.docker/config.json",
        "home/.config/containers/auth.json",
        "run/containers/auth.json",
        "docker/config.json",
        "chosen.json",
    ]
    assert find_credentials("q.io", "a", None, environment) is None
    for place in places:
        write(tmp_path / place, auths={"q.io": entry(place)})
        assert user_of(find_credentials("q.io", "a", None, environment)) == place
    write(tmp_path / "chosen.json", auths={"other": entry("x")})
    assert user_of(find_credentials("q.io", "a", None, environment)) == "docker/config.json"
    own = write(tmp_path / "own.json")
    assert find_credentials("q.io", "a", own, environment) is None
    assert find_credentials("q.io", "a", None, {}) is None


@pytest.mark.parametrize(
    ("keys", "domain", "repository", "found"),
    [
        (["q.io", "q.io/ns", "q.io/ns/a"], "q.io", "ns/a", "q.io/ns/a"),
        (["q.io", "q.io/ns", "q.io/ns/b"], "q.io", "ns/a", "q.io/ns"),
        (["q.io/ns"], "q.io", "nsx/a", None),
        (["q.io/ns"], "q.io", "other", None),
        (["https://q.io/v1/"], "q.io", "a", "https://q.io/v1/"),
        (["https://q.io"], "q.io", "a", "https://q.io"),
        (["http://q.io:5000/v2/"], "q.io:5000", "a", "http://q.io:5000/v2/"),
        (["q.io:5000"], "q.io", "a", None),
        (["evil-q.io", "q.io.evil", "https://q.io@evil/"], "q.io", "a", None),
        (["https://q.io/ns"], "q.io", "other", None),
        (["https://index.docker.io/v1/"], "docker.io", "library/a", "https://index.docker.io/v1/"),
        (["docker.io"], "docker.io", "library/a", "docker.io"),
        (["index.docker.io"], "docker.io", "a/b", "index.docker.io"),
        (["https://index.docker.io/v1/"], "q.io", "a", None),
    ],
)
def test_keys(
    tmp_path: Path, keys: list[str], domain: str, repository: str, found: str | None
) -> None:
    path = write(tmp_path / "auth.json", auths={key: entry(key) for key in keys})
    # A user name in an auth field has no colon, so what is found is told by its start.
    credentials = find_credentials(domain, repository, path, {})
    assert user_of(credentials) == (found and found.partition(":")[0])


def test_forms_of_entries(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"

    def found(**fields: str) -> Credentials | None:
        return find_credentials("q.io", "a", write(path, auths={"q.io": fields}), {})

    assert found(**entry("u", "a:b")) == Credentials("u", "a:b")
    assert found(username="u", password="p") == Credentials("u", "p")
    assert found(auth=base64.b64encode(b"u:p\0\0").decode()) == Credentials("u", "p")
    assert found(identitytoken="i") == Credentials(identity_token="i")
    assert found(registrytoken="r") == Credentials(registry_token="r")
    assert found() is None
    assert found(email="e") is None


def test_nothing_secret_is_shown() -> None:
    shown = repr(Credentials("alice", "secret", "identity", "registry"))
    assert not any(text in shown for text in ("alice", "secret", "identity=", "registry="))
    assert "secret" not in shown


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"auths":[1]}',
        '{"auths":{"q.io":{"auth":"secret!"}}}',
        '{"auths":{"q.io":{"auth":"c2VjcmV0"}}}',
        '{"auths":{"q.io":{"username":7}}}',
        '{"credHelpers":{"q.io":"../../bin/secret"}}',
        '{"credsStore":["secret"]}',
        '{"credsStore":"not-installed"}',
    ],
)
def test_broken_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "auth.json"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        find_credentials("q.io", "a", path, {"PATH": str(tmp_path)})
    assert "secret" not in str(caught.value)


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        find_credentials("q.io", "a", tmp_path / "absent", {})


def helper(tmp_path: Path, script: str) -> dict[str, str]:
    """Install docker-credential-test, which logs what it is asked."""
    program = tmp_path / "docker-credential-test"
    log = tmp_path / "asked"
    program.write_text(f'#!/bin/sh\nread server\necho "$1 $server" >>{log}\n{script}\n')
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin"}


LOGIN = 'echo \'{"ServerURL":"x","Username":"u","Secret":"s"}\''
NO_LOGIN = "echo credentials not found in native keychain; exit 1"


def test_general_helper(tmp_path: Path) -> None:
    environment = helper(tmp_path, LOGIN)
    path = write(tmp_path / "auth.json", credsStore="test", auths={"q.io": {}})
    assert find_credentials("q.io", "a", path, environment) == Credentials("u", "s")
    assert find_credentials("docker.io", "library/a", path, environment) == Credentials("u", "s")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["get q.io", "get https://index.docker.io/v1/"]


def test_helper_for_one_registry(tmp_path: Path) -> None:
    environment = helper(tmp_path, LOGIN)
    path = write(tmp_path / "a.json", credHelpers={"q.io": "test"}, auths={"r.io": entry("r")})
    assert user_of(find_credentials("q.io", "a", path, environment)) == "u"
    assert user_of(find_credentials("r.io", "a", path, environment)) == "r"


def test_helper_with_an_identity_token(tmp_path: Path) -> None:
    environment = helper(tmp_path, 'echo \'{"Username":"<token>","Secret":"i"}\'')
    path = write(tmp_path / "auth.json", credsStore="test")
    found = find_credentials("q.io", "a", path, environment)
    assert found == Credentials(identity_token="i")


def test_helper_without_a_login_leaves_the_files_own(tmp_path: Path) -> None:
    environment = helper(tmp_path, NO_LOGIN)
    path = write(tmp_path / "auth.json", credsStore="test", auths={"q.io": entry("f")})
    assert user_of(find_credentials("q.io", "a", path, environment)) == "f"
    assert find_credentials("r.io", "a", path, environment) is None


@pytest.mark.parametrize("script", ["echo secret; exit 3", "echo secret", "echo '{\"Secret\":1}'"])
def test_broken_helper(tmp_path: Path, script: str) -> None:
    path = write(tmp_path / "auth.json", credsStore="test")
    with pytest.raises(AccessError, match="docker-credential-test") as caught:
        find_credentials("q.io", "a", path, helper(tmp_path, script))
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, Failure)

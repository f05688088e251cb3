"""References mean what they mean to Docker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fs.format.errors import UsageError
from fs.registry.address import origin
from fs.registry.reference import parse_reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "canonical", "familiar", "host"),
    [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest", "registry-1.docker.io"),
        ("a/b", "docker.io/a/b:latest", "a/b:latest", "registry-1.docker.io"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest", None),
        ("index.docker.io/a:1", "docker.io/library/a:1", "a:1", None),
        ("docker.io/library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1", None),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest", "localhost"),
        ("localhost:5000/a:b", "localhost:5000/a:b", "localhost:5000/a:b", "localhost:5000"),
        ("Host/a", "Host/a:latest", "Host/a:latest", "Host"),
        ("quay.io/a/b/c:v1.2_3", "quay.io/a/b/c:v1.2_3", "quay.io/a/b/c:v1.2_3", "quay.io"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest", "[::1]:5000"),
        (f"a@{DIGEST}", f"docker.io/library/a@{DIGEST}", f"a@{DIGEST}", None),
        (f"q.io/a:t@{DIGEST}", f"q.io/a:t@{DIGEST}", f"q.io/a:t@{DIGEST}", "q.io"),
        ("a__b-c---d/x", "docker.io/a__b-c---d/x:latest", "a__b-c---d/x:latest", None),
        ("foo:5000", "docker.io/library/foo:5000", "foo:5000", None),
    ],
)
def test_normalisation(text: str, canonical: str, familiar: str, host: str | None) -> None:
    reference = parse_reference(text)
    assert str(reference) == canonical
    assert reference.familiar == familiar
    assert host is None or reference.host == host
    assert parse_reference(canonical) == reference == parse_reference(familiar)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("Alpine", "lower case"),
        ("a/B", "lower case"),
        ("https://quay.io/a", "scheme"),
        ("a:", "tag"),
        ("a:" + "x" * 129, "tag"),
        ("a:-x", "tag"),
        ("a@sha256:abc", "digest"),
        ("a@sha512:" + "ab" * 32, "digest"),
        ("a@", "digest"),
        ("ab" * 32, "bare image ID"),
        ("a//b", "parts"),
        ("a/../b", "parts"),
        ("/a", "parts"),
        ("quay.io/", "parts"),
        ("-x.io/a", "HOST"),
        ("host:port/a", "HOST"),
        ("host:65536/a", "HOST"),
        ("host:0/a", "HOST"),
        ("[:::]/a", "HOST"),
        ("q.io/" + "a" * 256, "longer"),
        ("a b", "parts"),
        ("a\n", "parts"),
        ("a___b", "parts"),
        ("ä", "parts"),
    ],
)
def test_errors_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_reference(text)
    assert "\n" not in str(caught.value)


def test_login_in_a_reference_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference("https://user:secret@quay.io/a")
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError) as caught:
        parse_reference("user:secret@quay.io/a")
    assert "secret" not in str(caught.value)


@given(st.text(alphabet="aB0.:/@_-[]% \n\u00e9", max_size=30))
def test_any_text_is_a_reference_or_one_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(reference)) == reference
    assert origin(f"https://{reference.host}/v2/").host
    assert ".." not in reference.repository.split("/")
    assert set(reference.repository) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-/")

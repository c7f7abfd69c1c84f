"""Addresses and keys, checked."""

from __future__ import annotations

import pytest

from cv_lightning.endpoint.keys import check_url, read_key
from cv_lightning.errors import ConfigError


def test_http_and_https_are_addresses_and_others_are_named() -> None:
    addresses = ["http://127.0.0.1:8000/v1", "https://example.org"]
    others = ["", "localhost:8000", "ftp://x", "file:///etc/passwd", "HTTP//x"]
    said = {}
    for url in (*addresses, *others):
        try:
            check_url(url, "judge.url")
        except ConfigError as error:
            said[url] = str(error)
    assert said == {
        url: f"judge.url: expected an address that starts with http:// or https://, got {url!r}" for url in others
    }


@pytest.mark.parametrize(("value", "key"), [("", None), ("  ", None), (" sk-1 \n", "sk-1"), ("a b", "a b")])
def test_a_key_is_read_without_what_surrounds_it(value: str, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", value)
    assert read_key("A_KEY") == key


def test_no_variable_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    assert read_key("A_KEY") is None
    assert read_key(None) is None


@pytest.mark.parametrize("secret", ["sk-é", "sk-1\nX-Header: 1", "sk\x7f"])
def test_a_key_that_no_header_may_hold_is_refused_and_not_shown(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", secret)
    with pytest.raises(ConfigError, match="The API key in A_KEY contains characters") as caught:
        read_key("A_KEY")
    assert secret not in str(caught.value)
    assert "sk" not in str(caught.value)

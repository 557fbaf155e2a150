"""URLs: what is one, which have secrets, and what messages show of them."""

from __future__ import annotations

import pytest

from dali_pipelines.storage.urls import check_url, is_url, joined, scrubbed, suffix_of


def test_what_is_a_url() -> None:
    assert all(map(is_url, ("s3://b/a.tar", "HTTP://h/a", "hf://datasets/a/b/c.tar", "ftp://h/a")))
    assert not any(map(is_url, ("a.tar", "/a/b", "a:b", "C:\\a", "~/a")))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://h/a.tar", "ftp:// is not supported; use s3://"),
        ("https://me:hush@h/a.tar", r"has a user name or password.*~/.netrc"),
        ("https://hush@h/a.tar", "has a user name or password"),
        ("s3://key:hush@bucket/a.tar", "AWS_ACCESS_KEY_ID"),
        ("https://b.s3.amazonaws.com/a.tar?X-Amz-Date=1&X-Amz-Signature=hush", r"is signed \(X-Amz-Date\)"),
        ("https://a.blob.core.windows.net/c/a.tar?sv=1&sig=hush", r"is signed \(sig\)"),
        ("https://h/a.tar?access_token=hush", r"is signed \(access_token\)"),
        ("https://h/a.tar?api_key=hush", r"is signed \(api_key\)"),
        ("hf://datasets/o/n/a.tar?token=hush", "set HF_TOKEN"),
        ("gs://b/a.tar?X-Goog-Signature=hush", "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_secrets_are_refused_and_not_repeated(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        check_url(url)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("url", ["hf://datasets/o/n@refs%2Fconvert/a.tar", "https://h/a@b.tar", "https://h/a.tar?image=jpg",
                                 "s3://b/a.tar"])  # fmt: skip
def test_what_has_no_secret_is_allowed(url: str) -> None:
    check_url(url)


def test_messages_have_no_secret() -> None:
    text = (
        "403, url='https://cdn.x/a?X-Amz-Signature=hush&b=1', see https://me:hush@h/p?q=hush Authorization: Bearer"
        " hush, {'authorization': 'Bearer hush'}"
    )
    assert "hush" not in scrubbed(text)
    assert "https://cdn.x/a?***" in scrubbed(text)
    assert scrubbed("hf://datasets/o/n@main/a.tar: gone") == "hf://datasets/o/n@main/a.tar: gone"


@pytest.mark.parametrize(
    ("folder", "name", "url"),
    [
        ("http://h/a/", "b/c.jpg", "http://h/a/b/c.jpg"),
        ("http://h/a/", "../c.jpg", "http://h/c.jpg"),
        ("http://h/a/", "/c.jpg", "http://h/c.jpg"),
        ("s3://b/a/", "c d.jpg", "s3://b/a/c d.jpg"),
        ("s3://b/a/", "./x/../c.jpg", "s3://b/a/c.jpg"),
        ("s3://b/a/", "/c.jpg", "s3://b/c.jpg"),
        ("s3://b/a/", "http://h/c.jpg", "http://h/c.jpg"),
        ("hf://datasets/o/n@1/a/", "c.jpg", "hf://datasets/o/n@1/a/c.jpg"),
    ],
)
def test_names_are_relative_to_the_folder_of_a_list(folder: str, name: str, url: str) -> None:
    assert joined(folder, name) == url


def test_suffixes() -> None:
    assert suffix_of("http://h/a.b/list.CSV?x=1.txt") == ".csv"

"""What may be written as the address, branch or path of a repository."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.repository import check_ref, check_subpath, parse_address, redacted


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("https://git.example.org/ops/fleet.git", "https"),
        ("https://git.example.org:8443/ops/fleet.git", "https"),
        ("http://127.0.0.1:3000/fleet.git", "http"),
        ("ssh://git@git.example.org:2222/ops/fleet.git", "ssh"),
        ("git@git.example.org:ops/fleet.git", "ssh"),
        ("git.example.org:fleet.git", "ssh"),
        ("file:///srv/git/fleet.git", "file"),
        ("git://git.example.org/fleet.git", "git"),
        ("/srv/git/fleet.git", None),
        ("../fleet", None),
        ("./odd:name", None),
        ("fleet", None),
    ],
)
def test_addresses_by_protocol(url: str, protocol: str | None) -> None:
    address = parse_address(url)
    assert (address.text, address.protocol, address.local) == (url, protocol, protocol is None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "without spaces"),
        (" https://x/y", "without spaces"),
        ("https://x/y\n", "without spaces"),
        ("https://x/y\0z", "control characters"),
        ("--upload-pack=touch /tmp/x", "option"),
        ("-oProxyCommand=x:y", "option"),
        ("ext::sh -c 'touch /tmp/x'", "runs programs"),
        ("fd::3", "runs programs"),
        ("ssh://-oProxyCommand=x/y", "option"),
        ("ssh://-x@host/y", "option"),
        ("-x@host:y", "option"),
        ("git@-oProxyCommand=x:y", "option"),
        ("ftp://host/y", "no protocol"),
        ("rsync://host/y", "no protocol"),
        ("https://user:pass@host/y", "token_file"),
        ("https://ghp_pass@host/y", "token_file"),
        ("ssh://user:pass@host/y", "token_file"),
        ("https://host", "names no repository"),
        ("https:///path", "names no repository"),
    ],
)
def test_what_is_no_address_says_why(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        parse_address(url)
    assert "pass@" not in str(refused.value)


@pytest.mark.parametrize("name", ["main", "releases/1.2", "feature_x", "v1.0", "ünïcode", "a@b"])
def test_names_of_branches_and_tags(name: str) -> None:
    assert check_ref(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-b", "--upload-pack=x", "a b", "a..b", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a//b", "/a", "a/",
     ".a", "a/.b", "a.lock", "a.lock/b", "a.", "@", "a@{1}", "a\nb", "refs/heads/main"],
)  # fmt: skip
def test_what_is_no_name_of_a_branch(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a branch or tag"):
        check_ref(name)


@pytest.mark.parametrize(
    ("path", "plain"),
    [("", ""), (".", ""), ("ansible", "ansible"), ("./ansible/fleet/", "ansible/fleet"), ("a/../b", "b")],
)
def test_folders_of_a_repository(path: str, plain: str) -> None:
    assert check_subpath(path) == plain


@pytest.mark.parametrize("path", ["/etc", "..", "../x", "a/../../x", "-x", "./-x", "a:b", "a\0b"])
def test_folders_that_are_none(path: str) -> None:
    with pytest.raises(ValueError, match=r"leaves the repository|no folder"):
        check_subpath(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fatal: https://bob:pass@host/x", "fatal: https://***@host/x"),
        ("https://ghp_token@host/x and ssh://git@host/y", "https://***@host/x and ssh://git@host/y"),
        ("https://bob:p@ss@host/x", "https://***@host/x"),
        ("ssh://git@host", "ssh://git@host"),
        ("no secret a@b", "no secret a@b"),
    ],
)
def test_credentials_are_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_the_longest_word_is_looked_through_once() -> None:
    """What git says may come from a hostile server; this took hours."""
    assert redacted("a" * 500_000) == "a" * 500_000


@given(st.text(max_size=40))
def test_no_text_reaches_git_as_an_option(text: str) -> None:
    for check in (check_ref, check_subpath, lambda given: parse_address(given).text):
        try:
            accepted = check(text)
        except ValueError:
            continue
        assert not accepted.startswith("-")
        assert "\0" not in accepted

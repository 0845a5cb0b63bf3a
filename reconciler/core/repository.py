"""Where a git repository is and what of it is meant, as a person writes it in the settings.

All of it reaches git's command line, where a text that looks like an option or names a transport of its own would be
obeyed. What is not plainly an address, a branch or a path is refused here, before git sees it.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

PROTOCOLS = ("https", "http", "ssh", "git", "file")
"""All that can be allowed; git's own names."""

LONGEST_REF = 180
"""With the id of a commit it has to fit into a column of the database."""

_URL = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_SCP = re.compile(r"(?:(?P<user>[^@/:]+)@)?(?P<host>[^@/:]+):(?P<path>(?!/{2}).+)")
_HELPER = re.compile(r"[A-Za-z0-9+.-]+::")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CREDENTIALS = re.compile(r"://(?!git@[^@/\s]*(?:[/\s]|$))[^/\s]+@")
_NOT_IN_A_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|(?:^|/)\.|\.(?:lock)?(?:/|$)|^/|/$")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a repository is. `protocol` is one of PROTOCOLS, or None for a path on this machine."""

    text: str
    protocol: str | None

    @property
    def local(self) -> bool:
        return self.protocol is None

    def __str__(self) -> str:
        return redacted(self.text)


def parse_address(text: str) -> Address:
    """Raises ValueError, saying what is wrong with it and what would do."""
    if not text or text != text.strip() or re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("a repository's url must be a text without spaces around it or control characters")
    if text.startswith("-"):
        raise ValueError("a repository's url does not begin with '-': git would take it for an option")
    if _HELPER.match(text):
        raise ValueError(f"{text.partition('::')[0]}:: is a transport that runs programs; use https, ssh or file")
    if found := _URL.fullmatch(text):
        return _address_of_url(text, found["protocol"].lower(), found["rest"])
    if (found := _SCP.fullmatch(text)) and not text.startswith(("/", "./", "../", "~")):
        if found["host"].startswith("-") or (found["user"] or "").startswith("-"):
            raise ValueError("a repository's host or user does not begin with '-': ssh would take it for an option")
        return Address(text, "ssh")
    return Address(text, None)


def _address_of_url(text: str, protocol: str, rest: str) -> Address:
    if protocol not in PROTOCOLS:
        raise ValueError(f"{protocol}:// is no protocol of git that can be used; use https, ssh or file")
    authority, _, path = rest.partition("/")
    credentials, _, host = authority.rpartition("@")
    if ":" in credentials or (credentials and protocol in ("https", "http")):
        raise ValueError(
            "a user or password in a url ends in process lists and logs: write the token to a file that token_file names, "
            "and the user as username"
        )
    if host.startswith("-") or credentials.startswith("-"):
        raise ValueError("a repository's host or user does not begin with '-': ssh would take it for an option")
    if not path or (protocol != "file" and not host):
        raise ValueError(f"{redacted(text)} names no repository; a url has a host and a path")
    return Address(text, protocol)


def check_ref(name: str) -> str:
    """A name of a branch or tag, as `git check-ref-format` allows them, of at most LONGEST_REF characters. Raises
    ValueError."""
    if name.startswith("-"):
        raise ValueError(f"{name} is no name of a branch or tag: git would take it for an option")
    if len(name) > LONGEST_REF or not name or _NOT_IN_A_REF.search(name) or name == "@" or name.startswith("refs/"):
        raise ValueError(f"{name!r} is no name of a branch or tag, such as main or releases/1.2")
    return name


def check_subpath(path: str) -> str:
    """A folder inside a repository, relative to its root; empty: the root. Returned without `./` and a `/` at the end.
    Raises ValueError."""
    if not path:
        return ""
    name = posixpath.normpath(path)
    if posixpath.isabs(path) or name == ".." or name.startswith("../"):
        raise ValueError(f"path {path} leaves the repository: it is relative to its root")
    if name.startswith("-") or re.search(r"[\x00-\x1f\x7f]", path) or ":" in path:
        raise ValueError(f"path {path!r} is no folder that can be named here")
    return "" if name == "." else name


def plain_text(text: str) -> str:
    """On one line and without control characters, for text of others that is shown on terminals and pages."""
    return " ".join(_CONTROL.sub(" ", text).split())


def redacted(text: str) -> str:
    """The same without what stands between `://` and `@`, which may be a secret."""
    return _CREDENTIALS.sub("://***@", text)

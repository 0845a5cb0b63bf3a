"""Tokens: who somebody is, and what they may do. Only the SHA-256 of a token is kept anywhere."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256


class Scope(StrEnum):
    """What somebody may do. Each of the others includes `read`."""

    READ = "read"
    OPERATE = "operate"  # trigger, retry, cancel
    WRITE = "write"  # put manifests into sources


@dataclass(frozen=True, slots=True)
class Token:
    """Somebody who may use the port. `digest` is the SHA-256 of the token itself, in hex."""

    name: str
    digest: str = field(repr=False)
    scopes: frozenset[Scope] = frozenset({Scope.READ})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request is from. `name` None: nobody who has said so."""

    name: str | None = None
    scopes: frozenset[Scope] = frozenset()
    by_cookie: bool = False
    """It was a session that said so, which a browser sends along by itself."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


def new_token() -> str:
    """256 random bits, as text that fits into a header and a file."""
    return f"rec_{secrets.token_urlsafe(32)}"


def digest_of(token: str) -> str:
    """What is kept of it."""
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def owner_of(token: str, tokens: Collection[Token]) -> Token | None:
    """Whose it is; None: nobody's. All of them are compared, each in the same time whatever it has in common."""
    found, digest = None, digest_of(token)
    for each in tokens:
        if hmac.compare_digest(each.digest, digest):
            found = each
    return found


def all_scopes(given: Collection[str]) -> frozenset[Scope]:
    """What somebody with these scopes may do."""
    return frozenset(Scope(scope) for scope in given) | {Scope.READ}

"""Who a request is from, and whether it may come in at all.

    a token     Authorization: Bearer TOKEN, compared in constant time with every one that is known
    a session   a cookie with a random id, got for a token; it is kept in memory, so a restart ends it
    nobody      may read where the port is on loopback, and the Host header says so: else a page of another site, whose name
                its owner has pointed at this machine, could read through a visitor's browser (DNS rebinding)

A browser sends its cookie along with whatever any page asks for. So what changes something has to come from a page of
this port, as Origin and Sec-Fetch-Site tell.
"""

from __future__ import annotations

import ipaddress
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope as Asgi

from reconciler.web.doors import Access
from reconciler.web.problems import Declined
from reconciler.web.tokens import Caller, Scope, Token, owner_of

log = structlog.get_logger()

COOKIE = "reconciler_session"

SESSION = timedelta(hours=12)
MOST_SESSIONS = 1000
"""At a time: whoever begins another ends the oldest."""

FAILURES, WITHIN = 10, 60.0
"""So many wrong tokens from one address within so many seconds, and no token from there is looked at before they are over."""

MOST_ADDRESSES = 10_000
"""Of which failures are remembered: the one that failed longest ago is forgotten first."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

NEEDS_TOKEN = "this needs a token"
HOW_TO_GET_ONE = (
    "Authorization: Bearer TOKEN; `reconciler token NAME` makes one, and says what to write into the settings"
)


@dataclass(frozen=True, slots=True)
class Session:
    token: Token
    until: float


class Sessions:
    """Those who have logged in by a page."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def begin(self, token: Token) -> str:
        """The id of a new one."""
        name = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._sessions) >= MOST_SESSIONS:
                self._sessions.popitem(last=False)
            self._sessions[name] = Session(token, self._monotonic() + SESSION.total_seconds())
        return name

    def whose(self, name: str) -> Token | None:
        """None: there is none, or it is over."""
        with self._lock:
            session = self._sessions.get(name)
            if session is not None and session.until <= self._monotonic():
                del self._sessions[name]
                session = None
        return None if session is None else session.token

    def end(self, name: str) -> None:
        with self._lock:
            self._sessions.pop(name, None)


class Failures:
    """Wrong tokens by address."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def held_for(self, address: str) -> float:
        """Seconds for which no token from there is looked at."""
        with self._lock:
            count, until = self._counts.get(address, (0, 0.0))
        return max(0.0, until - self._monotonic()) if count >= FAILURES else 0.0

    def add(self, address: str) -> None:
        now = self._monotonic()
        with self._lock:
            count, until = self._counts.pop(address, (0, 0.0))
            if until <= now:
                count, until = 0, now + WITHIN
            while len(self._counts) >= MOST_ADDRESSES:
                self._counts.popitem(last=False)
            self._counts[address] = (count + 1, until)


class Gate:
    """Decides over requests by `access`."""

    def __init__(self, access: Access, monotonic: Callable[[], float]) -> None:
        self.access = access
        self.sessions = Sessions(monotonic)
        self._failures = Failures(monotonic)
        self._hosts = frozenset(name.lower() for name in access.allowed_hosts)

    # -- who it is ---------------------------------------------------------------------------------------------------
    def caller(self, asgi: Asgi) -> Caller:
        """Raises Declined: 401 for a token that is nobody's, 429 for one too many of these, 421 under a name that is not
        this port's."""
        headers = Headers(scope=asgi)
        if (token := bearer_of(headers)) is not None:
            return _named(self.owner(token, asgi))
        if self._is_asked_by_another_name(headers):
            raise _misdirected(headers)
        logged_in = self.sessions.whose(session_of(headers))
        if logged_in is not None:
            return replace(_named(logged_in), by_cookie=True)
        return Caller(scopes=frozenset({Scope.READ})) if self.access.loopback else Caller()

    def owner(self, token: str, asgi: Asgi) -> Token:
        """Whose it is. Raises Declined. Wrong ones under a name that is not this port's are counted apart: a page of another
        site can send them through a visitor's browser, and must not have the right ones of its address refused."""
        headers, address = Headers(scope=asgi), address_of(asgi.get("client"))
        misdirected = self._is_asked_by_another_name(headers)
        counted = f"{address} by another name" if misdirected else address
        if held := self._failures.held_for(counted):
            raise Declined(
                429,
                "too many wrong tokens from this address: none is looked at for a while",
                headers={"Retry-After": str(ceil(held))},
            )
        found = owner_of(token, self.access.tokens)
        if found is None:
            log.warning("wrong_token", address=address)
            self._failures.add(counted)
            raise _misdirected(headers) if misdirected else needs_token("this token is nobody's")
        return found

    def _is_asked_by_another_name(self, headers: Headers) -> bool:
        return self.access.loopback and not self._is_ours(headers.get("host", ""))

    # -- where it comes from -----------------------------------------------------------------------------------------
    def check_origin(self, asgi: Asgi, caller: Caller) -> None:
        """Raises Declined (403) for a change that a page of another site asks for. A token in a header is put there by
        somebody who has it: no page of another site has."""
        headers = Headers(scope=asgi)
        if asgi["method"] in SAFE or bearer_of(headers) is not None:
            return
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is None and site is None:
            if caller.by_cookie:
                raise _foreign("a session counts only with an Origin or Sec-Fetch-Site header, as browsers send them")
        elif origin is not None and not self._is_same(origin, headers.get("host", "")):
            raise _foreign(f"this comes from a page of {origin[:100]!r}, and not of this port")
        elif site not in (None, "same-origin", "none"):
            raise _foreign("this comes from a page of another site")

    def _is_ours(self, host: str) -> bool:
        name = _name_of(host)
        return name == "localhost" or _is_loopback(name) or name in self._hosts or host.lower() in self._hosts

    def _is_same(self, origin: str, host: str) -> bool:
        """Whether it is the name that was asked for, or one that the settings say is ours. A proxy before the port may
        speak https, which is not seen here: so the scheme does not count."""
        try:
            name = _without_usual_port(urlsplit(origin).netloc)
        except ValueError:
            return False
        return bool(name) and (name == _without_usual_port(host) or name in self._hosts)


def _named(token: Token) -> Caller:
    return Caller(token.name, token.scopes | {Scope.READ})


def bearer_of(headers: Mapping[str, str]) -> str | None:
    """The token of an Authorization header. Those of other schemes are for a proxy before the port, and say nothing here."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def needs_token(why: str = NEEDS_TOKEN) -> Declined:
    return Declined(401, why, hint=HOW_TO_GET_ONE, headers={"WWW-Authenticate": 'Bearer realm="reconciler"'})


def _misdirected(headers: Headers) -> Declined:
    return Declined(
        421,
        f"this port is not known as {headers.get('host', '')[:100]!r}",
        hint="ask for it by its address, or add the name to http.allowed_hosts",
    )


def _foreign(why: str) -> Declined:
    return Declined(403, why, hint="scripts send a token: Authorization: Bearer TOKEN")


def session_of(headers: Mapping[str, str]) -> str:
    """The id that the cookie gives; empty: there is none."""
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")


def address_of(client: tuple[str, int] | None) -> str:
    """As far as it is one's own: of IPv6, whoever has one address has a whole network of them."""
    host = client[0] if client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return host


def _name_of(host: str) -> str:
    """A Host header without its port."""
    name = host.strip().lower()
    if name.startswith("["):
        address, bracket, _ = name.removeprefix("[").partition("]")
        return address if bracket else ""
    return name.partition(":")[0].removesuffix(".")


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _without_usual_port(netloc: str) -> str:
    """As an origin has it. http and https are not told apart: see where this is used."""
    return netloc.strip().lower().removesuffix(":443").removesuffix(":80")


def is_loopback(listen: str) -> bool:
    """Whether a port at this `HOST:PORT` can be reached from this machine only."""
    name = _name_of(listen)
    return name == "localhost" or _is_loopback(name)


# -- in the application ----------------------------------------------------------------------------------------------
def gate_of(request: Request) -> Gate:
    gate: Gate = request.app.state.gate
    return gate


def caller_of(request: Request) -> Caller:
    """Who it is from, as the gate has found."""
    caller: Caller = request.state.caller
    return caller


async def _caller_here(request: Request) -> Caller:
    return caller_of(request)


CallerHere = Annotated[Caller, Depends(_caller_here)]


def check_scope(caller: Caller, scope: Scope) -> None:
    """Raises Declined: 401 for nobody, 403 for somebody who may not."""
    if caller.may(scope):
        return
    if caller.name is None:
        raise needs_token()
    raise Declined(
        403,
        f"the token of {caller.name} does not have the scope {scope.value}",
        hint="http.tokens in the settings says what it may do",
    )

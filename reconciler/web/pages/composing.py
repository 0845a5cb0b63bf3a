"""Composing a batch by clicking, and saying who one is."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from reconciler.ports import ServersWanted
from reconciler.web.pages.servers import tags_of
from reconciler.web.pages.serving import Look, OpenToAll, Reading, Text


def composing_routes() -> APIRouter:
    router = APIRouter(route_class=Reading)

    @router.get("/new")
    def get_new(look: Look, source: Text = "") -> HTMLResponse:
        offers = () if look.doors.authoring is None else look.doors.authoring.offers()
        chosen = next((offer for offer in offers if offer.name == source), offers[0] if offers else None)
        tags = tags_of(look.doors, ServersWanted(source=chosen.name)) if chosen is not None else []
        return look.page("new.html", offers=offers, chosen=chosen, tags=tags, max_limit=look.doors.max_limit)

    return router


def login_routes() -> APIRouter:
    """Apart from the others: who has not said who they are must get here."""
    router = APIRouter(route_class=OpenToAll)

    @router.get("/login")
    def get_login(look: Look, next: str = "/") -> HTMLResponse:  # noqa: A002 - it is the name in the address
        # As long as any address may be: who was led here by a long one was not wrong.
        return look.page("login.html", next=within(next))

    return router


def within(address: str) -> str:
    """An address of this site, as a path; anything else leads to the beginning."""
    inside = address.startswith("/") and not address.startswith("//") and "\\" not in address
    return address if inside and address.isprintable() else "/"

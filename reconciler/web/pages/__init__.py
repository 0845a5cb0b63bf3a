"""The pages: what people look at in a browser."""

from __future__ import annotations

from fastapi import APIRouter

from reconciler.web.pages.batch import batch_routes
from reconciler.web.pages.batches import batches_routes
from reconciler.web.pages.composing import composing_routes, login_routes
from reconciler.web.pages.held import held_routes
from reconciler.web.pages.servers import servers_routes
from reconciler.web.pages.serving import answer_nowhere_with_a_page
from reconciler.web.pages.statics import static_routes

__all__ = ["answer_nowhere_with_a_page", "pages_of"]


def pages_of() -> APIRouter:
    """All of them, and the files that they use."""
    router = APIRouter(include_in_schema=False)
    for routes in (
        batches_routes,
        held_routes,
        batch_routes,
        servers_routes,
        composing_routes,
        login_routes,
        static_routes,
    ):
        router.include_router(routes())
    return router

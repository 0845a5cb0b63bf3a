"""The stylesheet, the scripts and the pictures, all of them from here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from fastapi import APIRouter, HTTPException, Response

from reconciler.web.pages.rendering import STATIC, version_of_static

_KINDS: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
FOR_EVER = "public, max-age=31536000, immutable"


@cache
def _files() -> Mapping[str, bytes]:
    """Those that are served, by name: no path that comes from outside is ever opened."""
    return {file.name: file.read_bytes() for file in STATIC.iterdir() if file.suffix in _KINDS}


@cache
def _version() -> str:
    return version_of_static()


def static_routes() -> APIRouter:
    """`/static/{version}/{name}`. The version is in the path, so that a script finds the others of the same one."""
    router = APIRouter()

    @router.get("/static/{version}/{name}")
    async def get_static(version: str, name: str) -> Response:
        found = _files().get(name)
        if found is None:
            raise HTTPException(404, "there is no such file")
        kind = _KINDS["." + name.rpartition(".")[2]]
        # A page that was open while the daemon became a newer one asks for what is not there any more.
        caching = FOR_EVER if version == _version() else "no-cache"
        return Response(found, media_type=kind, headers={"Cache-Control": caching})

    return router

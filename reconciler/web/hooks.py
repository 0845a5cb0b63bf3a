"""Webhooks of git servers: a push makes its source be read at once.

A request is a trigger and no more. Nothing that it says is looked at: what was pushed, the source itself is asked. Its
signature only proves that it comes from somebody who may have a source read.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from fastapi import APIRouter, HTTPException, Request
from starlette.requests import ClientDisconnect

LARGEST = 25 * 1024 * 1024
"""Bytes: GitHub sends no larger body. It is hashed as it comes in, and not kept."""

GITHUB, GITEA, GITLAB = b"x-hub-signature-256", b"x-gitea-signature", b"x-gitlab-token"

EXPECTED = (
    "not signed with the secret of this source: one of these headers is expected, X-Hub-Signature-256 (GitHub), "
    "X-Gitea-Signature (Gitea, Forgejo) or X-Gitlab-Token (GitLab)"
)


@dataclass(frozen=True, slots=True)
class Hook:
    """A source that a webhook may poke. `secret` is the one that the git server has too; with an empty one there is no
    hook. `poke` is called in the server's event loop, and must return at once; False: nobody reads the source here."""

    secret: bytes = field(repr=False)
    poke: Callable[[], bool]


def hooks_of(hooks: Mapping[str, Hook]) -> APIRouter:
    """`POST /hooks/git/{source}` for these sources."""
    router = APIRouter()

    @router.post("/hooks/git/{source:path}", status_code=202)
    async def post_hook(source: str, request: Request) -> dict[str, str | bool]:
        hook = hooks.get(source)
        if hook is None or not hook.secret:
            raise HTTPException(404, "no source of this name has a webhook")
        digest = await _digest(request, hook.secret)
        if not _is_signed(request, hook.secret, digest):
            raise HTTPException(401, EXPECTED)
        if not hook.poke():
            raise HTTPException(503, "this daemon is a standby, which reads no source: the one that leads does")
        return {"source": source, "accepted": True}

    return router


async def _digest(request: Request, secret: bytes) -> str:
    """HMAC-SHA256 of the body, in hex. A body that is too large is read no further."""
    too_large = HTTPException(413, f"the body is larger than {LARGEST} bytes", {"Connection": "close"})
    if int(request.headers.get("content-length", 0)) > LARGEST:
        raise too_large
    digest, size = hmac.new(secret, digestmod=sha256), 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > LARGEST:
                raise too_large
            digest.update(part)
    except ClientDisconnect:
        raise HTTPException(400, "the body is cut short") from None
    return digest.hexdigest()


def _is_signed(request: Request, secret: bytes, digest: str) -> bool:
    right = {GITHUB: f"sha256={digest}".encode(), GITEA: digest.encode(), GITLAB: secret}
    return any(
        hmac.compare_digest(value, right[name])  # both are bytes: a header may hold any
        for name, value in request.headers.raw
        if name in right
    )

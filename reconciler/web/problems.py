"""Errors of the daemon's port as problem documents (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


def answer_with_problems(web: FastAPI) -> None:
    """From now on whoever raises HTTPException, the router included, answers with its status, detail and headers as a
    problem document."""

    @web.exception_handler(HTTPException)
    async def answer(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(
            {
                "type": "about:blank",
                "title": HTTPStatus(error.status_code).phrase,
                "status": error.status_code,
                "detail": error.detail,
            },
            error.status_code,
            error.headers,
            "application/problem+json",
        )

"""HTTP: pages, the JSON API, metrics, health and webhooks. Knows neither engine nor adapters: all that it shows or asks for
comes through doors that are handed to it."""

from reconciler.web.access import is_loopback
from reconciler.web.doors import Access, Doors, Health
from reconciler.web.hooks import Hook
from reconciler.web.openapi import openapi_document
from reconciler.web.server import WebApplication, WebServer, build_web
from reconciler.web.tokens import Scope, Token, all_scopes, digest_of, new_token

__all__ = [
    "Access",
    "Doors",
    "Health",
    "Hook",
    "Scope",
    "Token",
    "WebApplication",
    "WebServer",
    "all_scopes",
    "build_web",
    "digest_of",
    "is_loopback",
    "new_token",
    "openapi_document",
]

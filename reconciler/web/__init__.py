"""HTTP: metrics, health and webhooks. Knows neither engine nor adapters: what it shows is handed to it."""

from reconciler.web.hooks import Hook
from reconciler.web.server import Health, WebServer, build_web

__all__ = ["Health", "Hook", "WebServer", "build_web"]

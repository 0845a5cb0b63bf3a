"""HTTP: metrics and health. Knows neither engine nor adapters: what it shows is handed to it."""

from reconciler.web.server import Health, WebServer, build_web

__all__ = ["Health", "WebServer", "build_web"]

"""The page at `/`: three files of the package, and Vega out of the extra `report`. Nothing in them is of a tenant."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.report.write import drawing_module

FOLDER = Path(__file__).with_name("page")
FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
DRAWING = "/vega.js"
HEADERS = {
    # Nothing from elsewhere, no script and no style inside the page; Vega's expressions are interpreted, not compiled.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asked for again every time, and sent again only where it is another
}


@cache
def drawing() -> str:
    """Return a script that leaves Vega and the report's colours to the page, or a sentence why it cannot."""
    try:
        charts = drawing_module()
    except DriftError as error:
        return f"window.notDrawn = {json.dumps(str(error))};"
    looks = {
        "themes": {"light": charts.theme(), "dark": charts.theme(dark=True)},
        "static": charts.STATIC,
        "adapted": charts.ADAPTED,
    }
    return str(charts.bundle(f"window.vegaEmbed = vegaEmbed; window.looks = {json.dumps(looks)};"))


def page_routes() -> Any:
    """Return the router of the page."""
    from fastapi import APIRouter, Request
    from fastapi.responses import Response

    router = APIRouter(include_in_schema=False)

    def sent(request: Request, text: str, kind: str) -> Response:
        """Return a file, or the word that the browser has it."""
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
        headers = HEADERS | {"etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(text, media_type=f"{kind}; charset=utf-8", headers=headers)

    def serve(path: str, name: str, kind: str) -> None:
        text = (FOLDER / name).read_text(encoding="utf-8")

        @router.get(path)
        async def file(request: Request) -> Response:
            return sent(request, text, kind)

    for path, (name, kind) in FILES.items():
        serve(path, name, kind)

    @router.get(DRAWING)
    def vega(request: Request) -> Response:  # a second of work the first time, in a thread of the framework's
        return sent(request, drawing(), "text/javascript")

    return router

"""What a request asks for, in the one form that routes know: absolute targets, sub-paths, trailing slashes."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from starlette.types import Scope

from core.errors import MalformedRequest, NotFound
from service.http.problems import shown

_ABSOLUTE = re.compile(rb"https?://([^/?#]+)(/.*)?", re.IGNORECASE | re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # in no path of ours; routes' patterns pass over a line's end
# A client that adds a slash means the same; pages aren't here, whose relative URLs would change their meaning.
_SLASHED = re.compile(r"((?:/sdapi)?/v1/.+|/livez|/readyz|/metrics|/openapi\.json)/")


def normalised(scope: Scope, prefix: str) -> Scope:
    """Copy a scope with the path that routes know; `prefix` is the path of LATENTD_PUBLIC_URL.

    A proxy may have cut the prefix off or not; a base URL that ends with a slash makes two of the first. HEAD is asked
    as GET; its body is dropped where it is sent. Answers are whole (RFC 9110, 14.2: a server may ignore Range).

    Raises:
        MalformedRequest: the target is neither a path nor an absolute http(s) URL.
        NotFound: the path has control characters, or a part that is `.` or `..`, which a client resolves itself (RFC
            3986, 5.2.4).
    """
    asked = {**scope, **_absolute(scope)}
    if any(name == b"range" for name, _ in asked["headers"]):
        asked["headers"] = [item for item in asked["headers"] if item[0] != b"range"]
    path = "/" + str(asked["path"]).lstrip("/")
    if prefix and path.startswith(f"{prefix}/"):
        path = path[len(prefix) :]
    if slashed := _SLASHED.fullmatch(path):
        path = slashed[1]
    if _CONTROL.search(path) or ("/." in path and not {".", ".."}.isdisjoint(path.split("/"))):
        raise NotFound(f"nothing is served at {shown(path)}", value=path)
    return {**asked, "path": path, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}


def _absolute(scope: Scope) -> dict[str, Any]:
    """Read an absolute target, whose authority counts in place of the Host header (RFC 9112, 3.2.2)."""
    raw: bytes = scope["raw_path"]
    if raw.startswith(b"/"):
        return {}
    found = _ABSOLUTE.fullmatch(raw)
    if found is None:
        sent = raw.decode("latin-1")
        bound = "a path, or an http:// or https:// URL"
        raise MalformedRequest(f"the request's target is {shown(sent)!r}; it must be {bound}", value=sent, bound=bound)
    path = found[2] or b"/"
    headers = [(b"host", found[1]), *(item for item in scope["headers"] if item[0] != b"host")]
    return {"raw_path": path, "path": unquote(path.decode("ascii")), "headers": headers}

"""What stands before the server's application: which requests are answered at all, and what every reply says."""

import ipaddress
import json
import re
from collections.abc import Collection, Mapping, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
MAX_ADDRESS, MAX_HEADERS, MAX_BODY = 16_384, 32_768, 65_536


class Guard:
    """Refuses what is not a plain GET, or a small POST of its own pages where it takes any, and marks every reply.

    `names` are those by which browsers may address the server, besides ``localhost`` and plain addresses; `posts` are
    the addresses that take a POST, with the most bytes of its body.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], posts: Mapping[str, int] | None = None) -> None:
        self.app, self.names, self.posts = app, names, posts or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *HEADERS]
                if b"content-security-policy" not in given:
                    message["headers"].append((b"content-security-policy", PAGE_POLICY.encode()))
                if b"cache-control" not in given:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        reply = self._refuse(scope) or self.app
        await reply(scope, receive, send_marked)

    def _refuse(self, scope: Scope) -> Response | None:
        headers = scope["headers"]
        names = [name for name, _ in headers]
        if scope["http_version"] not in ("1.0", "1.1"):
            return make_error(400, "this server speaks HTTP/1.1")
        methods = ("POST",) if scope["path"] in self.posts else ("GET", "HEAD")
        if scope["method"] not in methods:
            words = " and ".join(methods)
            return make_error(405, f"only {words} is answered here", headers={"Allow": ", ".join(methods)})
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_ADDRESS:
            return make_error(414, "the address is too long")
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS:
            return make_error(431, "the headers are too long")
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_allowed(hosts[0].decode("latin-1")):
            return make_error(421, "this name is not one of this server's; see attn-viewer serve --allow_host")
        if b"range" in names:
            return make_error(416, "parts of files are not served")
        if scope["method"] == "POST":
            return _refuse_post(headers, hosts[0], self.posts[scope["path"]])
        if b"transfer-encoding" in names or any(n == b"content-length" and v != b"0" for n, v in headers):
            return make_error(400, "a request has no body")
        return None

    def _is_allowed(self, host: str) -> bool:
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::\d{1,5})?", host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        if name == "localhost" or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _refuse_post(headers: Sequence[tuple[bytes, bytes]], host: bytes, most: int) -> Response | None:
    """Refuse what another site's page could send, and bodies of an unknown or great size."""
    found = dict(headers)
    if len(found) < len(headers) or b"transfer-encoding" in found:
        return make_error(400, "a request has each header once, and says how long its body is")
    is_ours = found.get(b"origin") in (b"http://" + host, b"https://" + host)
    if not is_ours or found.get(b"sec-fetch-site", b"same-origin") != b"same-origin":
        return make_error(403, "only this server's own page may ask for this")
    if found.get(b"content-type") != b"application/json":  # no form of another site can send it
        return make_error(415, "a request is JSON")
    length = found.get(b"content-length", b"")
    if not re.fullmatch(rb"\d{1,18}", length):
        return make_error(411, "a request says how long its body is")
    if int(length) > most:
        return make_error(413, f"a request has at most {most:,} bytes")
    return None


def make_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a reply that says what was wrong."""
    return send_json({"error": message}, status, headers)


def send_json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a reply of JSON."""
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return Response(data, status, headers, media_type="application/json")

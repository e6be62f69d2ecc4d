"""Who may ask the server: browsers that have seen the address with its token, from a page of this server, under its own name."""

import hmac
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
TOKEN = "token"  # in the address that is opened first


class Guard:
    """Middleware that refuses every request but those of the page itself.

    Args:
        app: what answers the others.
        token: the secret in the address that is printed; a cookie holds it afterwards.
        hosts: names of this server, as HOST:PORT. A page that reaches it under another name (DNS rebinding) is refused.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: list[str]) -> None:
        self.app, self.token, self.hosts = app, token, hosts
        self.cookie = f"dinolab_{hosts[0].rpartition(':')[2]}"  # cookies do not tell ports apart

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self.answer(Request(scope))
        await (answer or self.app)(scope, receive, send_guarded)

    def answer(self, request: Request) -> Response | None:
        """A refusal or the redirection after the first request; None for a request that may pass."""
        headers = Headers(scope=request.scope)
        if headers.get("host", "") not in self.hosts:
            return refusal(421, "this server has another name; open the address that it has printed")
        if self.is_token(request.query_params.get(TOKEN, "")):
            return self.let_in(request)
        if not self.is_token(request.cookies.get(self.cookie, "")):
            return refusal(403, "open the address with the token that the server has printed")
        if request.method not in ("GET", "HEAD") and headers.get("origin", "") not in self.origins:
            return refusal(403, "this request comes from another page")
        return None

    @property
    def origins(self) -> list[str]:
        return [f"http://{host}" for host in self.hosts]

    def is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.token.encode())

    def let_in(self, request: Request) -> Response:
        """Set the cookie, and send the browser to the same address without the token."""
        rest = urlencode([pair for pair in parse_qsl(request.url.query) if pair[0] != TOKEN])
        path = "/" + request.scope["path"].lstrip("/\\")  # "//elsewhere" would lead to another server
        answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
        return answer


def refusal(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status)

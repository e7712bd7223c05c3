"""An OpenID provider on a port of this machine: discovery, authorization codes, signed id tokens, user information.

What it says about the person, and what it does wrong, is set by attributes between two sign-ins.
"""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID, CLIENT_SECRET = "ballast", "a client secret"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
STRANGERS_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class OpenIDProvider:
    """Start it with `with`; `issuer` is its address."""

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {"sub": "u-1", "email": "ada@ballast.example", "email_verified": True}
        self.userinfo: dict[str, Any] | None = None  # as the claims, unless told otherwise
        self.token_changes: dict[str, Any] = {}
        self.config_changes: dict[str, Any] = {}
        self.key = KEY
        self.gives_id_token = True
        self.asked: list[dict[str, str]] = []
        self._codes: dict[str, dict[str, str]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._get(self)

            def do_POST(self) -> None:
                provider._post(self)

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "OpenIDProvider":
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/.well-known/openid-configuration":
            _answer(
                handler,
                {
                    "issuer": self.issuer,
                    "authorization_endpoint": f"{self.issuer}/authorize",
                    "token_endpoint": f"{self.issuer}/token",
                    "userinfo_endpoint": f"{self.issuer}/userinfo",
                    "jwks_uri": f"{self.issuer}/keys",
                    "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                    **self.config_changes,
                },
            )
        elif url.path == "/authorize":
            self.asked.append(query)
            code = f"code-{len(self.asked)}"
            self._codes[code] = query
            handler.send_response(302)
            handler.send_header(
                "Location", f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
            )
            handler.end_headers()
        elif url.path == "/keys":
            key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
            _answer(handler, {"keys": [{**key, "kid": "k1", "use": "sig", "alg": "RS256"}]})
        elif url.path == "/userinfo":
            assert handler.headers["Authorization"] == "Bearer access-1"
            _answer(handler, self.claims if self.userinfo is None else self.userinfo)
        else:
            _answer(handler, {}, status=404)

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        expected = "Basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        asked = self._codes.pop(form.get("code", ""), None)
        if handler.headers["Authorization"] != expected or asked is None or not _proves(form, asked):
            _answer(handler, {"error": "invalid_grant"}, status=400)
            return
        now = int(time.time())
        token = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": asked.get("nonce"),
            **self.claims,
            **self.token_changes,
        }
        answer = {"access_token": "access-1", "token_type": "Bearer", "expires_in": 300}
        if self.gives_id_token:
            answer["id_token"] = jwt.encode(token, self.key, algorithm="RS256", headers={"kid": "k1"})
        _answer(handler, answer)


def _proves(form: dict[str, str], asked: dict[str, str]) -> bool:
    """PKCE: whoever spends the code is who asked for it."""
    digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
    return asked.get("code_challenge") == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _answer(handler: BaseHTTPRequestHandler, body: dict[str, Any], *, status: int = 200) -> None:
    content = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)

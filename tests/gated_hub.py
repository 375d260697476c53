"""A model hub on this machine whose models need a token: what is asked for with which token, and gated models without a network."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REFUSED = "ads/refused"
"""A gated model whose licence nobody accepted."""


class GatedHub:
    """Serves the files of `models` (name -> folder) to those who send `token`; `.url` is for HF_ENDPOINT, `.sent` what came in.

    `sent` holds (path, Authorization header or None). Use it in a `with` block.
    """

    def __init__(self, token: str, models: dict[str, Path] | None = None):
        self.token, self.models, self.sent = token, models or {}, []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> GatedHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: GatedHub

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *_arguments):
        pass

    def _answer(self, body: bool) -> None:
        authorization = self.headers.get("Authorization")
        self.hub.sent.append((self.path, authorization))
        name = next((name for name in (*self.hub.models, REFUSED) if f"/{name}/" in f"{self.path}/"), None)
        if name is None:
            return self._refuse(404, "RepoNotFound")
        if name == REFUSED or authorization != f"Bearer {self.hub.token}":
            return self._refuse(403 if authorization else 401, "GatedRepo")
        file = self.hub.models[name] / self.path.split("?")[0].rpartition("/")[2]
        if "/resolve/" not in self.path or not file.is_file():
            return self._refuse(404, "EntryNotFound")
        content = file.read_bytes()
        self.send_response(200)
        for key, value in {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": "1" * 40}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"Access to this model is restricted ({code}).")
        self.send_header("Content-Length", "0")
        self.end_headers()

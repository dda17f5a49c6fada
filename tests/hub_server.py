"""A Hugging Face hub on this machine, over HTTP: repositories are folders, revisions are one commit, uploads go by LFS."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class Hub(BaseHTTPRequestHandler):
    def __init__(self, repos, served, faults, *args):
        self.repos, self.served, self.faults = repos, served, faults
        super().__init__(*args)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[:1] == ["api"]
        parts = parts[1:] if api else parts
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        name, rest = "/".join(parts[:2]), parts[2:]
        folder = self.repos.get((kind, name))
        if name == "whoami-v2":
            self.answer_json({"name": "me", "type": "user"})
        elif folder is None:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif api and rest[:1] == ["tree"]:
            self.answer_json(
                [
                    {"type": "file", "path": str(p.relative_to(folder)), "size": p.stat().st_size, "oid": etag(p)}
                    for p in sorted(folder.rglob("*"))
                    if p.is_file()
                ]
            )
        elif api:
            self.answer_json({"id": name, "sha": COMMIT, "siblings": []})
        else:  # …/resolve/COMMIT/FILE
            self.answer_file(folder / "/".join(rest[2:]))

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self.chunks()
        name = "/".join(path.removeprefix("/api/models").removesuffix(".git/info/lfs/objects/batch").split("/")[1:3])
        folder = self.repos.get(("models", name))
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.answer_json({"url": f"{self.here}/{asked['organization']}/{asked['name']}"})
        elif path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            mode = {True: "lfs", False: "regular"}
            self.answer_json(
                {
                    "files": [
                        {"path": file, "uploadMode": mode[file.endswith(".safetensors")], "shouldIgnore": False}
                        for file in files
                    ]
                }
            )
        elif path.endswith("/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            self.answer_json({"transfer": "basic", "objects": [self.object(folder, one) for one in wanted]})
        else:  # …/commit/main: a line of JSON for each file
            for line in map(json.loads, body.splitlines()):
                file = line["value"]
                if line["key"] == "file":
                    (folder / file["path"]).write_bytes(base64.b64decode(file["content"]))
                elif line["key"] == "lfsFile":
                    (folder / file["path"]).write_bytes((folder / ".lfs" / file["oid"]).read_bytes())
            self.answer_json({"commitUrl": f"{self.here}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_PUT(self):
        name, oid = self.path.strip("/").rsplit("/", 1)
        data = self.rfile.read(int(self.headers["Content-Length"]))
        kept = self.repos["models", name] / ".lfs" / oid
        stall = self.faults.get("stall")
        if stall and not stall.places.acquire(blocking=False):
            stall.over.wait(60)
            return
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(data)
        self.served.append((oid, len(data)))
        self.answer(200, b"", {})

    @property
    def here(self):
        return f"http://{self.headers['Host']}"

    def object(self, folder, asked):
        """What LFS says of an object: nothing to do where it is there."""
        name = next(name for (_, name), place in self.repos.items() if place == folder)
        there = (folder / ".lfs" / asked["oid"]).is_file()
        return asked | ({} if there else {"actions": {"upload": {"href": f"{self.here}/{name}/{asked['oid']}"}}})

    def chunks(self):
        """A body that is sent in chunks."""
        body = b""
        while "chunked" in self.headers.get("Transfer-Encoding", "") and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def answer_json(self, content):
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def answer_file(self, path):
        if not path.is_file():
            return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        data, status, headers = path.read_bytes(), 200, {}
        wanted = self.headers.get("Range")
        if wanted and self.command == "GET" and "no ranges" not in self.faults:
            first, last = wanted.removeprefix("bytes=").split("-")
            size, data = len(data), data[int(first) : int(last or len(data)) + 1]
            status, headers = 206, {"Content-Range": f"bytes {first}-{int(first) + len(data) - 1}/{size}"}
            fault = next(self.faults.get(path.name, iter(())), None)
            if fault == "busy":
                return self.answer(503, b"", {"Retry-After": "0"})
            if fault == "drop":
                self.served.append((path.name, len(data) // 2))
                return self.answer(206, data, headers, len(data) // 2)
        if self.command == "GET":
            self.served.append((path.name, len(data)))
        headers |= {"ETag": f'"{etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        return self.answer(status, data, headers)

    def answer(self, status, data, headers, sent=None):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(data)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:sent])  # where that is not all, the connection ends early

    def log_message(self, *_):
        pass


def etag(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serving(repos, faults=None):
    """The hub's address and, of every file that was fetched or sent, its name (sent: its SHA-256) and how many bytes.

    repos: (kind, name) → folder. faults: `no ranges`, or file name → what goes wrong with each range in turn, as an iterator of
    `busy`, `drop` (half of it is sent) and None; or `stall`: whoever
    sends an object more than there are `places` waits until `over`.
    """
    served = []
    repos = {k: Path(v) for k, v in repos.items()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, repos, served, {} if faults is None else faults))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", served
    finally:
        server.shutdown()
        server.server_close()

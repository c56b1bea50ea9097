"""A registry of images on this host's loopback, without a certificate."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["Registry", "registry"]

_PATIENCE_S = 20


class Registry:
    """`place` is its host and port, as references begin."""

    def __init__(self, folder: Path, port: int) -> None:
        self.place = f"127.0.0.1:{port}"
        self._folder = folder

    def push(self, archive: Path, name: str, *options: str) -> str:
        """Have the image of an OCI archive under a name; returns the digest of its manifest."""
        told = self._folder / "digest"
        words = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", f"--digestfile={told}"]
        target = f"docker://{self.place}/{name}"
        subprocess.run(["skopeo", *words, *options, f"oci-archive:{archive}", target], check=True)
        return told.read_text()

    def put(self, name: str, tag: str, kind: str, document: bytes) -> None:
        """Have a manifest or an index as it is."""
        url = f"http://{self.place}/v2/{name}/manifests/{tag}"
        request = urllib.request.Request(url, document, {"Content-Type": kind}, method="PUT")
        with urllib.request.urlopen(request, timeout=_PATIENCE_S):
            pass

    @property
    def requests(self) -> int:
        """How many it has answered."""
        return (self._folder / "log").read_text().count('"http.request.uri"') + (
            (self._folder / "log").read_text().count("HTTP/1.1")
        )


@contextmanager
def registry(folder: Path) -> Generator[Registry]:
    """One that keeps what it has in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        give_up = time.monotonic() + _PATIENCE_S
        while server.poll() is None and time.monotonic() < give_up:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1):
                break
            time.sleep(0.05)
        yield Registry(folder, port)
    finally:
        server.kill()
        server.wait()

"""Servers that the tests start and stop: PostgreSQL, MLflow on a database, a proxy between MLflow and its clients."""

from __future__ import annotations

import http.client
import http.server
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Postgres:
    """A PostgreSQL server with an empty database. It refuses to run as root; its package makes a user for that."""

    def __init__(self):
        initdb = shutil.which("initdb") or max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
        if initdb is None:
            message = (
                "PostgreSQL is not installed (initdb not found); on Debian and Ubuntu `make postgresql` installs it"
            )
            pytest.fail(message) if "MOLVAE_TEST_POSTGRESQL" in os.environ else pytest.skip(message)
        self.programs, self.folder = Path(initdb).parent, Path(tempfile.mkdtemp(prefix="postgres"))
        self.user = {}
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            self.user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        password, self.port = secrets.token_hex(), find_free_port()
        self.uri = f"postgresql://mlflow:{password}@127.0.0.1:{self.port}/postgres"
        (self.folder / "password").write_text(password)
        access = ("--username=mlflow", f"--pwfile={self.folder}/password", "--auth=scram-sha-256")
        self._run("initdb", *access, "--no-sync")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, check=True, timeout=60, cwd=self.folder, stdout=subprocess.DEVNULL, **self.user)

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "-w", "-l", f"{self.folder}/log", "-o", f"{options} -c fsync=off", "start")

    def stop(self) -> None:
        """Stop at once, also in the middle of a call, as after kill -9."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)


def has_answer(url: str) -> bool:
    """Check whether anything answers at an address."""
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


class Server:
    """`mlflow server` in a process group of its own, always at the same address; files go to a folder of its own."""

    def __init__(self, folder: Path, store: str):
        self.folder, self.store, self.port = folder, store, find_free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self.store, "--artifacts-destination", f"{self.folder}/files"]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        for _ in range(120):
            if has_answer(f"{self.uri}/health"):
                return
            time.sleep(0.5)
        self.stop()
        pytest.fail(f"the server did not answer within 60 s:\n{(self.folder / 'server.log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Stop at once, as after kill -9."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class LossyProxy(http.server.ThreadingHTTPServer):
    """Passes every call on to a server, and drops the answer to the first call of each kind that changes data."""

    def __init__(self, server: Server):
        super().__init__(("127.0.0.1", 0), _LossyProxyHandler)
        self.target_port, self.dropped = server.port, set()
        self.uri = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class _LossyProxyHandler(http.server.BaseHTTPRequestHandler):
    def _pass_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target_port, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content, kind = answer.read(), self.path.partition("?")[0].removeprefix("/api/2.0/mlflow/")
        if self.command != "GET" and not kind.endswith("search") and kind not in self.server.dropped:
            self.server.dropped.add(kind)
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass

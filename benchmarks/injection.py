"""Secrets and hostile texts: are passwords written anywhere, and is any text taken for code, markup or a path?

A run of the test experiment has a data source behind a signature and a password, an MLflow server that is down and
tokens in its environment; then every file that it left is searched for them. Texts with HTML, shell, formulas, paths
and control characters go through names, settings, model cards, tables and the terminal.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import http.server
import io
import json
import logging
import os
import random
import sys
import tempfile
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pandas as pd
import pyarrow.parquet
from record import make_parser, write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/workflow"))
from servers import find_free_port
from workspace import EXPERIMENT, SETTINGS, TEST_DATA, Workspace, copy_checkout

from molvae.cli.console import print_frame
from molvae.commands.latent_space import read_table, write_table
from molvae.config import parse_config
from molvae.errors import ConfigError, MolvaeError
from molvae.report import render_report
from molvae.runtime.plain_text import INVISIBLE
from molvae.tracking import track_stage

Row = dict[str, Any]
SECRETS = {
    "password and token of MLFLOW_TRACKING_URI, server down": ("trk-Pa55/w0rd+X", "trk-t0ken=Y"),
    "signature and password of data.source": ("src-S1gn/ature+Z==", "src-Pa55:w0rd@V"),
    "tokens in the environment": ("env-mlflow-t0ken", "env-mlflow-Pa55", "env-aws-s3cret/K", "env-aws-t0ken+L"),
}
FORMULAS = ("=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", '=HYPERLINK("http://x","y")')
SHELL = (
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "a && touch pwned",
    "| touch pwned",
)
MARKUP = (
    "<script>document.title='pwned'</script>", "</script><img src=x onerror=alert(1)>", '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}", "{% raw %}", "javascript:alert(1)", "--><b>",
)  # fmt: skip
PATHS = ("../x", "../../etc/passwd", "/etc/passwd", "-x", "--help", "~", ".", "..", "a/b", "con", "x" * 300)
CONTROL = ("a\u202eb", "a\u2066b\u2069", "\u200fa", "a\x1b[2Jb", "a\x00b", "a\nb", "a\rb", "a\x9bb", "\u2028")
PLAIN = ("分子", "é", "a b", "%s%n", "{x}", "{wildcards.x}", "a'b", 'a"b', "a\\b", "#a", "*", "?")
HOSTILE = (*FORMULAS, *SHELL, *MARKUP, *PATHS, *CONTROL, *PLAIN)


class SignedFiles(http.server.SimpleHTTPRequestHandler):
    """Answers only calls with the signature and the password of `data.source`."""

    def do_GET(self) -> None:  # noqa: N802
        signature, password = SECRETS["signature and password of data.source"]
        login = f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}"
        if f"sig={quote(signature, safe='')}" not in self.path or self.headers.get("Authorization") != login:
            self.send_error(403)
            return
        content = TEST_DATA.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serve_signed_files() -> Iterator[str]:
    """Serve the test data; gives the address with its secrets."""
    signature, password = SECRETS["signature and password of data.source"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SignedFiles) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        login = f"me:{quote(password, safe='')}"
        yield f"http://{login}@127.0.0.1:{server.server_port}/molecules.csv?se=1&sig={quote(signature, safe='')}"
        server.shutdown()


def run_with_secrets(workspace: Workspace, is_quick: bool) -> str:
    """Run the workflow with all secrets, send its records to a database, and return all that was printed."""
    password, token = SECRETS["password and token of MLFLOW_TRACKING_URI, server down"]
    names = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    environment = dict(zip(names, SECRETS["tokens in the environment"], strict=True))
    environment["MLFLOW_TRACKING_USERNAME"] = "me"
    server = f"http://me:{quote(password, safe='')}@127.0.0.1:{find_free_port()}/?token={quote(token, safe='')}"
    with serve_signed_files() as source:
        settings = {**SETTINGS, "data": {"source": source}}
        arguments = ("--until", "featurize") if is_quick else ()
        dead = {"MLFLOW_TRACKING_URI": server, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        printed = workspace.run_snakemake(*arguments, settings=settings, **environment, **dead)
        assert "tracking failed, the stage continues" in printed
    (workspace.folder / "config.json").unlink()  # it holds the address, as the user wrote it
    dead_sync = workspace.run_molvae("track", "sync", ok=False, **environment, **dead)
    sync = workspace.run_molvae("track", "sync", MLFLOW_TRACKING_URI="results/mlflow.db", **environment)
    assert " 0 failed" in sync, sync
    return printed + dead_sync + sync


def list_forms(secret: str) -> set[bytes]:
    """List how a secret may stand in a file: as it is, quoted for a URL, in JSON, in base64 at any place."""
    texts = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    forms = {text.encode() for text in texts}
    for text in texts:
        for shift in range(3):
            code = base64.b64encode(b"x" * shift + text.encode())
            forms.add(code[2 * shift - shift // 2 + (shift > 0) : -4])
    return {form for form in forms if len(form) >= 8}


def search_secrets(folder: Path, printed: str) -> tuple[list[Row], int]:
    """Search all files that a run left, their names, the texts in parquet tables, and what was printed."""
    contents = {"what was printed": printed.encode()}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        contents[name] = name.encode()
        if path.is_file():
            contents[name] += path.read_bytes()
            if path.suffix == ".parquet":
                table = pyarrow.parquet.read_table(path)
                contents[name] += (str(table.schema) + str(table.to_pydict())).encode(errors="replace")
    rows = []
    for fault, secrets in SECRETS.items():
        found = {
            secret: [name for name, content in contents.items() if any(form in content for form in list_forms(secret))]
            for secret in secrets
        }
        for secret, names in found.items():
            if names:
                print(f"{secret} is in {', '.join(names)}")
        n_found = sum(map(bool, found.values()))
        outcomes = {"in no file": len(secrets) - n_found, "in a file": n_found}
        rows.append(make_row(fault, Counter(outcomes), wrong=("in a file",)))
    return rows, len(contents)


def try_store_addresses(folder: Path) -> Row:
    """Track a stage with addresses of MLflow that fail, each with a secret in another place."""
    secret = "hunter2"
    addresses = [
        f"http://me:{secret}@127.0.0.1:9", f"https://me:{secret}@127.0.0.1:9/x?token={secret}",
        f"http://127.0.0.1:9/?token={secret}#{secret}", f"postgresql://me:{secret}@127.0.0.1:9/db",
        f"postgresql://me:{secret}/x@127.0.0.1:9/db", f"postgresql://me@127.0.0.1:{secret}/db",
        f"mysql://me:{secret}@127.0.0.1:9/db", f"mssql+pyodbc://me:{secret}@h/db", f"other://me:{secret}@h/db",
        f"me:{secret}@127.0.0.1:9", f"http://[{secret}", f"http://127.0.0.1:{secret}", f"http://me:{secret}@",
        f"http://{secret}@127.0.0.1:9", f"http://me:a b{secret}@127.0.0.1:9/", f"sqlite://me:{secret}@x/y",
        f"s3://me:{secret}@b/x", f"http://me:{secret}%40x@127.0.0.1:9", f"postgresql://?password={secret}",
    ]  # fmt: skip
    outcomes: Counter[str] = Counter()
    for number, address in enumerate(addresses):
        experiment = folder / "stores" / str(number)
        with log_to_text() as text, set_environment(MLFLOW_TRACKING_URI=address, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
            try:
                with track_stage("train", experiment_dir=experiment, params={"epochs": 1}) as run:
                    run.log_metrics({"loss": 1.0})
                outcome = "a warning without the secret"
            except Exception as err:  # noqa: BLE001  # whatever ends a stage
                outcome = f"the stage ended: {type(err).__name__}"
        written = text.getvalue() + "".join(path.read_text() for path in experiment.rglob("*.json"))
        outcomes["secret written" if secret in written else outcome] += 1
    wrong = [name for name in outcomes if name != "a warning without the secret"]
    return make_row("MLflow addresses that fail, with a secret", outcomes, wrong=wrong)


def try_mlflow_names(folder: Path, names: Sequence[str]) -> Row:
    """Track a stage with hostile names of the MLflow experiment, of params, metrics and tags."""
    outcomes: Counter[str] = Counter()
    store, before = folder / "names" / "mlflow.db", set(folder.iterdir())
    for number, name in enumerate(names):
        settings = json.dumps({"uri": str(store), "experiment": name})
        with log_to_text() as text, set_environment(MOLVAE_TRACKING=settings):
            try:
                with track_stage("train", experiment_dir=folder / "names" / str(number), params={name: name}) as run:
                    run.log_metrics({name: 1.0})
                    run.set_tag(name, name)
                outcomes["a warning" if text.getvalue() else "a name in MLflow"] += 1
            except ConfigError:
                outcomes["refused"] += 1
            except Exception as err:  # noqa: BLE001  # whatever ends a stage
                outcomes[f"the stage ended: {type(err).__name__}"] += 1
    new = {path.name for path in folder.iterdir()} - {path.name for path in before} - {"names"}
    outcomes["a file elsewhere"] += len(new)
    wrong = [name for name in outcomes if name not in ("a warning", "a name in MLflow", "refused")]
    return make_row("MLflow experiments, params, metrics and tags", outcomes, tried=len(names), wrong=wrong)


def try_experiment_names() -> Row:
    """Give hostile names to experiments."""
    outcomes: Counter[str] = Counter()
    for name in HOSTILE:
        try:
            parse_config({"data": {"source": "x.csv"}, "experiments": {name: {}}})
            outcomes["accepted" if name in ("con", "é") else "accepted though hostile"] += 1
        except ConfigError as err:
            outcomes["control characters printed" if has_control(str(err)) else "refused"] += 1
    return make_row("names of experiments", outcomes, wrong=("accepted though hostile", "control characters printed"))


def try_sources(workspace: Workspace, texts: Sequence[str]) -> Row:
    """Run `fetch` on files and columns with hostile names, an experiment each."""
    outcomes: Counter[str] = Counter()
    names = [name for name in texts if "/" not in name and "\x00" not in name and len(name) < 200]
    experiments = {}
    for number, name in enumerate(names):
        settings = {"data": {"source": f"{name}.csv", "column": f"{name}-SMILES", "split_column": "SPLIT"}}
        try:
            parse_config({**settings, "experiments": {"a": {}}})
        except ConfigError:
            outcomes["refused"] += 1
            continue
        header = f'"{settings["data"]["column"].replace(chr(34), chr(34) * 2)}",SPLIT'
        (workspace.folder / f"{name}.csv").write_text(f"{header}\nCCO,train\nCCN,test\n", "utf-8")
        experiments[f"e{number}"] = settings
    settings = {**SETTINGS, "experiments": experiments}
    printed = workspace.run_snakemake("--until", "fetch", "--keep-going", settings=settings, ok=True)
    counts = [json.loads(path.read_text()) for path in workspace.folder.glob("results/datasets/*.json")]
    fetched = {(count["source"], count["column"]) for count in counts}
    expected = {(content["data"]["source"], content["data"]["column"]) for content in experiments.values()}
    outcomes["fetched by their names"] = len(fetched & expected)
    outcomes["not fetched"] = len(expected - fetched)
    outcomes["a command ran"] = len([path for path in workspace.folder.rglob("*") if path.name == "pwned"])
    outcomes["control characters printed"] = int(has_control(printed))
    wrong = ("not fetched", "a command ran", "control characters printed")
    return make_row("names of files and columns, through Snakemake and a shell", outcomes, wrong=wrong)


class Page(HTMLParser):
    """Counts the elements of a page that a text could bring in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements[tag] += tag in ("script", "img", "svg", "b", "iframe")
        self.elements["handler"] += sum(name.startswith("on") for name, _ in attributes)


def try_report(folder: Path, n: int) -> Row:
    """Put hostile texts at every place of the JSON files that the report reads."""
    outcomes: Counter[str] = Counter()
    dataset = next(iter(folder.parent.glob("datasets/*.json")))
    before = Page(render_report(folder, dataset, title="A title")).elements
    files = [dataset, *sorted(folder.rglob("*.json"))]
    files = [file for file in files if "tracking" not in file.parts and "vocabulary" not in file.name]
    places = [(file, path) for file in files for path in list_places(json.loads(file.read_text()))]
    random.Random(0).shuffle(places)
    for number, (file, path) in enumerate(places[:n]):
        text, original = "".join(random.Random(number).sample(HOSTILE, 6)), file.read_text()
        file.write_text(json.dumps(replace(json.loads(original), path, text)))
        try:
            page = render_report(folder, dataset, title=text)
            elements = Page(page).elements
            grown = {
                name for name in elements if elements[name] > before[name] and name in ("img", "iframe", "handler")
            }
            is_wrong = grown or elements["script"] > before["script"] or has_control(page)
            outcomes["markup in the page" if is_wrong else "shown as text"] += 1
        except MolvaeError:
            outcomes["refused"] += 1
        except Exception as err:  # noqa: BLE001  # a traceback
            outcomes[f"traceback: {type(err).__name__}"] += 1
        finally:
            file.write_text(original)
    wrong = [name for name in outcomes if name not in ("shown as text", "refused")]
    return make_row("texts in model cards, metrics and counts, in the report", outcomes, wrong=wrong)


def list_places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """List the places of a nested value; of long lists the first."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    if path:
        yield path
    for key, item in items:
        yield from list_places(item, (*path, key))


def replace(value: Any, path: tuple, text: str) -> Any:
    """Replace one place of a nested value."""
    content = copy.deepcopy(value)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = text
    return content


def try_tables(folder: Path, n: int) -> Row:
    """Write texts to CSV, look at the cells as a spreadsheet does, and read them again."""
    random_numbers = random.Random(0)
    starts = ("", "=", "+", "-", "@", "\t", "'", "''=", "'-", "C")
    texts = [
        random_numbers.choice(starts)
        + "".join(random_numbers.choices("=+-@'\" ,;C1\n\t|!", k=random_numbers.randint(1, 9)))
        for _ in range(n)
    ]
    texts = [text for text in texts if text.strip() and "\n" not in text] + [t for t in FORMULAS if "\r" not in t]
    write_table(pd.DataFrame({"n": range(len(texts)), "smiles": texts}), str(folder / "cells.csv"))
    cells = pd.read_csv(folder / "cells.csv", dtype={"smiles": str}, keep_default_na=False)
    is_formula = cells["smiles"].str.match(r"[=@\t\r]|[+-](?![\d.]+$)")
    read = read_table(folder / "cells.csv")["smiles"].astype(str)
    is_same = read.str.strip() == pd.Series(texts).str.strip()
    outcomes = Counter(
        {
            "text in a spreadsheet, and the same when read again": int((is_same & ~is_formula).sum()),
            "a formula": int(is_formula.sum()),
            "another text when read again": int((~is_same & ~is_formula).sum()),
        }
    )
    return make_row("cells of CSV tables", outcomes, wrong=("a formula", "another text when read again"))


def try_terminal() -> Row:
    """Print every control and direction-changing character in a table."""
    outcomes: Counter[str] = Counter()
    for char in filter(lambda char: unicodedata.category(char) in INVISIBLE - {"Cs"}, map(chr, range(sys.maxunicode))):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            print_frame(pd.DataFrame({"smiles": [f"C{char}O"]}))
        outcomes["printed as it is" if char in output.getvalue().replace("\n", "") else "shown by its number"] += 1
    return make_row("control and direction-changing characters in a terminal", outcomes, wrong=("printed as it is",))


def has_control(text: str) -> bool:
    """Whether a text holds a control or direction-changing character that is no layout."""
    return any(char in text for char in "\u202e\u2066\u2069\u200f\x1b\x00\x9b")


@contextlib.contextmanager
def log_to_text() -> Iterator[io.StringIO]:
    """Collect what is logged."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logger = logging.getLogger("molvae")
    logger.addHandler(handler)
    try:
        yield text
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def set_environment(**variables: str) -> Iterator[None]:
    """Set environment variables, and unset those of tracking that are not named."""
    before = os.environ.copy()
    for name in ("MLFLOW_TRACKING_URI", "MOLVAE_TRACKING"):
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def make_row(fault: str, outcomes: Counter[str], *, wrong: Any, tried: int | None = None) -> Row:
    """Make and print a row of the result; `wrong` names the outcomes that are."""
    counts = {name: count for name, count in outcomes.items() if count}
    row = {"fault": fault, "tried": sum(counts.values()) if tried is None else tried, "outcomes": counts, "lost": 0}
    row["wrong"] = sum(count for name, count in counts.items() if name in wrong)
    print(row, flush=True)
    return row


def main() -> None:
    parser = make_parser(__doc__)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="molvae-injection-") as name:
        root = Path(name)
        checkout = copy_checkout(root / "checkout")
        secret, hostile = Workspace(root / "secret", checkout), Workspace(root / "hostile", checkout)
        scratch = root / "scratch"
        for folder in (secret.folder, hostile.folder, scratch):
            folder.mkdir()
        printed = run_with_secrets(secret, arguments.quick)
        rows, n_files = search_secrets(secret.folder, printed)
        rows.append(try_store_addresses(scratch))
        rows.append(try_experiment_names())
        texts = HOSTILE[:: 8 if arguments.quick else 1]
        rows.append(try_sources(hostile, texts))
        rows.append(try_mlflow_names(scratch, texts))
        rows.append(try_report(secret.experiment, 5 if arguments.quick else 100))
        rows.append(try_tables(scratch, 1000 if arguments.quick else 20_000))
        rows.append(try_terminal())
    write_result(arguments.json, {"rows": rows, "files_searched": n_files, "experiment": EXPERIMENT})
    n_wrong = sum(row["lost"] + row["wrong"] for row in rows)
    print(f"{sum(row['tried'] for row in rows)} tried, {n_wrong} lost or wrong; {n_files} files were searched")
    if n_wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

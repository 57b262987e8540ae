"""Stage `fetch`: a data set from a path or a URL, checked and written as rows."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import shutil
import threading

import pyarrow.parquet
import pytest

from molvae.config import DataSettings
from molvae.data import moses, readers
from molvae.errors import DataError
from molvae.runtime.files import compute_sha256
from molvae.stages import fetch as stage
from molvae.stages.fetch import fetch

TEXT = "SMILES,SPLIT\nCCO,train\nC\xe9,test\nshort\n\nN,train\n".encode("latin-1")


@pytest.fixture
def server(tmp_path):
    """A web server on this machine.

    `.requests` are the paths asked for, `.authorizations` what came with them, `.cut` is where answers break off.
    """
    (tmp_path / "web" / "a").mkdir(parents=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            httpd.requests.append(self.path)
            httpd.authorizations.append(self.headers.get("Authorization"))
            super().do_GET()

        def copyfile(self, source, outputfile):
            outputfile.write(source.read()[: httpd.cut])

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=tmp_path / "web")
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    httpd.requests, httpd.authorizations, httpd.cut, httpd.folder = [], [], None, tmp_path / "web"
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def read_rows(path):
    return pyarrow.parquet.read_table(path).to_pydict()


@pytest.mark.parametrize("name", ["SPLIT", "split", "Split"])
def test_fetch_takes_the_split_of_the_data_and_says_from_which_column(tmp_path, caplog, name):
    caplog.set_level("INFO")
    (tmp_path / "raw.csv").write_text(f"SMILES,{name},set\nCCO,Training,a\nN,TEST,b\n")
    counts = fetch(DataSettings(source=str(tmp_path / "raw.csv")), tmp_path / "set.parquet")
    assert counts["splits"] == {"train": 1, "test": 1}
    path = tmp_path / "raw.csv"
    assert caplog.messages == [
        f"{path}: a table of 3 columns, separated by ','",
        f"{path}: the split is that of column {name}",
    ]


@pytest.mark.parametrize(
    ("name", "is_warned"),
    [("set", True), ("Partition", True), ("scaffold_split", True), ("is_train", True), ("weight", False)],
)
def test_fetch_warns_of_a_column_that_looks_like_the_split_and_is_not_taken(tmp_path, caplog, name, is_warned):
    (tmp_path / "raw.csv").write_text(f"SMILES,{name}\nCCO,train\nN,test\n")
    assert fetch(DataSettings(source=str(tmp_path / "raw.csv")), tmp_path / "set.parquet")["splits"] == {}
    assert [f"set data.split_column: {name}" in message for message in caplog.messages] == [True] * is_warned


def test_fetch_normalises_split_names_and_warns_of_those_that_it_does_not_know(tmp_path, caplog):
    names = ["Train", "Test set", "validation_set", "NA", "nan", "trian", "dev", "N/A", ""]
    (tmp_path / "raw.csv").write_text("SMILES,split\n" + "\n".join(f"{'C' * (k + 1)},{n}" for k, n in enumerate(names)))
    counts = fetch(DataSettings(source=str(tmp_path / "raw.csv")), tmp_path / "set.parquet")
    assert counts["splits"] == {"train": 1, "test": 1, "valid": 2, "trian": 1}
    assert "the splits 'trian' (1) are neither trained on nor tested" in caplog.text


def test_column_of_names_of_molecules_is_refused_as_the_split(tmp_path):
    rows = [f"C,molecule {k}" for k in range(1001)]
    (tmp_path / "raw.csv").write_text("\n".join(["SMILES,split", *rows]))
    with pytest.raises(DataError, match="more than 1000 different names.* data.split_column"):
        fetch(DataSettings(source=str(tmp_path / "raw.csv")), tmp_path / "set.parquet")


def test_fetch_keeps_the_splits_of_molecules_that_featurize_wrote(tmp_path):
    table = {"row": [1, 2, 3], "smiles": ["CCO", "N", "C"], "split": ["train", "valid", "test"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "molecules.parquet")
    settings = DataSettings(source=str(tmp_path / "molecules.parquet"), column="smiles")
    assert fetch(settings, tmp_path / "set.parquet")["splits"] == {"train": 1, "valid": 1, "test": 1}


def test_every_record_of_a_source_becomes_a_numbered_row_and_is_counted(tmp_path):
    (tmp_path / "raw.csv").write_bytes(TEXT)
    counts = fetch(DataSettings(source=str(tmp_path / "raw.csv")), tmp_path / "data" / "set.parquet")
    assert read_rows(tmp_path / "data" / "set.parquet") == {
        "row": [1, 2, 3, 4, 5],
        "smiles": ["CCO", "C\\xe9", "short", "", "N"],
        "split": ["train", None, None, None, "train"],
        "problem": [None, "not_utf8", "too_few_columns", None, None],
    }
    assert counts == json.loads((tmp_path / "data" / "set.json").read_text())
    assert (counts["rows_in"], counts["kept"], counts["rejected"]) == (5, 5, {})
    assert counts["splits"] == {"train": 2}
    assert counts["sha256"] == compute_sha256(tmp_path / "raw.csv")
    assert counts["dataset"] == "set" and counts["source"] == str(tmp_path / "raw.csv")


def test_rows_are_numbered_across_row_groups_and_none_is_lost_between_two_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "ROW_GROUP", 10)
    monkeypatch.setattr(stage, "ROW_GROUP", 10)
    for count in (1, 9, 10, 11, 20):
        (tmp_path / "raw.smi").write_text("".join(f"{'C' * n}\n" for n in range(1, count + 1)))
        fetch(DataSettings(source=str(tmp_path / "raw.smi")), tmp_path / "set.parquet")
        table = read_rows(tmp_path / "set.parquet")
        assert table["row"] == list(range(1, count + 1))
        assert [len(smiles) for smiles in table["smiles"]] == table["row"]


def test_a_source_with_another_checksum_is_an_error_with_both_sums_and_writes_nothing(tmp_path):
    (tmp_path / "raw.csv").write_bytes(TEXT)
    checksum = compute_sha256(tmp_path / "raw.csv")
    fetch(DataSettings(source=str(tmp_path / "raw.csv"), sha256=checksum), tmp_path / "good.parquet")
    with pytest.raises(DataError, match=rf"raw\.csv: its SHA-256 is {checksum}, data\.sha256 asks for {'0' * 64}"):
        fetch(DataSettings(source=str(tmp_path / "raw.csv"), sha256="0" * 64), tmp_path / "bad.parquet")
    assert not list(tmp_path.glob("bad*"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [("nowhere.csv", "no such file. Check the path"), ("folder.csv", "a folder, a pipe or a device. Give a file")],
)
def test_a_source_that_is_no_file_is_an_error_that_names_it(tmp_path, source, reason):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=rf"{source}: {reason}"):
        fetch(DataSettings(source=str(tmp_path / source)), tmp_path / "set.parquet")


def test_a_source_with_a_damaged_row_leaves_no_partial_file(tmp_path):
    (tmp_path / "raw.csv").write_text('SMILES\n"C"\n"N"\n"O\n')
    with pytest.raises(DataError, match="row 3"):
        fetch(DataSettings(source=str(tmp_path / "raw.csv")), tmp_path / "set.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["raw.csv"]


def test_a_source_at_a_url_is_downloaded_once_and_kept(tmp_path, server):
    (server.folder / "raw.csv.gz").write_bytes(gzip.compress(TEXT))
    settings = DataSettings(source=f"{server.url}/raw.csv.gz?version=1")
    counts = [fetch(settings, tmp_path / "results" / "set.parquet") for _ in range(2)]
    assert counts[0] == counts[1]
    assert counts[0]["rows"] == 5 and counts[0]["source"].startswith(f"{server.url}/raw.csv.gz?***")
    assert server.requests == ["/raw.csv.gz?version=1"]
    assert len(list((tmp_path / "results" / "downloads").iterdir())) == 1


def test_a_signed_url_is_downloaded_once_and_written_nowhere(tmp_path, server, caplog):
    caplog.set_level("DEBUG")
    (server.folder / "raw.csv").write_bytes(TEXT)
    for signature in ("secret1", "secret2"):  # renewed
        source = f"{server.url.replace('//', '//me:pass%2Fword@')}/raw.csv?se=1&sig={signature}"
        counts = fetch(DataSettings(source=source), tmp_path / "results/set.parquet")
        assert counts["source"] == f"{server.url}/raw.csv?***"
    assert server.requests == ["/raw.csv?se=1&sig=secret1"]
    assert server.authorizations == ["Basic bWU6cGFzcy93b3Jk"]
    written = b"".join(path.read_bytes() + path.name.encode() for path in tmp_path.glob("results/**/*.*"))
    assert b"secret" not in written and b"word" not in written and "secret" not in caplog.text


@pytest.mark.parametrize(
    "address",
    ["{}/nowhere.csv?sig=secret", "http://127.0.0.1:9/a b.csv?sig=secret c", "http://me:secret@127.0.0.1:9/a.csv"],
)
def test_a_signed_url_without_an_answer_is_an_error_without_the_signature(tmp_path, server, address):
    with pytest.raises(DataError, match="cannot be downloaded") as caught:
        fetch(DataSettings(source=address.format(server.url)), tmp_path / "set.parquet")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_the_whole_address_of_one_without_its_signature_comes_from_the_environment(tmp_path, server, monkeypatch):
    (server.folder / "raw.csv").write_bytes(TEXT)
    public, whole = f"{server.url}/raw.csv?***", f"{server.url}/raw.csv?sig=secret"
    with pytest.raises(DataError, match="lacks its secret part"):
        fetch(DataSettings(source=public), tmp_path / "set.parquet")
    monkeypatch.setenv("MOLVAE_ADDRESSES", json.dumps({public: whole}))
    assert fetch(DataSettings(source=public), tmp_path / "set.parquet")["source"] == public
    assert server.requests == ["/raw.csv?sig=secret"]


def test_two_urls_that_end_in_the_same_name_are_two_downloads(tmp_path, server):
    (server.folder / "raw.smi").write_text("C\n")
    (server.folder / "a" / "raw.smi").write_text("N\n")
    for place in ("", "/a"):
        fetch(DataSettings(source=f"{server.url}{place}/raw.smi"), tmp_path / "set.parquet")
        assert read_rows(tmp_path / "set.parquet")["smiles"] == [{"": "C", "/a": "N"}[place]]


def test_a_kept_download_with_another_checksum_than_asked_for_is_downloaded_again(tmp_path, server):
    (server.folder / "raw.smi").write_text("C\n")
    source = f"{server.url}/raw.smi"
    fetch(DataSettings(source=source), tmp_path / "set.parquet")
    (server.folder / "raw.smi").write_text("CC\n")
    fetch(DataSettings(source=source), tmp_path / "set.parquet")
    assert read_rows(tmp_path / "set.parquet")["smiles"] == ["C"]
    fetch(DataSettings(source=source, sha256=compute_sha256(server.folder / "raw.smi")), tmp_path / "set.parquet")
    assert read_rows(tmp_path / "set.parquet")["smiles"] == ["CC"]


@pytest.mark.parametrize("name", ["raw.csv.gz", "raw.parquet"])
def test_a_download_of_another_format_than_its_name_says_is_deleted(tmp_path, server, name):
    (server.folder / name).write_text("<html>Please log in</html>")
    with pytest.raises(DataError, match="what was downloaded cannot be read, and was deleted"):
        fetch(DataSettings(source=f"{server.url}/{name}"), tmp_path / "set.parquet")
    assert not list(tmp_path.glob("downloads/*"))


def test_a_download_that_breaks_off_is_an_error_and_is_not_kept(tmp_path, server):
    (server.folder / "raw.smi").write_text("CCO\n" * 100)
    server.cut = 150
    with pytest.raises(DataError, match=r"raw\.smi: cannot be downloaded \(.*250 bytes.*Download it by hand"):
        fetch(DataSettings(source=f"{server.url}/raw.smi"), tmp_path / "set.parquet")
    assert not list(tmp_path.glob("downloads/*"))


def test_a_download_that_is_no_table_is_deleted_and_its_url_named(tmp_path, server):
    page = server.folder / "raw.csv"
    page.write_text("<html>Please log in</html>")
    source = f"{server.url}/raw.csv"
    with pytest.raises(DataError, match=rf"{source}: what was downloaded cannot be read, and was deleted: .*html"):
        fetch(DataSettings(source=source), tmp_path / "set.parquet")
    with pytest.raises(DataError, match="no column 'SMILES'"):  # with the checksum that was asked for it is kept
        fetch(DataSettings(source=source, sha256=compute_sha256(page)), tmp_path / "set.parquet")
    assert len(list(tmp_path.glob("downloads/*"))) == 1
    shutil.rmtree(tmp_path / "downloads")
    page.write_text("SMILES\nCCO\n")
    fetch(DataSettings(source=source), tmp_path / "set.parquet")
    assert read_rows(tmp_path / "set.parquet")["smiles"] == ["CCO"]


def test_the_suffix_of_a_download_may_stand_in_any_part_of_its_url(tmp_path, server):
    (server.folder / "a" / "raw.smi").mkdir()
    (server.folder / "a" / "raw.smi" / "content").write_text("CCO\n")
    fetch(DataSettings(source=f"{server.url}/a/raw.smi/content"), tmp_path / "set.parquet")
    assert read_rows(tmp_path / "set.parquet")["smiles"] == ["CCO"]
    with pytest.raises(DataError, match=r"no part of this address ends in \.smi, \.smiles.*Download it by hand"):
        fetch(DataSettings(source=f"{server.url}/a/raw"), tmp_path / "set.parquet")


def test_the_usual_names_of_splits_are_read_as_train_valid_and_test(tmp_path):
    names = ["Train", "training", "val", "VALIDATION", "Dev", "testing", "TEST", "test_scaffolds", ""]
    (tmp_path / "raw.csv").write_text("\n".join(["SMILES,SPLIT", *(f"C,{name}" for name in names)]) + "\n")
    counts = fetch(DataSettings(source=str(tmp_path / "raw.csv")), tmp_path / "set.parquet")
    expected = [*["train"] * 2, *["valid"] * 3, *["test"] * 2, "test_scaffolds", ""]
    assert read_rows(tmp_path / "set.parquet")["split"] == expected
    assert counts["splits"] == {"train": 2, "valid": 3, "test": 2, "test_scaffolds": 1}


def test_a_url_without_an_answer_is_an_error_that_says_what_to_do(tmp_path, server):
    for source in (f"{server.url}/nowhere.csv", "http://127.0.0.1:9/raw.csv", "http://127.0.0.1:9/a b.csv"):
        with pytest.raises(DataError, match="cannot be downloaded .*Download it by hand and set data.source"):
            fetch(DataSettings(source=source), tmp_path / "set.parquet")


def test_a_moses_wheel_that_is_missing_or_has_another_checksum_is_refused(tmp_path, monkeypatch):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "molsets-0.3.1-py3-none-any.whl").write_bytes(b"other")

    def run_without_network(*_, **__):
        return type("Run", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(moses.subprocess, "run", run_without_network)
    with pytest.raises(DataError, match=r"molsets-0\.3\.1.*SHA-256 is .*Delete it and fetch again"):
        fetch(DataSettings(source="moses"), tmp_path / "set.parquet")
    (tmp_path / "downloads" / "molsets-0.3.1-py3-none-any.whl").unlink()
    with pytest.raises(DataError, match="pip could not download"):
        fetch(DataSettings(source="moses"), tmp_path / "set.parquet")

"""The report page: its content, bad input, and that it loads nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from molvae.chemistry.descriptor_table import CHARTED_DESCRIPTORS
from molvae.chemistry.drawing import TOOLTIP_END, TOOLTIP_START, draw_svg, draw_tooltip_svg
from molvae.errors import DataError
from molvae.report import charts, render_report, summary
from molvae.report.formatting import escape_text, format_duration, format_number
from molvae.report.loader import load_experiment
from molvae.report.molecules import list_flags, select_first_unique, select_least_plausible

SMILES = (
    "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "CC(=O)Nc1ccc(O)cc1",
    "COc1ccc2cc(C(C)C(=O)O)ccc2c1", "CN1CCCC1c1cccnc1", "O=C(O)c1cccnc1", "NC(=O)c1cnccn1",
    "CCN(CC)CCOC(=O)c1ccc(N)cc1",
    "CC(C)NCC(O)COc1cccc2ccccc12", "Clc1ccc(C2CCNCC2)cc1", "O=S(=O)(Nc1ccccn1)c1ccccc1", "FC(F)(F)c1ccccc1N1CCOCC1",
    "Cc1ccc(S(N)(=O)=O)cc1", "O=C1CCCN1", "c1ccc2[nH]ccc2c1", "CCOC(=O)c1ccccc1", "N#Cc1ccccc1", "CC1CCCCC1O", "CCCCO",
    "CSc1ccccc1", "Brc1ccccn1", "O=C(Nc1ccccc1)C1CC1", "CN(C)c1ccccc1", "OCCN1CCNCC1", "c1ccsc1", "c1ccoc1", "CC#N",
)  # fmt: skip
METRIC = {
    "name": "FCD/Test", "value": 9.3, "n": 10000, "better": "lower", "reference": "MOSES test, 176074 molecules",
    "implementation": "fcd_torch ChemNet 1.0.7", "description": "Fréchet ChemNet distance",
    "baselines": {"random_baseline": 43.1, "shuffled_baseline": 45.0, "aggregate_posterior": 7.2,
                  "training_set_reference": 0.1},
}  # fmt: skip


def make_molecules(count: int = 60) -> pd.DataFrame:
    """Samples as `validate` writes them: every fifth repeats an earlier one, each tenth is invalid."""
    index = np.arange(count)
    valid, first = index % 10 != 9, (index % 5 != 4) & (index < len(SMILES))
    smiles = [SMILES[i % len(SMILES)] for i in index]
    return pd.DataFrame(
        {"index": index, "smiles": smiles, "canonical": smiles, "log_probability": -20.0 - index % 7, "n_tokens": 20,
         "is_valid": valid, "reason": np.where(valid, None, "unparsable"), "is_first": first, "is_novel": index % 3 > 0,
         "token_survival": 0.9, "mw": 150.0 + index, "logp": index / 30, "qed": 0.5, "sa": 2 + index / 60,
         "tpsa": 40.0, "rings": index % 4, "largest_ring": 6, "heavy_atoms": 10 + index % 9,
         "radical_electrons": 0, "charge": 0,
         "alerts": "", "structural_flags": "", "passes_filters": True}
    )  # fmt: skip


def make_history(epochs: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    loss = 20 + 50 / epoch
    return pd.DataFrame(
        {"epoch": epoch, "step": 39 * epoch, "seconds": 30.0 * epoch, "molecules_per_s": 650.0, "kl_weight": 0.1,
         "learning_rate": 1e-3, "train_loss_nats": loss, "train_reconstruction_nats": loss - 1, "train_kl_nats": 9.0,
         "valid_loss_nats": loss + 9, "valid_reconstruction_nats": loss, "valid_kl_nats": 9.0,
         "valid_token_accuracy": 0.7, "valid_free_token_accuracy": 0.4, "valid_exact_reconstruction": 0.031,
         "active_units": 60, "mutual_information_nats": 5.5}
    )  # fmt: skip


def make_dimensions(epochs: int) -> pd.DataFrame:
    """KL of 128 latent dimensions, of which half are in use."""
    rows = [(epoch, d, 0.2 * epoch if d % 2 else 0.0) for epoch in range(1, epochs + 1) for d in range(128)]
    return pd.DataFrame(rows, columns=["epoch", "dimension", "kl_nats"])


class ExperimentFolder:
    """An experiment on disk that a test changes before it renders."""

    def __init__(self, root: Path) -> None:
        self.path, self.dataset = root / "example", root / "counts.json"
        counts = {"rows_in": 22000, "kept": 21900, "rejected": {"unparsable": 60, "too_long": 3}, "duplicates": 37}
        complete = {"rows_in": 60, "kept": 60, "rejected": {}, "duplicates": 0}
        dataset = {
            "dataset": "moses-22k", "source": "molsets 0.3.1", "sha256": "7f" * 32, "rows": 22000, "column": "SMILES",
            "splits": {"train": 20000, "test": 2000},
        }  # fmt: skip
        self.write_json(self.dataset, dataset)
        tokens = {
            "vocabulary_size": 29, "mean_tokens": 34.4, "splits": {"train": 17700, "valid": 2200, "test": 2000},
            "unknown_symbols": {"[P]": 2},
        }  # fmt: skip
        self.write_json("tokens/counts.json", {"stage": "featurize", **counts, **tokens})
        for stage, name in (("train", "model"), ("sample", "samples"), ("validate", "validation")):
            self.write_json(f"{name}/counts.json", {"stage": stage, **complete})
        self.model = {
            "format_version": 3,
            "settings": {"data": {}, "featurize": {}, "model": {"latent_dim": 128}, "train": {"seed": 0}},
            "versions": {"molvae": "0.1.0", "torch": "2.9.0"},
            "provenance": {"id": "a3f9" * 16, "dataset_sha256": "0b" * 32, "tokens_sha256": "77" * 32,
                        "git_commit": "3f2e1d0c+", "code": "9ad3"},
            "training": {"epochs_run": 9, "best_epoch": 8, "stopped": "epochs", "seconds": 270.1, "device": "cpu",
                         "parameters": 812345},
            "metrics": {},
        }  # fmt: skip
        self.write_json("model/model.json", self.model)
        self.write_metrics([METRIC])
        self.write_json("model/prior.json", {"format_version": 3, "settings": {"kind": "mixture"}})
        self.write_table("model/history.csv", make_history(9))
        self.write_table("model/dimensions.csv", make_dimensions(9))
        self.write_table("validation/molecules.parquet", make_molecules())
        self.write_table("validation/reference.parquet", make_molecules().drop(columns=["index", "is_valid", "reason"]))
        self.write_rejected("C1CC")

    def write_json(self, name: str | Path, content: dict) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), "utf-8")

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)

    def write_metrics(self, metrics: list[dict]) -> None:
        context = {"seed": 0, "temperature": 1.0, "n_samples": 10000, "versions": {"rdkit": "2026.9.1"}}
        self.write_json("validation/metrics.json", {"metrics": metrics, **context})

    def write_rejected(self, *texts: str) -> None:
        rows = [{"row": i + 1, "smiles": text, "reason": "unparsable", "detail": "no"} for i, text in enumerate(texts)]
        self.write_table("tokens/rejected.parquet", pd.DataFrame(rows, columns=["row", "smiles", "reason", "detail"]))

    def render_notes(self) -> str:
        """Warnings and key figures under the title, without the work of drawing the page."""
        experiment = load_experiment(self.path, self.dataset)
        return " ".join([*summary.write_warnings(experiment), *map(str, summary.build_tiles(experiment))])

    def render(self, title: str = "An experiment") -> str:
        return render_report(self.path, self.dataset, title=title)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of an experiment that has everything."""
    return ExperimentFolder(tmp_path_factory.mktemp("complete")).render()


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    return ExperimentFolder(tmp_path)


class Elements(HTMLParser):
    """The elements of a page with their attributes, scripts apart from the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag == "script" and self.cdata_elem == "script":
            self.scripts.append((attributes, data))
        elif tag != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def get_text(page: str) -> str:
    return Elements(page).text


def get_specs(page: str) -> list[dict]:
    return [json.loads(text) for attributes, text in Elements(page).scripts if attributes]


# --- the page as a file


def test_report_page_loads_nothing_from_the_network(page: str) -> None:
    elements = Elements(page).elements
    addresses = [attributes[name] for _, attributes in elements for name in ("src", "href") if name in attributes]
    assert all(address.startswith(("#", "data:")) for address in addresses)


def test_report_content_security_policy_allows_exactly_its_own_two_scripts(page: str) -> None:
    elements = Elements(page)
    policy = next(a["content"] for _, a in elements.elements if a.get("http-equiv") == "Content-Security-Policy")
    run = [text for attributes, text in elements.scripts if not attributes]
    hashes = [f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run]
    assert f"default-src 'none'; script-src {' '.join(hashes)}; " in policy
    assert len(run) == 2 and "unsafe-eval" not in policy


def test_report_of_the_same_files_is_the_same_and_of_moderate_size(page: str, folder: ExperimentFolder) -> None:
    assert page == folder.render()
    assert page.startswith("<!doctype html>")
    assert len(page.encode()) < 2_000_000


HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\x1b[2J$(touch x)'\""


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("model/model.json", ("training", "device")), ("model/model.json", ("versions", "torch")),
        ("model/model.json", ("provenance", "git_commit")), ("model/model.json", ("settings", "data", "source")),
        ("model/model.json", ("settings", HOSTILE, HOSTILE)), ("model/model.json", ("versions", HOSTILE)),
        ("validation/metrics.json", ("seed",)), ("validation/metrics.json", ("temperature",)),
        ("validation/metrics.json", ("metrics", 0, "name")), ("validation/metrics.json", ("not_computed", HOSTILE)),
        ("model/prior.json", ("settings", "kind")), ("tokens/counts.json", ("splits", HOSTILE)),
        ("tokens/counts.json", ("unknown_symbols", HOSTILE)), ("../counts.json", ("column",)),
        ("../counts.json", ("splits", HOSTILE)),
    ],
    ids=lambda value: value if isinstance(value, str) else ".".join(part[:9] for part in map(str, value)),
)  # fmt: skip
def test_report_shows_text_of_files_as_text(folder: ExperimentFolder, file: str, path: tuple) -> None:
    content = json.loads((folder.path / file).read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key] if isinstance(inner, list) else inner.setdefault(key, {})
    inner[path[-1]] = HOSTILE
    (folder.path / file).write_text(json.dumps(content))
    page = folder.render(title=HOSTILE)
    elements = Elements(page)
    assert not [tag for tag, _ in elements.elements if tag == "img"]
    assert "\u202e" not in page and "\x1b" not in page and "\\u202e" in elements.text


def test_report_quotes_what_a_reader_copies_into_a_shell_or_python(folder: ExperimentFolder) -> None:
    context = {"seed": "1; touch x", "temperature": "$(touch x)", "max_tries": "1\ntouch x"}
    folder.write_json("validation/metrics.json", {"metrics": [METRIC], **context})
    folder.write_json("model/model.json", {**folder.model, "provenance": {"git_commit": "abc; touch x"}})
    folder.path = folder.path.rename(folder.path.with_name("a'b$(touch x)"))
    text = get_text(folder.render())
    for quoted in ("'1; touch x'", "'$(touch x)'", "'1 touch x'", "git checkout 'abc; touch x'"):
        assert quoted in text
    assert """snakemake 'results/a'"'"'b$(touch x)/report.html' --cores""" in text
    assert (
        'seed="1; touch x", temperature="$(touch x)"' in text
        and 'molvae.load("results/a\\u0027b$(touch x)/model")' in text
    )


def test_report_of_files_of_another_shape_is_an_error_that_names_the_folder(folder: ExperimentFolder) -> None:
    for model in ({"training": "x"}, {"provenance": {"id": 7}}, {"settings": [1]}, {"settings": {"model": "x"}}):
        folder.write_json("model/model.json", {**folder.model, **model})
        with pytest.raises(DataError, match="example: a file of it is not as molvae writes it"):
            folder.render()


def test_report_shows_no_secret_that_an_earlier_version_left_in_the_counts(folder: ExperimentFolder) -> None:
    source = {"dataset": "d", "rows": 1, "source": "https://me:hunter2@example.org/a.csv?sig=hunter3"}
    folder.write_json(folder.dataset, source)
    page = folder.render()
    assert "https://example.org/a.csv?***" in page and "hunter" not in page


def test_report_escapes_raw_text_of_the_data(folder: ExperimentFolder) -> None:
    folder.write_rejected("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\u202eC", "C" * 500)
    folder.write_metrics([{**METRIC, "name": "</script><b>FCD", "description": "<i>"}])
    page = folder.render(title="<script>alert(2)</script>")
    body = page[: page.index("<noscript>")]  # the library behind it has such words in its strings
    assert "<script>alert" not in body and "<img" not in body and "</script><b>" not in body
    assert "<script>alert(1)</script>" in get_text(page)  # shown, as text
    assert "\\u202eC" in get_text(page) and "\u202e" not in page
    assert "… (500 characters)" in get_text(page)


def test_report_header_cells_have_a_scope_and_links_a_target(page: str) -> None:
    elements = Elements(page).elements
    assert all(attributes.get("scope") in {"col", "row"} for tag, attributes in elements if tag == "th")
    targets = {attributes["id"] for _, attributes in elements if "id" in attributes}
    links = {attributes["href"][1:] for tag, attributes in elements if tag == "a"}
    assert links and links <= targets
    named = [attributes for _, attributes in elements if attributes.get("role") in {"img", "list", "region"}]
    assert len(named) > 24 and all("aria-label" in attributes for attributes in named)


# --- missing and damaged files


def test_report_names_missing_files(folder: ExperimentFolder) -> None:
    for name in ("validation/metrics.json", "validation/molecules.parquet", "validation/reference.parquet",
                 "model/prior.json", "model/history.csv", "model/dimensions.csv",
                 "tokens/rejected.parquet"):  # fmt: skip
        (folder.path / name).unlink()
    folder.dataset.unlink()
    text = get_text(folder.render())
    json_files = "counts.json, validation/metrics.json, model/prior.json, latent/diagnostics.json"
    assert f"Incomplete: {json_files}, model/history.csv, model/dimensions.csv" in text
    assert "has not been validated yet" in text and "No training history" in text
    assert "Not drawn, since no value is known: mw, logp, qed, sa, tpsa, rings, heavy_atoms." in text


def test_report_of_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no results"):
        render_report(tmp_path, tmp_path / "counts.json", title="x")


@pytest.mark.parametrize(
    "name",
    [
        "validation/molecules.parquet",
        "model/model.json",
        "model/prior.json",
        "model/dimensions.csv",
        "model/history.csv",
    ],
)
def test_report_of_a_damaged_file_is_an_error_that_names_it(folder: ExperimentFolder, name: str) -> None:
    (folder.path / name).write_bytes(b"")
    with pytest.raises(DataError, match=Path(name).name):
        folder.render()


def test_report_without_a_valid_sample_says_so(folder: ExperimentFolder) -> None:
    folder.write_table(
        "validation/molecules.parquet", make_molecules(3).assign(is_valid=False, reason="unparsable", mw=None)
    )
    assert "No valid molecule among the samples, so there is nothing to draw. unparsable: 3." in get_text(
        folder.render()
    )


def test_report_shows_unknown_descriptors_and_undrawable_molecules_as_such(folder: ExperimentFolder) -> None:
    table = make_molecules().assign(qed=np.nan, sa=np.inf, logp=None, is_novel=pd.array([None] * 60, dtype="boolean"))
    table.loc[0, "smiles"] = "C1CC"
    folder.write_table("validation/molecules.parquet", table)
    folder.write_table("validation/reference.parquet", table[["smiles", "mw"]])
    text = get_text(folder.render())
    assert "QED – · SA –" in text and "not drawable" in text
    assert "since no value is known: logp, qed, sa." in text


def test_report_of_one_epoch_draws_dots_and_uses_the_singular(folder: ExperimentFolder) -> None:
    folder.write_table("model/history.csv", make_history(1))
    folder.write_json("model/model.json", {**folder.model, "training": {**folder.model["training"], "epochs_run": 1}})
    page = folder.render()
    assert "1 epoch in 4 min 30 s on cpu" in get_text(page)
    assert any(spec["mark"].get("point") for spec in get_specs(page) if "mark" in spec)


def test_report_metric_without_a_value_reads_not_measured(folder: ExperimentFolder) -> None:
    folder.write_metrics([{"name": "FCD/Test", "value": None, "n": None, "better": "none", "baselines": None}])
    text = get_text(folder.render())
    assert "not measured" in text and "No distance to real molecules was measured" in text


# --- verdict, warnings and key figures


@pytest.mark.parametrize(
    ("value", "tone", "text"),
    [
        (9.3, "between", "between random tokens (43.1) and training molecules (0.100), 93 times as far"),
        (50.0, "poor", "no better than random tokens (43.1)"),
        (0.105, "good", "as good as training molecules themselves"),
        (0.05, "good", "as good as training molecules themselves"),
        (None, "unknown", "No distance"),
    ],
)
def test_verdict_places_samples_between_random_baseline_and_training_set_reference(
    value: float | None, tone: str, text: str
) -> None:
    verdict = summary.write_verdict([{**METRIC, "value": value}])
    assert verdict["tone"] == tone and text in verdict["text"]


def test_verdict_gives_the_interval() -> None:
    verdict = summary.write_verdict([{**METRIC, "interval": [9.1, 9.5]}])
    assert "is 9.300 (9.100 to 9.500)" in verdict["text"]


def test_report_warns_of_memorisation() -> None:
    metric = {"name": "SNN/Train", "value": 0.7, "interval": [0.69, 0.71], "baselines": {"held_out": 0.6}}
    assert "(0.700) than held-out molecules are (0.600)" in summary.warn_of_memorisation(metric)
    assert summary.warn_of_memorisation({**metric, "baselines": {"held_out": 0.695}}) is None
    assert summary.warn_of_memorisation({**metric, "baselines": {}}) is summary.warn_of_memorisation(None) is None


def test_verdict_without_baselines_is_unknown() -> None:
    assert summary.write_verdict([{**METRIC, "baselines": {}}])["tone"] == "unknown"


def test_progress_is_none_where_a_metric_cannot_tell_random_tokens_from_training_molecules() -> None:
    validity = {"value": 1.0, "better": "higher", "baselines": {"random_baseline": 1.0, "training_set_reference": 1.0}}
    novelty = {"value": 0.9, "better": "higher", "baselines": {"random_baseline": 1.0, "training_set_reference": 0.0}}
    assert summary.compute_progress(validity) is None and summary.compute_progress(novelty) is None
    assert summary.compute_progress(METRIC) == pytest.approx((43.1 - 9.3) / 43.0)


def test_report_warns_of_posterior_collapse_that_training_found(page: str, folder: ExperimentFolder) -> None:
    assert "Posterior collapse" not in get_text(page) + folder.render_notes()
    folder.write_json("model/model.json", {**folder.model, "collapsed": True})
    folder.write_table("model/history.csv", make_history(9).assign(mutual_information_nats=0.6, active_units=12))
    notes = folder.render_notes()
    assert "Posterior collapse: mutual information is 0.600 nats, KL 9.000 nats, and 12 of 128 latent units" in notes


def test_report_warns_of_posterior_collapse_that_the_latent_diagnostics_found(folder: ExperimentFolder) -> None:
    folder.write_json("latent/diagnostics.json", make_diagnostics() | {"verdict": "collapsed"})
    assert "Posterior collapse" in folder.render_notes()


def test_report_of_a_plain_autoencoder_has_no_mutual_information_and_no_dimensions(folder: ExperimentFolder) -> None:
    table = make_history(9).assign(valid_kl_nats=0.0, active_units=3).drop(columns="mutual_information_nats")
    folder.write_table("model/history.csv", table)
    folder.write_table("model/dimensions.csv", make_dimensions(0))
    sizes = {"latent_dim": 128, "variational": False}
    folder.write_json("model/model.json", {**folder.model, "settings": {"model": sizes, "train": {"seed": 0}}})
    assert "Posterior collapse" not in folder.render_notes()
    assert len(get_specs(folder.render())) == 15  # without the mutual information and the dimensions


def test_report_gives_the_prior_gap_and_the_kind_of_prior(folder: ExperimentFolder) -> None:
    gap = "'prior gap', '2.100', 'FCD/Test less that of the aggregate posterior; prior: mixture'"
    assert gap in folder.render_notes()
    counts = json.loads((folder.path / "samples/counts.json").read_text())
    folder.write_json("samples/counts.json", counts | {"mcmc_steps": 2})
    assert "prior gap" not in folder.render_notes()
    folder.write_json("samples/counts.json", counts)
    folder.write_metrics([{**METRIC, "baselines": {"random_baseline": 43.1, "training_set_reference": 0.1}}])
    assert "prior gap" not in folder.render_notes()


def test_report_key_metrics_are_those_of_the_best_epoch(folder: ExperimentFolder) -> None:
    folder.write_table("model/history.csv", make_history(9).assign(active_units=[60] * 7 + [61, 99]))
    assert "61 / 128" in folder.render_notes()


def test_report_warns_of_a_distance_over_few_molecules(folder: ExperimentFolder) -> None:
    folder.write_metrics([{**METRIC, "n": 1000}])
    assert "was computed with 1\u202f000 molecules" in folder.render_notes()


def test_report_warns_of_counts_that_do_not_add_up(page: str, folder: ExperimentFolder) -> None:
    assert "✓ adds up" in get_text(page)
    folder.write_json("samples/counts.json", {"rows_in": 60, "kept": 50, "rejected": {"empty": 7}, "duplicates": 0})
    text = get_text(folder.render())
    assert "✗ 3 unaccounted for" in text and "The counts of sample do not add up" in text


@pytest.mark.parametrize(
    ("round_trips", "strings_decoded", "is_warning"),
    [(57, 200, False), (20, 1900, True), (0, 60, False)],
    ids=["most", "few", "not filtered"],
)
def test_report_warns_of_samples_that_ran_out_of_tries(
    folder: ExperimentFolder, round_trips: int, strings_decoded: int, is_warning: bool
) -> None:
    counts = {"rows_in": 60, "kept": 60, "rejected": {}, "duplicates": 0}
    decoding = {"round_trips": round_trips, "strings_decoded": strings_decoded}
    folder.write_json("samples/counts.json", counts | decoding)
    assert ("40 of 60 samples do not survive the round trip" in get_text(folder.render())) is is_warning


def test_report_names_dropped_fragments_and_centres_without_a_mark(folder: ExperimentFolder) -> None:
    counts = json.loads((folder.path / "tokens/counts.json").read_text())
    assert "Fragments were dropped" not in get_text(folder.render())
    losses = {
        "dropped_fragments": {"molecules": 7, "mixtures": 2, "most_frequent": [{"smiles": "[Na+]", "molecules": 5}]},
        "unmarked_centres": {"molecules": 3, "centres": 4},
    }
    folder.write_json("tokens/counts.json", counts | losses)
    text = get_text(folder.render())
    assert (
        "Fragments were dropped beside 7 molecules" in text
        and "2 mixtures of compounds. Most frequent: [Na+] 5." in text
    )
    assert "4 centres of 3 molecules lost their stereo mark" in text


def test_report_warns_of_samples_that_were_cut(folder: ExperimentFolder) -> None:
    counts = {"rows_in": 60, "kept": 60, "rejected": {}, "duplicates": 0}
    for truncated in (0, 7):
        folder.write_json("samples/counts.json", counts | {"truncated": truncated})
        text = get_text(folder.render())
        assert ("7 of 60 samples were cut at sample.max_tokens" in text) is bool(truncated)


def test_report_gives_the_commands_that_reproduce_it(page: str) -> None:
    text = get_text(page)
    assert "git checkout 3f2e1d0c # there were uncommitted changes" in text
    command = (
        "molvae sample --model results/example/model -n 1000 --seed 0 --temperature 1.0 --max-tries 1 --mcmc-steps 0"
    )
    assert f"{command} --max-tokens 128 --out samples.csv" in text


def test_report_gives_the_target_properties_of_samples(folder) -> None:
    metrics = json.loads((folder.path / "validation/metrics.json").read_text())
    folder.write_json("validation/metrics.json", {**metrics, "target_properties": {"logp": 3.0}, "max_tokens": 64})
    text = get_text(folder.render())
    assert """--max-tokens 64 --target-properties '{"logp": 3.0}' --out samples.csv""" in text
    assert 'max_tokens=64, target_properties={"logp": 3.0})' in text


# --- molecules


def test_first_unique_samples_do_not_depend_on_row_order() -> None:
    table = make_molecules()
    shown = select_first_unique(table.sample(frac=1, random_state=0), 5)
    assert shown["index"].tolist() == [0, 1, 2, 3, 5]


def test_least_plausible_samples_have_most_flags_then_the_highest_sa() -> None:
    table = make_molecules(12)
    table["sa"] = table["sa"].astype(float)
    table.loc[3, ["structural_flags", "alerts"]] = ["1 radical electron; 12-membered ring", "MCF4"]
    table.loc[5, "sa"] = 6.5
    table.loc[6, "sa"] = np.nan
    shown = select_least_plausible(table, 4)
    assert shown["index"].tolist() == [3, 5, 11, 10]
    assert list_flags(shown.iloc[0].to_dict()) == ["1 radical electron", "12-membered ring", "MCF4"]
    assert 6 not in select_least_plausible(table, 99)["index"].tolist()


def test_drawing_takes_the_text_colour_of_the_page_and_has_no_background() -> None:
    svg = draw_svg("CC(=O)Nc1ccc(O)cc1")
    assert svg.startswith("<svg") and "currentColor" in svg and "<rect" not in svg and "#000000" not in svg
    assert draw_svg("C1CC") is None and draw_svg("") is None


def test_tooltip_drawing_is_small_and_has_bonds_and_labels_in_their_colours() -> None:
    text = unquote(draw_tooltip_svg("CC(=O)Nc1ccc(O)cc1"))
    assert text.startswith("<path fill='none' d='M") and len(text) < 700
    (oxygens,) = re.findall(r"<text fill='crimson' font-size='\d+' x='([\d ]+)' y='[\d ]+'>(\w+)<", text)
    assert oxygens[1] in {"OHO", "OOH", "HOO"} and len(oxygens[0].split()) == 3
    assert "royalblue" in text and "fill='black' d=" not in text
    assert "fill='black' d=" in unquote(draw_tooltip_svg("C[C@H](F)Cl")), "a wedge"
    assert draw_tooltip_svg("C1CC") == draw_tooltip_svg("") == ""
    whole = TOOLTIP_START + draw_tooltip_svg("c1ccccc1") + TOOLTIP_END
    assert whole.startswith("data:image/svg+xml,")
    assert ElementTree.fromstring(unquote(whole.partition(",")[2])).attrib["viewBox"] == "0 0 380 260"


# --- the latent space

COORDINATES = [
    f"{space}_{method}_{k}" for space in ("latent", "fingerprint") for method in ("pca", "tsne") for k in (1, 2)
]


def make_projections(count: int = 20) -> pd.DataFrame:
    """Projections as `latent` writes them."""
    table = make_molecules(count)[["smiles", *CHARTED_DESCRIPTORS]].assign(row=range(1, count + 1))
    return table.assign(**{name: np.linspace(k, k + 1.23456, count) for k, name in enumerate(COORDINATES)})


def make_diagnostics() -> dict:
    """Latent diagnostics without training molecules."""
    order = {"neighbors": 0.1, "rank_correlation": 0.2}
    fractions = {"round_trip": 0.8, "good": 0.5}
    path = {"round_trip": 0.7, "distinct": 0.6, "logp_step": 0.3, "qed_step": None}
    return {
        "verdict": "healthy", "meaning": "molecules are reconstructed", "n": 300, "pca": None,
        "usage": {"mutual_information_nats": 5.0, "mutual_information_at_most": 5.7, "active_units": 60,
                "latent_dim": 64},
        "aggregate_posterior": {"mmd": 0.01, "mmd_between_prior_draws": 0.001},
        "reconstruction": {"same_molecule": 0.95, "same_molecule_from_draw": 0.7, "similarity": 0.9,
                           "pca_of_tokens": None},
        "completeness": {"prior": fractions, "posterior": fractions, "random_baseline": fractions,
                         "molecule_radii": [0.9, 1, 1.1], "by_radius": [{"radius": 1.0, **fractions}],
                         "pca_of_tokens": None},
        "continuity": {"latent": order, "similarity_of_random_pairs": 0.14, "pca_of_tokens": None,
                       "neighborhoods": [{"spread": 1.0, "similarity": 0.5}], "pca_of_fingerprints": order,
                       "chance": order},
        "interpolation": {"paths": 50, "steps": 8, "latent": path, "pca_of_tokens": None,
                          "chance": {"logp_step": 0.7, "qed_step": 0.14}},
        "projections": {"n": 20, "explained_variance": {"latent": [0.21, 0.12], "fingerprint": [0.04, 0.03]}},
    }  # fmt: skip


def test_latent_diagnostics_are_a_table_with_their_baselines(folder: ExperimentFolder) -> None:
    folder.write_json("latent/diagnostics.json", make_diagnostics())
    text = get_text(folder.render())
    assert "molecules reconstructed from the mean 0.950 – – –" in text
    assert "overlap of latent and fingerprint neighbours 0.100 – 0.100 0.100 of the ten nearest" in text
    assert "change of logP per step 0.300 – – 0.700 equal steps would give 0.1" in text
    assert "not measured, since there are no training molecules" in text
    pca = {"dimensions": 64, "explained_variance": 0.613}
    reconstruction = make_diagnostics()["reconstruction"] | {
        "pca_of_tokens": {"same_molecule": 0.02, "similarity": 0.3}
    }
    folder.write_json("latent/diagnostics.json", make_diagnostics() | {"pca": pca, "reconstruction": reconstruction})
    text = get_text(folder.render())
    assert "from the mean 0.950 0.020 – –" in text and "(61 % of the variance)" in text


def test_projections_show_every_molecule_once(folder: ExperimentFolder) -> None:
    folder.write_json("latent/diagnostics.json", make_diagnostics())
    folder.write_table("latent/projections.parquet", make_projections())
    page = folder.render()
    (spec,) = [spec for spec in get_specs(page) if "concat" in spec]
    (rows,) = spec["datasets"].values()
    assert [row["smiles"] for row in rows] == make_projections()["smiles"].tolist() and all(
        row["drawing"] for row in rows
    )
    assert [part["title"]["text"] for part in spec["concat"]] == list(charts.PROJECTIONS.values())
    assert "20 held-out molecules by their latent means" in get_text(page)


@pytest.mark.parametrize("table", [None, make_projections(0)], ids=["no file", "turned off"])
def test_report_without_projections_has_no_such_section(folder: ExperimentFolder, table: pd.DataFrame | None) -> None:
    folder.write_json("latent/diagnostics.json", make_diagnostics())
    if table is not None:
        folder.write_table("latent/projections.parquet", table)
    page = folder.render()
    assert "held-out molecules by" not in get_text(page) and not any("concat" in spec for spec in get_specs(page))
    assert "Latent space" in get_text(page)


def test_projection_is_coloured_by_the_descriptor_that_the_reader_chooses() -> None:
    table = make_projections().assign(qed=np.nan)
    chart = charts.build_projection_chart(table, make_diagnostics()).to_dict(validate=True)
    (choice,) = [param for param in chart["params"] if param["name"] == "shown"]
    assert choice["value"] == "logp" and choice["bind"]["options"] == [p for p in CHARTED_DESCRIPTORS if p != "qed"]
    assert [part["encoding"]["x"]["title"] for part in chart["concat"][:2]] == [
        "component 1 (21% of variance)", "component 1 (4% of variance)",
    ]  # fmt: skip
    (rows,) = chart["datasets"].values()
    assert rows[1]["latent_pca_1"] == 0.065 and rows[0]["qed"] is None


# --- charts


def test_charts_carry_bins_and_epochs_never_molecules(page: str) -> None:
    specs = get_specs(page)
    assert len(specs) == 17
    rows = [len(data) for spec in specs for data in spec["datasets"].values()]
    assert max(rows) <= max(2 * charts.BINS + 3, 128)  # 128 latent dimensions
    assert all(spec["description"] for spec in specs)


def test_bin_fractions_sum_to_one_with_outliers_in_the_outermost_bins() -> None:
    values = np.concatenate([np.linspace(0, 1, 1000), [1e6, -1e6]])
    edges = charts.compute_bin_edges(values, is_count=False)
    fractions = charts.compute_bin_fractions(values, edges)
    assert edges[-1] < 2 and fractions.sum() == pytest.approx(1, abs=1e-4)
    assert charts.compute_bin_fractions(np.array([]), edges).sum() == 0


def test_bins_of_counts_are_centred_on_whole_numbers() -> None:
    assert charts.compute_bin_edges(np.array([0, 1, 1, 3]), is_count=True).tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert len(charts.compute_bin_edges(np.arange(1000), is_count=True)) <= 2 * charts.BINS + 2


def test_descriptor_with_one_value_still_has_bins() -> None:
    assert charts.build_histogram("qed", pd.Series([0.5, 0.5]), pd.Series([], dtype=float)) is not None
    assert charts.build_histogram("qed", pd.Series([np.nan]), pd.Series([], dtype=float)) is None


def test_each_chart_is_valid_vega_lite() -> None:
    descriptor_charts = charts.build_descriptor_charts(make_molecules(), make_molecules())
    all_charts = {**charts.build_training_charts(make_history(3)), **descriptor_charts}
    assert set(all_charts) == {*charts.CURVES, *charts.TITLES}
    all_charts["dimensions"] = charts.build_dimension_chart(make_dimensions(3), 3)
    for chart in all_charts.values():
        chart.to_dict(validate=True)  # raises SchemaValidationError


def test_charts_can_be_saved_as_svg(tmp_path: Path) -> None:
    chart = charts.build_descriptor_charts(make_molecules(), make_molecules())["mw"]
    chart.save(tmp_path / "mw.svg")
    assert "molecular weight" in (tmp_path / "mw.svg").read_text("utf-8")


def test_dimension_chart_shows_the_best_epoch_by_kl() -> None:
    spec = charts.build_dimension_chart(make_dimensions(5), 4).to_dict()
    (rows,) = spec["datasets"].values()
    assert [round(row["kl_nats"], 9) for row in rows] == [0.8] * 64 + [0.0] * 64
    assert [row["rank"] for row in rows] == list(range(1, 129))
    assert (
        charts.build_dimension_chart(make_dimensions(5), 6)
        is charts.build_dimension_chart(make_dimensions(0), None)
        is None
    )


def test_training_chart_with_several_rows_an_epoch_is_drawn_over_steps() -> None:
    table = pd.concat([make_history(2), make_history(2).assign(step=[100, 200])])
    spec = charts.build_training_charts(table)["total"].to_dict()
    assert spec["encoding"]["x"]["field"] == "step"


# --- formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (np.nan, "–"), (21900, "21\u202f900"), (0.5, "0.500"), (43.14, "43.1"), (1e-5, "1.00e-05")],
)
def test_number_is_formatted_for_a_reader(value: object, text: str) -> None:
    assert format_number(value) == text


def test_durations_and_raw_texts_are_readable() -> None:
    assert [format_duration(s) for s in (0.2, 270.1, 7200, None)] == [
        "under 1 s",
        "4 min 30 s",
        "2 h",
        "an unknown time",
    ]
    assert escape_text("C\n\x1b[0m\ud800") == "C\\u000a\\u001b[0m\\ud800"


def test_report_of_a_fine_tuned_model_names_the_symbols_it_learned(folder: ExperimentFolder) -> None:
    counts = json.loads((folder.path / "tokens/counts.json").read_text())
    symbols = {"base_model": "pretrained:moses", "new_symbols": {"[I]": 6, "[Se]": 1}, "dropped_symbols": {}}
    folder.write_json("tokens/counts.json", counts | symbols)
    sentence = "pretrained:moses lacked, now learned: [I]: 6, [Se]: 1; molecules rejected for an unknown symbol: none."
    assert f"Symbols that {sentence}" in get_text(folder.render())

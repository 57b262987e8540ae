"""The report page: what it says, what it withstands, and that it needs nothing but itself."""

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

from molvae.errors import DataError
from molvae.report import charts, render, summary
from molvae.report.loader import read_experiment
from molvae.report.molecules import (
    SKETCH_END,
    SKETCH_START,
    alarms,
    first_valid_unique,
    least_plausible,
    molecule_svg,
    sketch,
)
from molvae.report.page import duration, visible

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
    "baselines": {"random_tokens": 43.1, "shuffled_latents": 45.0, "aggregate_posterior": 7.2,
                  "training_molecules": 0.1},
}  # fmt: skip


def molecules(count: int = 60) -> pd.DataFrame:
    """Samples as `validate` writes them: every fifth repeats an earlier one, each tenth is invalid."""
    index = np.arange(count)
    valid, first = index % 10 != 9, (index % 5 != 4) & (index < len(SMILES))
    smiles = [SMILES[i % len(SMILES)] for i in index]
    return pd.DataFrame(
        {"index": index, "smiles": smiles, "canonical": smiles, "log_probability": -20.0 - index % 7, "n_tokens": 20,
         "is_valid": valid, "reason": np.where(valid, None, "unparsable"), "is_first": first, "is_novel": index % 3 > 0,
         "kept_token_fraction": 0.9, "mw": 150.0 + index, "logp": index / 30, "qed": 0.5, "sa": 2 + index / 60,
         "tpsa": 40.0, "rings": index % 4, "largest_ring": 6, "heavy_atoms": 10 + index % 9,
         "radical_electrons": 0, "charge": 0,
         "alerts": "", "oddities": "", "passes_filters": True}
    )  # fmt: skip


def history(epochs: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    loss = 20 + 50 / epoch
    return pd.DataFrame(
        {"epoch": epoch, "step": 39 * epoch, "seconds": 30.0 * epoch, "molecules_per_s": 650.0, "kl_weight": 0.1,
         "learning_rate": 1e-3, "train_loss_nats": loss, "train_reconstruction_nats": loss - 1, "train_kl_nats": 9.0,
         "valid_loss_nats": loss + 9, "valid_reconstruction_nats": loss, "valid_kl_nats": 9.0,
         "valid_token_accuracy": 0.7, "valid_free_token_accuracy": 0.4, "valid_exact_reconstruction": 0.031,
         "active_units": 60, "mutual_information_nats": 5.5}
    )  # fmt: skip


def dimensions(epochs: int) -> pd.DataFrame:
    """KL of 128 latent dimensions, of which half are in use."""
    rows = [(epoch, d, 0.2 * epoch if d % 2 else 0.0) for epoch in range(1, epochs + 1) for d in range(128)]
    return pd.DataFrame(rows, columns=["epoch", "dimension", "kl_nats"])


class Folder:
    """An experiment on disk that a test changes before it renders."""

    def __init__(self, root: Path) -> None:
        self.path, self.dataset = root / "example", root / "books.json"
        books = {"rows_in": 22000, "kept": 21900, "rejected": {"unparsable": 60, "too_long": 3}, "duplicates": 37}
        closed = {"rows_in": 60, "kept": 60, "rejected": {}, "duplicates": 0}
        self.json(self.dataset, {"dataset": "moses-22k", "source": "molsets 0.3.1", "sha256": "7f" * 32, "rows": 22000,
                                 "column": "SMILES", "splits": {"train": 20000, "test": 2000}})  # fmt: skip
        self.json("tokens/books.json", {"stage": "featurize", **books, "vocabulary_size": 29, "mean_tokens": 34.4,
                                        "splits": {"train": 17700, "valid": 2200, "test": 2000},
                                        "unknown_symbols": {"[P]": 2}})  # fmt: skip
        for stage, name in (("train", "model"), ("sample", "samples"), ("validate", "validation")):
            self.json(f"{name}/books.json", {"stage": stage, **closed})
        self.model = {
            "format_version": 2,
            "settings": {"data": {}, "featurize": {}, "model": {"latent_dim": 128}, "train": {"seed": 0}},
            "versions": {"molvae": "0.1.0", "torch": "2.9.0"},
            "lineage": {"id": "a3f9" * 16, "dataset_sha256": "0b" * 32, "tokens_sha256": "77" * 32,
                        "git_commit": "3f2e1d0c+", "code": "9ad3"},
            "training": {"epochs_run": 9, "best_epoch": 8, "stopped": "epochs", "seconds": 270.1, "device": "cpu",
                         "parameters": 812345},
            "metrics": {},
        }  # fmt: skip
        self.json("model/model.json", self.model)
        self.metrics([METRIC])
        self.json("model/prior.json", {"format_version": 2, "settings": {"kind": "mixture"}})
        self.table("model/history.csv", history(9))
        self.table("model/dimensions.csv", dimensions(9))
        self.table("validation/molecules.parquet", molecules())
        self.table("validation/reference.parquet", molecules().drop(columns=["index", "is_valid", "reason"]))
        self.rejected("C1CC")

    def json(self, where: str | Path, content: dict) -> None:
        path = self.path / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), "utf-8")

    def table(self, where: str, frame: pd.DataFrame) -> None:
        path = self.path / where
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)

    def metrics(self, found: list[dict]) -> None:
        context = {"seed": 0, "temperature": 1.0, "n_samples": 10000, "versions": {"rdkit": "2026.9.1"}}
        self.json("validation/metrics.json", {"metrics": found, **context})

    def rejected(self, *texts: str) -> None:
        rows = [{"row": i + 1, "smiles": text, "reason": "unparsable", "detail": "no"} for i, text in enumerate(texts)]
        self.table("tokens/rejected.parquet", pd.DataFrame(rows, columns=["row", "smiles", "reason", "detail"]))

    def notes(self) -> str:
        """The warnings and figures under the title, without the work of drawing the page."""
        experiment = read_experiment(self.path, self.dataset)
        figures = summary.latent_figures(experiment)
        return " ".join([*summary.warnings(experiment, figures), *map(str, summary.tiles(experiment, figures))])

    def page(self, title: str = "An experiment") -> str:
        return render(self.path, self.dataset, title=title)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of an experiment that has everything."""
    return Folder(tmp_path_factory.mktemp("complete")).page()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


class Elements(HTMLParser):
    """The elements of a page with their attributes, scripts apart from the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.found[-1] if self.found else ("", {})
        if tag == "script" and self.cdata_elem == "script":
            self.scripts.append((attributes, data))
        elif tag != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def text_of(page: str) -> str:
    return Elements(page).text


def specs_of(page: str) -> list[dict]:
    return [json.loads(text) for attributes, text in Elements(page).scripts if attributes]


# --- the page as a file


def test_the_page_asks_the_network_for_nothing(page: str) -> None:
    elements = Elements(page).found
    addresses = [attributes[name] for _, attributes in elements for name in ("src", "href") if name in attributes]
    assert all(address.startswith(("#", "data:")) for address in addresses)


def test_the_policy_of_the_page_allows_exactly_its_own_two_scripts(page: str) -> None:
    elements = Elements(page)
    policy = next(a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    run = [text for attributes, text in elements.scripts if not attributes]
    hashes = [f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run]
    assert f"default-src 'none'; script-src {' '.join(hashes)}; " in policy
    assert len(run) == 2 and "unsafe-eval" not in policy


def test_the_same_files_give_the_same_page_of_moderate_size(page: str, folder: Folder) -> None:
    assert page == folder.page()
    assert page.startswith("<!doctype html>")
    assert len(page.encode()) < 2_000_000


def test_raw_text_of_the_data_cannot_become_markup(folder: Folder) -> None:
    folder.rejected("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\u202eC", "C" * 500)
    folder.metrics([{**METRIC, "name": "</script><b>FCD", "description": "<i>"}])
    page = folder.page(title="<script>alert(2)</script>")
    written = page[: page.index("<noscript>")]  # the library behind it has such words in its strings
    assert "<script>alert" not in written and "<img" not in written and "</script><b>" not in written
    assert "<script>alert(1)</script>" in text_of(page)  # shown, as text
    assert "\\u202eC" in text_of(page) and "\u202e" not in page
    assert "… (500 characters)" in text_of(page)


def test_every_header_cell_has_a_scope_and_every_link_a_target(page: str) -> None:
    elements = Elements(page).found
    assert all(attributes.get("scope") in {"col", "row"} for tag, attributes in elements if tag == "th")
    targets = {attributes["id"] for _, attributes in elements if "id" in attributes}
    links = {attributes["href"][1:] for tag, attributes in elements if tag == "a"}
    assert links and links <= targets
    named = [attributes for _, attributes in elements if attributes.get("role") in {"img", "list", "region"}]
    assert len(named) > 24 and all("aria-label" in attributes for attributes in named)


# --- what is missing


def test_missing_files_are_named_on_the_page(folder: Folder) -> None:
    for name in ("validation/metrics.json", "validation/molecules.parquet", "validation/reference.parquet",
                 "model/prior.json", "model/history.csv", "model/dimensions.csv",
                 "tokens/rejected.parquet"):  # fmt: skip
        (folder.path / name).unlink()
    folder.dataset.unlink()
    text = text_of(folder.page())
    assert (
        "Incomplete: books.json, validation/metrics.json, model/prior.json, latent/card.json, model/history.csv, "
        "model/dimensions.csv" in text
    )
    assert "has not been validated yet" in text and "No training history" in text
    assert "Not drawn, for no value is known: mw, logp, qed, sa, tpsa, rings, heavy_atoms." in text


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no results"):
        render(tmp_path, tmp_path / "books.json", title="x")


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
def test_a_damaged_file_is_named_in_the_error(folder: Folder, name: str) -> None:
    (folder.path / name).write_bytes(b"")
    with pytest.raises(DataError, match=Path(name).name):
        folder.page()


def test_without_a_valid_molecule_the_page_says_so(folder: Folder) -> None:
    folder.table("validation/molecules.parquet", molecules(3).assign(is_valid=False, reason="unparsable", mw=None))
    assert "No valid molecule among the samples, so there is nothing to draw. unparsable: 3." in text_of(folder.page())


def test_unknown_descriptors_and_a_text_that_is_no_molecule_are_shown_as_such(folder: Folder) -> None:
    table = molecules().assign(qed=np.nan, sa=np.inf, logp=None, is_novel=pd.array([None] * 60, dtype="boolean"))
    table.loc[0, "smiles"] = "C1CC"
    folder.table("validation/molecules.parquet", table)
    folder.table("validation/reference.parquet", table[["smiles", "mw"]])
    text = text_of(folder.page())
    assert "QED – · SA –" in text and "not drawable" in text
    assert "for no value is known: logp, qed, sa." in text


def test_one_epoch_is_drawn_as_dots_and_named_in_the_singular(folder: Folder) -> None:
    folder.table("model/history.csv", history(1))
    folder.json("model/model.json", {**folder.model, "training": {**folder.model["training"], "epochs_run": 1}})
    page = folder.page()
    assert "1 epoch in 4 min 30 s on cpu" in text_of(page)
    assert any(spec["mark"].get("point") for spec in specs_of(page) if "mark" in spec)


def test_a_metric_without_a_value_reads_not_measured(folder: Folder) -> None:
    folder.metrics([{"name": "FCD/Test", "value": None, "n": None, "better": "none", "baselines": None}])
    text = text_of(folder.page())
    assert "not measured" in text and "No distance to real molecules was measured" in text


# --- what it says


@pytest.mark.parametrize(
    ("value", "tone", "says"),
    [
        (9.3, "between", "between random tokens (43.1) and training molecules (0.100), 93 times as far"),
        (50.0, "poor", "no better than random tokens (43.1)"),
        (0.105, "good", "as good as training molecules themselves"),
        (0.05, "good", "as good as training molecules themselves"),
        (None, "unknown", "No distance"),
    ],
)
def test_the_verdict_places_the_samples_between_null_and_ceiling(value: float | None, tone: str, says: str) -> None:
    found = summary.verdict([{**METRIC, "value": value}])
    assert found["tone"] == tone and says in found["text"]


def test_the_verdict_gives_the_interval() -> None:
    found = summary.verdict([{**METRIC, "interval": [9.1, 9.5]}])
    assert "is 9.300 (9.100 to 9.500)" in found["text"]


def test_a_model_that_learned_by_heart_is_warned_of() -> None:
    metric = {"name": "SNN/Train", "value": 0.7, "interval": [0.69, 0.71], "baselines": {"held_out": 0.6}}
    assert "(0.700) than held-out molecules are (0.600)" in summary.memorised(metric)
    assert summary.memorised({**metric, "baselines": {"held_out": 0.695}}) is None
    assert summary.memorised({**metric, "baselines": {}}) is summary.memorised(None) is None


def test_the_verdict_without_baselines_claims_nothing() -> None:
    assert summary.verdict([{**METRIC, "baselines": {}}])["tone"] == "unknown"


def test_progress_is_none_where_the_metric_cannot_tell_random_tokens_from_training_molecules() -> None:
    validity = {"value": 1.0, "better": "higher", "baselines": {"random_tokens": 1.0, "training_molecules": 1.0}}
    novelty = {"value": 0.9, "better": "higher", "baselines": {"random_tokens": 1.0, "training_molecules": 0.0}}
    assert summary.progress(validity) is None and summary.progress(novelty) is None
    assert summary.progress(METRIC) == pytest.approx((43.1 - 9.3) / 43.0)


@pytest.mark.parametrize(
    ("column", "value"), [("active_units", 12), ("valid_kl_nats", 0.9), ("mutual_information_nats", 0.6)]
)
def test_a_collapsed_posterior_raises_a_warning(page: str, folder: Folder, column: str, value: float) -> None:
    assert "Posterior collapse" not in text_of(page) + folder.notes()
    folder.table("model/history.csv", history(9).assign(**{column: value}))
    assert "Posterior collapse" in folder.notes()


def test_a_plain_autoencoder_has_no_posterior_to_collapse(folder: Folder) -> None:
    table = history(9).assign(valid_kl_nats=0.0, active_units=3).drop(columns="mutual_information_nats")
    folder.table("model/history.csv", table)
    folder.table("model/dimensions.csv", dimensions(0))
    sizes = {"latent_dim": 128, "variational": False}
    folder.json("model/model.json", {**folder.model, "settings": {"model": sizes, "train": {"seed": 0}}})
    assert "Posterior collapse" not in folder.notes()
    assert len(specs_of(folder.page())) == 15  # without the mutual information and the dimensions


def test_what_the_prior_loses_is_said_beside_what_kind_it_is(folder: Folder) -> None:
    assert "'prior gap', '2.100', 'FCD/Test lost to the prior (mixture)'" in folder.notes()
    folder.metrics([{**METRIC, "baselines": {"random_tokens": 43.1, "training_molecules": 0.1}}])
    assert "prior gap" not in folder.notes()


def test_figures_are_those_of_the_best_epoch(folder: Folder) -> None:
    folder.table("model/history.csv", history(9).assign(active_units=[60] * 7 + [61, 99]))
    assert "61 / 128" in folder.notes()


def test_a_distance_over_few_molecules_comes_with_a_warning(folder: Folder) -> None:
    folder.metrics([{**METRIC, "n": 1000}])
    assert "was taken over 1\u202f000 molecules" in folder.notes()


def test_books_that_do_not_close_are_flagged(page: str, folder: Folder) -> None:
    assert "✓ closed" in text_of(page)
    folder.json("samples/books.json", {"rows_in": 60, "kept": 50, "rejected": {"empty": 7}, "duplicates": 0})
    text = text_of(folder.page())
    assert "✗ 3 unaccounted for" in text and "The books of sample do not close" in text


@pytest.mark.parametrize(
    ("stable", "written", "warned"),
    [(57, 200, False), (20, 1900, True), (0, 60, False)],
    ids=["most", "few", "nobody asked"],
)
def test_samples_that_ran_out_of_attempts_are_a_warning(folder, stable: int, written: int, warned: bool) -> None:
    books = {"rows_in": 60, "kept": 60, "rejected": {}, "duplicates": 0, "stable": stable, "strings_written": written}
    folder.json("samples/books.json", books)
    assert ("40 of 60 samples are strings that no training molecule would have" in text_of(folder.page())) is warned


def test_the_page_tells_how_to_get_the_same_again(page: str) -> None:
    text = text_of(page)
    assert "git checkout 3f2e1d0c # there were uncommitted changes" in text
    command = "molvae sample --model results/example/model -n 1000 --seed 0 --temperature 1.0 --attempts 1 --rounds 0"
    assert f"{command} --max-tokens 128 --out samples.csv" in text


def test_the_page_tells_what_the_samples_were_to_have(folder) -> None:
    metrics = json.loads((folder.path / "validation/metrics.json").read_text())
    folder.json("validation/metrics.json", {**metrics, "wanted": {"logp": 3.0}, "max_tokens": 64})
    text = text_of(folder.page())
    assert """--max-tokens 64 --wanted '{"logp": 3.0}' --out samples.csv""" in text
    assert 'max_tokens=64, wanted={"logp": 3.0})' in text


# --- molecules


def test_the_grid_takes_the_first_valid_unique_samples_whatever_the_row_order() -> None:
    table = molecules()
    shown = first_valid_unique(table.sample(frac=1, random_state=0), 5)
    assert shown["index"].tolist() == [0, 1, 2, 3, 5]


def test_the_least_plausible_have_most_alarms_then_the_highest_sa() -> None:
    table = molecules(12)
    table["sa"] = table["sa"].astype(float)
    table.loc[3, ["oddities", "alerts"]] = ["1 radical electron; 12-membered ring", "MCF4"]
    table.loc[5, "sa"] = 6.5
    table.loc[6, "sa"] = np.nan
    shown = least_plausible(table, 4)
    assert shown["index"].tolist() == [3, 5, 11, 10]
    assert alarms(shown.iloc[0].to_dict()) == ["1 radical electron", "12-membered ring", "MCF4"]
    assert 6 not in least_plausible(table, 99)["index"].tolist()


def test_a_drawing_takes_the_text_colour_of_the_page_and_has_no_background() -> None:
    svg = molecule_svg("CC(=O)Nc1ccc(O)cc1")
    assert svg.startswith("<svg") and "currentColor" in svg and "<rect" not in svg and "#000000" not in svg
    assert molecule_svg("C1CC") is None and molecule_svg("") is None


def test_a_sketch_is_small_and_has_bonds_and_labels_in_their_colours() -> None:
    text = unquote(sketch("CC(=O)Nc1ccc(O)cc1"))
    assert text.startswith("<path fill='none' d='M") and len(text) < 700
    (oxygens,) = re.findall(r"<text fill='crimson' font-size='\d+' x='([\d ]+)' y='[\d ]+'>(\w+)<", text)
    assert oxygens[1] in {"OHO", "OOH", "HOO"} and len(oxygens[0].split()) == 3
    assert "royalblue" in text and "fill='black' d=" not in text
    assert "fill='black' d=" in unquote(sketch("C[C@H](F)Cl")), "a wedge"
    assert sketch("C1CC") == sketch("") == ""
    whole = SKETCH_START + sketch("c1ccccc1") + SKETCH_END
    assert whole.startswith("data:image/svg+xml,")
    assert ElementTree.fromstring(unquote(whole.partition(",")[2])).attrib["viewBox"] == "0 0 380 260"


# --- the latent space

COORDINATES = [
    f"{space}_{method}_{k}" for space in ("latent", "fingerprint") for method in ("pca", "tsne") for k in (1, 2)
]


def maps(count: int = 20) -> pd.DataFrame:
    """Molecules on maps as `latent` writes them."""
    table = molecules(count)[["smiles", *charts.PROPERTIES]].assign(row=range(1, count + 1))
    return table.assign(**{name: np.linspace(k, k + 1.23456, count) for k, name in enumerate(COORDINATES)})


def card() -> dict:
    """A health card without training molecules."""
    near = {"neighbors": 0.1, "rank_correlation": 0.2}
    shares = {"stable": 0.8, "good": 0.5}
    way = {"stable": 0.7, "distinct": 0.6, "logp_step": 0.3, "qed_step": None}
    return {
        "verdict": "healthy", "meaning": "molecules come back", "n": 300, "linear": None,
        "use": {"mutual_information_nats": 5.0, "mutual_information_at_most": 5.7, "active_units": 60,
                "latent_dim": 64},
        "aggregate_posterior": {"mmd": 0.01, "mmd_null": 0.001},
        "reconstruction": {"same_molecule": 0.95, "same_molecule_from_draw": 0.7, "similarity": 0.9,
                           "principal_components_of_tokens": None},
        "completeness": {"prior": shares, "posterior": shares, "random_tokens": shares, "molecules_at": [0.9, 1, 1.1],
                         "by_radius": [{"radius": 1.0, **shares}], "principal_components_of_tokens": None},
        "continuity": {"latent": near, "similarity_of_random_pairs": 0.14, "principal_components_of_tokens": None,
                       "around": [{"spread": 1.0, "similarity": 0.5}], "principal_components_of_fingerprints": near,
                       "chance": near},
        "interpolation": {"ways": 50, "steps": 8, "latent": way, "principal_components_of_tokens": None,
                          "chance": {"logp_step": 0.7, "qed_step": 0.14}},
        "maps": {"n": 20, "explained_variance": {"latent": [0.21, 0.12], "fingerprint": [0.04, 0.03]}},
    }  # fmt: skip


def test_the_card_is_a_table_with_what_stands_beside_the_model(folder: Folder) -> None:
    folder.json("latent/card.json", card())
    text = text_of(folder.page())
    assert "molecules that come back from the mean 0.950 – – –" in text
    assert "neighbours that are most similar, too 0.100 – 0.100 0.100 of the ten nearest" in text
    assert "change of logP a step 0.300 – – 0.700 an even way 0.1" in text
    assert "not measured, for there are no training molecules" in text
    linear = {"dimensions": 64, "explained_variance": 0.613}
    back = card()["reconstruction"] | {"principal_components_of_tokens": {"same_molecule": 0.02, "similarity": 0.3}}
    folder.json("latent/card.json", card() | {"linear": linear, "reconstruction": back})
    text = text_of(folder.page())
    assert "from the mean 0.950 0.020 – –" in text and "(61 % of the variance)" in text


def test_the_maps_are_there_with_every_molecule_once(folder: Folder) -> None:
    folder.json("latent/card.json", card())
    folder.table("latent/maps.parquet", maps())
    page = folder.page()
    (spec,) = [spec for spec in specs_of(page) if "concat" in spec]
    (rows,) = spec["datasets"].values()
    assert [row["smiles"] for row in rows] == maps()["smiles"].tolist() and all(row["drawing"] for row in rows)
    assert [part["title"]["text"] for part in spec["concat"]] == list(charts.MAPS.values())
    assert "20 held-out molecules by their latent means" in text_of(page)


@pytest.mark.parametrize("table", [None, maps(0)], ids=["no file", "turned off"])
def test_without_maps_there_is_no_such_section(folder: Folder, table: pd.DataFrame | None) -> None:
    folder.json("latent/card.json", card())
    if table is not None:
        folder.table("latent/maps.parquet", table)
    page = folder.page()
    assert "held-out molecules by" not in text_of(page) and not any("concat" in spec for spec in specs_of(page))
    assert "Latent space" in text_of(page)


def test_a_map_colours_by_the_property_that_the_reader_chooses_of_those_known() -> None:
    table = maps().assign(qed=np.nan)
    chart = charts.map_charts(table, card())["maps"].to_dict(validate=True)
    (choice,) = [one for one in chart["params"] if one["name"] == "shown"]
    assert choice["value"] == "logp" and choice["bind"]["options"] == [p for p in charts.PROPERTIES if p != "qed"]
    assert [part["encoding"]["x"]["title"] for part in chart["concat"][:2]] == [
        "component 1 (21% of variance)", "component 1 (4% of variance)",
    ]  # fmt: skip
    (rows,) = chart["datasets"].values()
    assert rows[1]["latent_pca_1"] == 0.065 and rows[0]["qed"] is None


# --- charts


def test_charts_carry_bins_and_epochs_never_molecules(page: str) -> None:
    specs = specs_of(page)
    assert len(specs) == 17
    rows = [len(data) for spec in specs for data in spec["datasets"].values()]
    assert max(rows) <= max(2 * charts.BINS + 3, 128)  # 128 latent dimensions
    assert all(spec["description"] for spec in specs)


def test_shares_sum_to_one_with_outliers_in_the_outermost_bins() -> None:
    values = np.concatenate([np.linspace(0, 1, 1000), [1e6, -1e6]])
    edges = charts.bin_edges(values, whole=False)
    found = charts.shares(values, edges)
    assert edges[-1] < 2 and found.sum() == pytest.approx(1, abs=1e-4)
    assert charts.shares(np.array([]), edges).sum() == 0


def test_bins_of_whole_numbers_are_centred_on_them() -> None:
    assert charts.bin_edges(np.array([0, 1, 1, 3]), whole=True).tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert len(charts.bin_edges(np.arange(1000), whole=True)) <= 2 * charts.BINS + 2


def test_a_property_of_one_value_still_has_bins() -> None:
    assert charts.histogram("qed", pd.Series([0.5, 0.5]), pd.Series([], dtype=float)) is not None
    assert charts.histogram("qed", pd.Series([np.nan]), pd.Series([], dtype=float)) is None


def test_each_chart_is_valid_vega_lite() -> None:
    found = {**charts.training_charts(history(3)), **charts.property_charts(molecules(), molecules())}
    assert set(found) == {*charts.CURVES, *charts.TITLES}
    found["dimensions"] = charts.dimension_chart(dimensions(3), 3)
    for chart in found.values():
        chart.to_dict(validate=True)  # raises SchemaValidationError


def test_charts_can_be_saved_as_svg(tmp_path: Path) -> None:
    chart = charts.property_charts(molecules(), molecules())["mw"]
    chart.save(tmp_path / "mw.svg")
    assert "molecular weight" in (tmp_path / "mw.svg").read_text("utf-8")


def test_the_dimensions_of_the_best_epoch_are_drawn_by_their_kl_and_those_of_none_are_not() -> None:
    spec = charts.dimension_chart(dimensions(5), 4).to_dict()
    (rows,) = spec["datasets"].values()
    assert [round(row["kl_nats"], 9) for row in rows] == [0.8] * 64 + [0.0] * 64
    assert [row["rank"] for row in rows] == list(range(1, 129))
    assert charts.dimension_chart(dimensions(5), 6) is charts.dimension_chart(dimensions(0), None) is None


def test_several_rows_an_epoch_are_drawn_over_steps() -> None:
    table = pd.concat([history(2), history(2).assign(step=[100, 200])])
    spec = charts.training_charts(table)["total"].to_dict()
    assert spec["encoding"]["x"]["field"] == "step"


# --- words


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (np.nan, "–"), (21900, "21\u202f900"), (0.5, "0.500"), (43.14, "43.1"), (1e-5, "1.00e-05")],
)
def test_a_figure_is_written_for_a_person(value: object, text: str) -> None:
    assert summary.number(value) == text


def test_durations_and_raw_texts_are_readable() -> None:
    assert [duration(s) for s in (0.2, 270.1, 7200, None)] == ["under 1 s", "4 min 30 s", "2 h", "an unknown time"]
    assert visible("C\n\x1b[0m\ud800") == "C\\u000a\\u001b[0m\\ud800"


def test_the_page_of_a_fine_tuned_model_says_which_symbols_were_learned(folder: Folder) -> None:
    books = json.loads((folder.path / "tokens/books.json").read_text())
    start = {"start": "pretrained:moses", "new_symbols": {"[I]": 6, "[Se]": 1}, "dropped_symbols": {}}
    folder.json("tokens/books.json", books | start)
    said = "Symbols that pretrained:moses lacked, learned: [I]: 6, [Se]: 1; molecules rejected for one: none."
    assert said in text_of(folder.page())

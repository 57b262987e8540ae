"""What `suite.py train` brought back as model folders that `molvae.load` opens and tables that `molvae validate` reads.

Runs where molvae is installed. Writes model/ with the prior of training and model-flow/, model-mixture/ with the fitted
ones; NAME.parquet and NAME.smi of each set of strings; figures.json. FCD/Test is to the MOSES test set.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from weights import read_weights

from molvae.chemistry.selfies_codec import decode
from molvae.chemistry.tokenization import selfies_of
from molvae.config import ModelSettings, PriorSettings
from molvae.data.vocabulary import UNK, Vocabulary
from molvae.metrics import fcd
from molvae.metrics.molecule_table import describe_strings, nothing
from molvae.metrics.reference_sets import PROPERTIES, Reference, Training, hashes
from molvae.metrics.suite import SampleSet, compute, further_figures, moses_figures
from molvae.model_io.folder import WEIGHTS, save_model, save_prior
from molvae.nn.priors import make_prior
from molvae.nn.vae import VAE
from molvae.runtime.files import fingerprint, read_json, sha256, write_json
from molvae.stages.sample import SAMPLES

SHOWN = ("FCD/Test", "valid", "unique@1000", "unique@10000", "Novelty", "kept_tokens", "stable")


def unpack(run: Path, tokens: Path, out: Path, workers: int) -> None:
    """Write the models, the tables and the figures into `out`, and print the figures."""
    about = read_json(run / "train.json")
    file = tokens / "vocabulary.json"
    vocabulary = Vocabulary.from_json(read_json(file), str(file))
    if fingerprint(vocabulary.to_json()) != about["vocabulary"]["fingerprint"]:
        raise SystemExit(f"{tokens}: not the tokens that {run} was trained on.")
    write_models(run, about, vocabulary, out)
    sets = read_strings(run / "strings.npz")
    held_out = sets.pop("held_out")
    figures, (reference, training) = {}, held_against(tokens)
    for name, part in sets.items():
        symbols = [selfies_of(vocabulary, ids) for ids in part["ids"]]
        rows = describe_strings(symbols, vocabulary.caps, of=nothing, workers=workers)
        forms, is_stable = rows["canonical"].tolist(), rows["is_stable"].to_numpy(bool)
        write_table(out, name, symbols, part | {"stable": is_stable}, vocabulary)
        if name == "greedy":
            known = [ids if UNK not in ids else [] for ids in held_out["ids"]]  # no model writes what it does not know
            texts = [selfies_of(vocabulary, ids) for ids in known]
            wanted = describe_strings(texts, vocabulary.caps, of=nothing, workers=workers)["canonical"]
            same = [form == original != "" for form, original in zip(forms, wanted, strict=True)]
            figures[name] = {"same_molecule": float(np.mean(same))}
        else:
            figures[name] = score(SampleSet(rows, stable_share=float(is_stable.mean())), reference, training)
            stable = SampleSet(rows[is_stable].reset_index(drop=True))
            if found := score(stable, reference, training).get("FCD/Test"):
                figures[name] |= {"FCD/Test, stable": found, "n, stable": len(stable.rows)}
        figures[name] = {"n": len(forms), **figures[name], **about["strings"][name]}
        print(name, "  ".join(f"{figure} {value:.5g}" for figure, value in figures[name].items() if value is not None))
    write_json(out / "figures.json", {"strings": figures, "priors": about["priors"]})


def held_against(tokens: Path) -> tuple[Reference, Training]:
    """The MOSES test set, as far as the package ships it, and the training molecules, as far as novelty asks."""
    nothing = np.empty(0)
    statistics = fcd.moses_test()
    reference = Reference("MOSES test", statistics.n, statistics, nothing, {}, {}, dict.fromkeys(PROPERTIES, nothing))
    table = pyarrow.parquet.read_table(tokens / "molecules.parquet", columns=["smiles", "split"])
    smiles = table.filter(pyarrow.compute.equal(table.column("split"), "train")).column("smiles").to_pylist()
    known = hashes(smiles)
    return reference, Training("training molecules", len(smiles), known, known, known, known, nothing, ())


def score(samples: SampleSet, reference: Reference, training: Training) -> dict[str, float | None]:
    """The figures of SHOWN that have enough molecules."""
    figures = [*moses_figures(samples, {"Test": reference}, training), *further_figures(samples, {}, training)]
    found, _ = compute([figure for figure in figures if figure.name in SHOWN])
    return {name: estimate.value for name, estimate in found.items()}


def write_models(run: Path, about: dict[str, Any], vocabulary: Vocabulary, out: Path) -> None:
    """A folder for the model with each prior."""
    weights = read_weights(run)
    model = VAE(len(vocabulary), ModelSettings(**about["model"]))
    model.load_state_dict(weights.pop("model"))
    left_out = ("model", "train", "prior", "history", "kl_by_dimension", "priors", "strings")
    card = {
        "settings": {"model": about["model"], "train": about["train"]},
        "training": {name: value for name, value in about.items() if name not in left_out},
        "metrics": about["history"][about["best_epoch"] - 1] if about["history"] else {},
    }
    save_model(out / "model", model, vocabulary, card)
    if (run / "history.csv").exists():
        shutil.copy(run / "history.csv", out / "model/history.csv")
    for kind, tensors in weights.items():
        folder = out / f"model-{kind}"
        save_model(folder, model, vocabulary, card)
        chosen = PriorSettings(**{**about["prior"], "kind": kind})
        prior = make_prior(kind, chosen.components, model.encoder)
        prior.load_state_dict(tensors)
        about_prior = {"settings": chosen.model_dump(), "weights_sha256": sha256(folder / WEIGHTS)}
        save_prior(folder, prior, about_prior | {"metrics": about["priors"][kind]})


def read_strings(path: Path) -> dict[str, dict[str, Any]]:
    """Each set's arrays by name, its ids cut into strings."""
    sets: dict[str, dict[str, Any]] = {}
    with np.load(path) as file:
        for key in file.files:
            name, _, array = key.partition(".")
            sets.setdefault(name, {})[array] = file[key]
    for part in sets.values():
        part["ids"] = [ids.tolist() for ids in np.split(part["ids"], np.cumsum(part["lengths"])[:-1])]
    return sets


def write_table(out: Path, name: str, symbols: list[list[str]], part: dict[str, Any], vocabulary: Vocabulary) -> None:
    """The strings as `molvae sample` writes them."""
    smiles = [decode(one, vocabulary.caps) for one in symbols]
    columns = {
        "index": list(range(len(smiles))),
        "seed": [0] * len(smiles),
        "selfies": ["".join(one) for one in symbols],
        "smiles": smiles,
        "log_probability": part["log_probability"].astype(np.float64),
        "tokens": [len(one) for one in symbols],
        "finished": part["finished"],
        "stable": part["stable"],
        "attempts": [1] * len(smiles),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=SAMPLES), out / f"{name}.parquet")
    (out / f"{name}.smi").write_text("\n".join(smiles) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder that `suite.py train` wrote")
    parser.add_argument("tokens", type=Path, help="folder that `molvae featurize` wrote, the one that was packed")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    unpack(arguments.run, arguments.tokens, arguments.out, arguments.threads)


if __name__ == "__main__":
    main()

"""Unpack what `suite.py train` brought back: model folders that `molvae.load` opens, tables for `molvae validate`.

Runs where molvae is installed. Writes model/ with the prior of training and model-flow/, model-mixture/ with the fitted
ones; NAME.parquet and NAME.smi of each set of strings; metrics.json. FCD/Test is to the MOSES test set.
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

from molvae.chemistry.selfies_codec import decode_selfies
from molvae.config import ModelSettings, PriorSettings
from molvae.data.token_store import VOCABULARY_FILE
from molvae.data.tokenizer import ids_to_selfies
from molvae.data.vocabulary import UNK, Vocabulary
from molvae.metrics import fcd
from molvae.metrics.molecule_table import describe_nothing, describe_selfies
from molvae.metrics.reference_sets import PROPERTY_COLUMNS, ReferenceSet, TrainingSet, hash_texts
from molvae.metrics.sample_set import SampleSet
from molvae.metrics.suite import build_further_metrics, build_moses_metrics, compute_metrics
from molvae.model_io.card import WEIGHTS_FILE
from molvae.model_io.folder import save_model, save_prior
from molvae.nn.priors import build_prior
from molvae.nn.vae import VAE
from molvae.runtime.files import compute_json_hash, compute_sha256, read_json, write_json
from molvae.stages.sample import SAMPLE_SCHEMA

SHOWN = ("FCD/Test", "valid", "unique@1000", "unique@10000", "Novelty", "token_survival", "round_trip_rate")


def unpack(run: Path, tokens: Path, out: Path, workers: int) -> None:
    """Write the models, the tables and the metrics into `out`, and print the metrics.

    Args:
        run: folder that `suite.py train` wrote.
        tokens: folder that `featurize` wrote, the one that was packed.
        out: folder to write.
        workers: processes.
    """
    result = read_json(run / "train.json")
    file = tokens / VOCABULARY_FILE
    vocabulary = Vocabulary.from_json(read_json(file), str(file))
    if compute_json_hash(vocabulary.to_json()) != result["vocabulary"]["fingerprint"]:
        raise SystemExit(f"{tokens}: not the tokens that {run} was trained on.")
    write_models(run, result, vocabulary, out)
    sets = read_strings(run / "strings.npz")
    held_out = sets.pop("held_out")
    metrics, (reference, training) = {}, build_comparison_sets(tokens)

    def describe(selfies: list[list[str]]) -> Any:
        return describe_selfies(selfies, vocabulary.constraints, describe=describe_nothing, workers=workers)

    for name, arrays in sets.items():
        selfies = [ids_to_selfies(vocabulary, ids) for ids in arrays["ids"]]
        rows = describe(selfies)
        canonical, is_round_trip = rows["canonical"].tolist(), rows["is_round_trip"].to_numpy(bool)
        write_table(out, name, selfies, arrays | {"round_trip": is_round_trip}, vocabulary)
        if name == "greedy":
            known = [ids if UNK not in ids else [] for ids in held_out["ids"]]  # no model decodes what it does not know
            originals = describe([ids_to_selfies(vocabulary, ids) for ids in known])["canonical"]
            is_same = [form == original != "" for form, original in zip(canonical, originals, strict=True)]
            metrics[name] = {"same_molecule": float(np.mean(is_same))}
        else:
            samples = SampleSet(rows, round_trip_rate=float(is_round_trip.mean()))
            metrics[name] = compute_shown_metrics(samples, reference, training)
            consistent = SampleSet(rows[is_round_trip].reset_index(drop=True))
            if distance := compute_shown_metrics(consistent, reference, training).get("FCD/Test"):
                metrics[name] |= {
                    "FCD/Test, round-trip consistent": distance,
                    "n, round-trip consistent": len(consistent.rows),
                }
        metrics[name] = {"n": len(canonical), **metrics[name], **result["strings"][name]}
        print(name, "  ".join(f"{key} {value:.5g}" for key, value in metrics[name].items() if value is not None))
    write_json(out / "metrics.json", {"strings": metrics, "priors": result["priors"]})


def build_comparison_sets(tokens: Path) -> tuple[ReferenceSet, TrainingSet]:
    """Build the MOSES test set, as far as the package ships it, and the training molecules, as novelty needs them."""
    nothing = np.empty(0)
    statistics = fcd.load_moses_test_statistics()
    reference = ReferenceSet(
        "MOSES test", statistics.n, statistics, nothing, {}, {}, dict.fromkeys(PROPERTY_COLUMNS, nothing)
    )
    table = pyarrow.parquet.read_table(tokens / "molecules.parquet", columns=["smiles", "split"])
    smiles = table.filter(pyarrow.compute.equal(table.column("split"), "train")).column("smiles").to_pylist()
    known = hash_texts(smiles)
    return reference, TrainingSet("training molecules", len(smiles), known, known, known, None, nothing, ())


def compute_shown_metrics(
    samples: SampleSet, reference: ReferenceSet, training: TrainingSet
) -> dict[str, float | None]:
    """Compute the metrics of SHOWN that have enough molecules."""
    metrics = [
        *build_moses_metrics(samples, {"Test": reference}, training),
        *build_further_metrics(samples, {}, training),
    ]
    estimates, _ = compute_metrics([metric for metric in metrics if metric.name in SHOWN])
    return {name: estimate.value for name, estimate in estimates.items()}


def write_models(run: Path, result: dict[str, Any], vocabulary: Vocabulary, out: Path) -> None:
    """Write a folder for the model with each prior."""
    weights = read_weights(run)
    model = VAE(len(vocabulary), ModelSettings(**result["model"]))
    model.load_state_dict(weights.pop("model"))
    left_out = ("model", "train", "prior", "history", "kl_by_dimension", "priors", "strings")
    card = {
        "settings": {"model": result["model"], "train": result["train"]},
        "training": {name: value for name, value in result.items() if name not in left_out},
        "metrics": result["history"][result["best_epoch"] - 1] if result["history"] else {},
    }
    save_model(out / "model", model, vocabulary, card)
    if (run / "history.csv").exists():
        shutil.copy(run / "history.csv", out / "model/history.csv")
    for kind, tensors in weights.items():
        folder = out / f"model-{kind}"
        save_model(folder, model, vocabulary, card)
        settings = PriorSettings(**{**result["prior"], "kind": kind})
        prior = build_prior(settings.kind, settings.components, model.encoder)
        prior.load_state_dict(tensors)
        prior_card = {"settings": settings.model_dump(), "weights_sha256": compute_sha256(folder / WEIGHTS_FILE)}
        save_prior(folder, prior, prior_card | {"metrics": result["priors"][kind]})


def read_strings(path: Path) -> dict[str, dict[str, Any]]:
    """Read each set's arrays by name, its ids cut into strings."""
    sets: dict[str, dict[str, Any]] = {}
    with np.load(path) as file:
        for key in file.files:
            name, _, array = key.partition(".")
            sets.setdefault(name, {})[array] = file[key]
    for arrays in sets.values():
        arrays["ids"] = [ids.tolist() for ids in np.split(arrays["ids"], np.cumsum(arrays["lengths"])[:-1])]
    return sets


def write_table(out: Path, name: str, selfies: list[list[str]], arrays: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Write the strings as `molvae sample` does."""
    smiles = [decode_selfies(symbols, vocabulary.constraints) for symbols in selfies]
    columns = {
        "index": list(range(len(smiles))),
        "seed": [0] * len(smiles),
        "selfies": ["".join(symbols) for symbols in selfies],
        "smiles": smiles,
        "log_probability": arrays["log_probability"].astype(np.float64),
        "tokens": [len(symbols) for symbols in selfies],
        "finished": arrays["finished"],
        "round_trip": arrays["round_trip"],
        "tries": [1] * len(smiles),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=SAMPLE_SCHEMA), out / f"{name}.parquet")
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

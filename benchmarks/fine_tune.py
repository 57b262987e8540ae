"""Fine-tuning on a few thousand molecules, against a training from scratch with as many steps.

`pretrained:moses` continues with the training molecules of a set that has elements, charges and stereo marks MOSES
lacks; the same networks learn the same molecules from scratch, with a vocabulary of their own. Each side takes the
learning rate, of a few, that is best on held-out molecules. Losses are of the test split, negative ELBO in nats a
molecule; of both sides 1000 round-trip consistent samples are scored by `molvae evaluate` against the test split.
Without --data the set is Lipophilicity of MoleculeNet (4200 molecules of ChEMBL).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ours
import torch
from example import write_example
from record import make_parser, print_ratio, write_result

from molvae.chemistry.selfies_codec import decode_selfies
from molvae.commands.evaluate import evaluate as evaluate_file
from molvae.config import DataSettings, FeaturizeSettings, FinetuneSettings, SampleSettings, TrainSettings
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import SPECIAL, Vocabulary
from molvae.inference.round_trip_filter import iter_selfies, make_round_trip_filter
from molvae.inference.sampling import SamplingOptions, sample_prior
from molvae.model_io.card import get_max_tokens
from molvae.model_io.folder import load_model_as_trained
from molvae.model_io.pretrained import resolve_model_folder
from molvae.nn.vae import VAE, resize_token_embeddings
from molvae.runtime.files import read_json
from molvae.stages.featurize import featurize, featurize_shard
from molvae.stages.fetch import fetch
from molvae.stages.train import choose_model_settings, train
from molvae.training.evaluation import evaluate_held_out

COMMIT = "beb35cd0b76db5adef6cb1fa55807e4cd309aaed"
SOURCE = f"https://raw.githubusercontent.com/GLambard/Molecules_Dataset_Collection/{COMMIT}/originals/Lipophilicity.csv"
SHA256 = "aed41590cb30609d51d8e08ad3ff06495a76e80e211358801f596b10da69bacd"
FINETUNE = FinetuneSettings(model="pretrained:moses")
SPLITS = FeaturizeSettings(valid_fraction=0.1, test_fraction=0.2)
RATES = {"fine-tuned": (3e-4, 1e-3, 3e-3), "from scratch": (1e-3, 3e-3)}
SHOWN = ("FCD/Test", "SNN/Test", "Scaf/Test", "IntDiv", "unique@1000", "Novelty")
CPU = torch.device("cpu")


def featurize_dataset(dataset: Path, folder: Path, finetune: FinetuneSettings | None, workers: int) -> ours.Tokens:
    """Featurise with the vocabulary of a model, or with one of the molecules' own."""
    shard = folder.with_suffix(".parquet")
    featurize_shard(dataset, SPLITS, shard, finetune=finetune, workers=workers)
    featurize([shard], SPLITS, folder, finetune=finetune)
    return ours.read_tokens(folder)


def train_model(
    tokens: Path, folder: Path, finetune: FinetuneSettings | None, settings: TrainSettings, threads: int
) -> list[float]:
    """Train a model in `folder`; returns the loss of held-out molecules after each epoch."""
    losses: list[float] = []
    train(
        tokens,
        choose_model_settings(ours.MOSES_SIZES, FINETUNE),  # the same for both sides
        settings,
        folder,
        checkpoints=folder.parent / "checkpoints",
        device=CPU,
        threads=threads,
        finetune=finetune,
        on_epoch=lambda row: losses.append(row["valid_loss_nats"]),
    )
    print(folder.name, settings.learning_rate, " ".join(f"{loss:.2f}" for loss in losses), flush=True)
    return losses


def compute_loss(model: VAE, molecules: TokenSet, settings: TrainSettings) -> float:
    """Compute the negative ELBO, nats a molecule."""
    return evaluate_held_out(model.eval(), molecules, settings, CPU).metrics["valid_loss_nats"]


def score_samples(
    model: VAE,
    vocabulary: Vocabulary,
    new_symbols: set[str],
    settings: SampleSettings,
    files: dict[str, Path],
    folder: Path,
    threads: int,
) -> dict[str, Any]:
    """Compute metrics of samples, and the fraction of them with one of the new symbols."""
    options = SamplingOptions(
        seed=settings.seed,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens or get_max_tokens({}),
        max_tries=settings.max_tries,
        threads=threads,
    )
    strings = sample_prior(model, 0, settings.n, options, make_round_trip_filter(vocabulary))
    selfies = list(iter_selfies(vocabulary, strings))
    samples = folder / "samples.smi"
    samples.write_text("\n".join(decode_selfies(symbols, vocabulary.constraints) for symbols in selfies) + "\n")
    test, train_file, cache = str(files["test"]), str(files["train"]), folder / "cache"
    metrics = evaluate_file(samples, test, train=train_file, cache=cache, threads=threads)["metrics"]
    entries = {entry["name"]: entry for entry in metrics if entry["name"] in SHOWN}
    return {
        "n": settings.n,
        "round_trip_rate": float(np.sum(strings.accepted) / np.sum(strings.tries)),
        "with_new_symbols": float(np.mean([not new_symbols.isdisjoint(symbols) for symbols in selfies])),
        **{name: {key: entry[key] for key in ("value", "interval", "baselines")} for name, entry in entries.items()},
    }


def measure(data: DataSettings, epochs: int, samples: SampleSettings, threads: int) -> dict[str, Any]:
    """Measure both sides and the model before."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fetch(data, folder / "rows.parquet")
        tokens = {
            "fine-tuned": featurize_dataset(folder / "rows.parquet", folder / "extended", FINETUNE, threads),
            "from scratch": featurize_dataset(folder / "rows.parquet", folder / "scratch", None, threads),
        }
        counts = read_json(folder / "extended" / "counts.json")
        files = {split: folder / f"{split}.smi" for split in ("train", "test")}
        for split, file in files.items():
            file.write_text("\n".join(tokens["fine-tuned"].smiles[split]) + "\n")

        settings = TrainSettings(epochs=epochs, batch_size=64, dropout=0.2, patience=epochs)
        base_model, base_vocabulary, _ = load_model_as_trained(resolve_model_folder(FINETUNE.model))
        extended = tokens["fine-tuned"].vocabulary
        resized = resize_token_embeddings(
            base_model,
            choose_model_settings(ours.MOSES_SIZES, FINETUNE),
            len(extended),
            extended.map_ids_from(base_vocabulary, ""),
        )
        known_rows = _find_known_rows(tokens["fine-tuned"], base_vocabulary)
        models = {"before": (resized, tokens["fine-tuned"])}
        losses_by_rate: dict[str, dict[str, list[float]]] = {}
        for side, name, finetune in (("fine-tuned", "extended", FINETUNE), ("from scratch", "scratch", None)):
            losses = losses_by_rate[side] = {}
            for rate in RATES[side]:
                chosen = settings.model_copy(update={"learning_rate": rate})
                losses[str(rate)] = train_model(folder / name, folder / f"{name} {rate}", finetune, chosen, threads)
            best = min(losses, key=lambda rate: min(losses[rate]))
            models[side] = load_model_as_trained(folder / f"{name} {best}").network, tokens[side]
        results = {}
        for side, (model, side_tokens) in models.items():
            test = side_tokens.splits["test"]
            test_losses = {
                "test_nats": compute_loss(model, test, settings),
                "test_nats_known": compute_loss(model, test.select(known_rows), settings),
            }
            sampler = (base_model, base_vocabulary) if side == "before" else (model, side_tokens.vocabulary)
            new_symbols = set(counts["new_symbols"])
            results[side] = test_losses | score_samples(*sampler, new_symbols, samples, files, folder, threads)
            print(side, results[side], flush=True)
    return {
        "data": {"file": Path(data.source).name, "sha256": counts["dataset"]["sha256"]},
        "molecules": {split: len(smiles) for split, smiles in tokens["fine-tuned"].smiles.items()},
        "test_molecules_of_known_symbols": len(known_rows),
        "new_symbols": counts["new_symbols"],
        "mean_tokens": {side: float(np.mean(part.splits["train"].lengths)) for side, part in tokens.items()},
        "settings": settings.model_dump(exclude={"learning_rate"}),
        "steps": epochs * -(-len(tokens["fine-tuned"].splits["train"]) // settings.batch_size),
        "threads": threads,
        "held_out_nats_after_each_epoch": losses_by_rate,
        "models": results,
    }


def _find_known_rows(tokens: ours.Tokens, base: Vocabulary) -> np.ndarray:
    """Rows of the test molecules that the base model knows all symbols of."""
    new_ids = range(len(SPECIAL) + len(base.symbols), len(SPECIAL) + len(tokens.vocabulary.symbols))
    test = tokens.splits["test"]
    return np.array([row for row in range(len(test)) if all(k >= len(SPECIAL) and k not in new_ids for k in test[row])])


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--data", help="file with molecules instead")
    parser.add_argument("--column", default="smiles", help="of the file")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.quick:  # shows that it runs
        RATES.update({"fine-tuned": (1e-3,), "from scratch": (3e-3,)})
        with tempfile.TemporaryDirectory() as temporary:
            data = DataSettings(source=str(write_example(200, Path(temporary))))
            result = measure(data, 1, SampleSettings(n=40, max_tries=1), arguments.threads)
    else:
        sha256 = None if arguments.data else SHA256
        data = DataSettings(source=arguments.data or SOURCE, column=arguments.column, sha256=sha256)
        result = measure(data, arguments.epochs, SampleSettings(n=arguments.samples), arguments.threads)
    write_result(arguments.json, result)
    before, after, scratch = (result["models"][side]["test_nats"] for side in ("before", *RATES))
    print(f"test loss, nats a molecule: {before:.1f} before, {after:.1f} fine-tuned, {scratch:.1f} from scratch")
    print_ratio(scratch / after)


if __name__ == "__main__":
    main()

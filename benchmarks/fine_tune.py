"""Fine-tuning on a few thousand molecules, against a training from nothing with as many steps.

`pretrained:moses` goes on with the training molecules of a set that has elements, charges and stereo marks MOSES lacks;
the same networks learn the same molecules from nothing, with a vocabulary of their own. Each side takes the learning
rate, of some, that is best on held-out molecules. Losses are of the test split, negative ELBO in nats a molecule; of
both sides 1000 stable samples are judged by `molvae evaluate` against the test split. Without --data the set is
Lipophilicity of MoleculeNet (4200 molecules of ChEMBL).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ours
import torch
from record import options, write

from molvae.api import Model
from molvae.commands.evaluate import evaluate as score
from molvae.config import DataSettings, FeaturizeSettings, SampleSettings, StartSettings, TrainSettings
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import SPECIAL, Vocabulary
from molvae.inference.sampling import sample_prior
from molvae.model_io.folder import load_trained
from molvae.model_io.loading import stable
from molvae.model_io.pretrained import folder_of
from molvae.nn.vae import VAE, extended
from molvae.runtime.files import read_json
from molvae.stages.featurize import featurize, featurize_block
from molvae.stages.fetch import fetch
from molvae.stages.train import networks, train
from molvae.training.trainer import evaluate

COMMIT = "beb35cd0b76db5adef6cb1fa55807e4cd309aaed"
SOURCE = f"https://raw.githubusercontent.com/GLambard/Molecules_Dataset_Collection/{COMMIT}/originals/Lipophilicity.csv"
SHA256 = "aed41590cb30609d51d8e08ad3ff06495a76e80e211358801f596b10da69bacd"
START = StartSettings(model="pretrained:moses")
SPLITS = FeaturizeSettings(valid_fraction=0.1, test_fraction=0.2)
RATES = {"fine-tuned": (3e-4, 1e-3, 3e-3), "from scratch": (1e-3, 3e-3)}
SHOWN = ("FCD/Test", "SNN/Test", "Scaf/Test", "IntDiv", "unique@1000", "Novelty")
CPU = torch.device("cpu")


def tokens_of(dataset: Path, folder: Path, start: StartSettings | None, workers: int) -> ours.Tokens:
    """Featurise with the vocabulary of a model, or with one of the molecules' own."""
    block = folder.with_suffix(".parquet")
    featurize_block(dataset, SPLITS, block, start=start, workers=workers)
    featurize([block], SPLITS, folder, start=start)
    return ours.read(folder)


def trial(
    tokens: Path, folder: Path, start: StartSettings | None, settings: TrainSettings, threads: int
) -> list[float]:
    """Train a model in `folder`; the loss of held-out molecules after each epoch."""
    sizes = networks(ours.MOSES_SIZES, START)  # the same for both sides
    losses: list[float] = []
    train(
        tokens, sizes, settings, folder, checkpoints=folder.parent / "checkpoints", device=CPU, threads=threads,
        start=start, on_epoch=lambda row: losses.append(row["valid_loss_nats"]),
    )  # fmt: skip
    print(folder.name, settings.learning_rate, " ".join(f"{loss:.2f}" for loss in losses), flush=True)
    return losses


def loss(model: VAE, molecules: TokenSet, settings: TrainSettings) -> float:
    """Negative ELBO, nats a molecule."""
    return evaluate(model.eval(), molecules, settings, CPU)[0]["valid_loss_nats"]


def judge(
    model: VAE,
    vocabulary: Vocabulary,
    new: set[str],
    rules: SampleSettings,
    files: dict[str, Path],
    folder: Path,
    threads: int,
) -> dict[str, Any]:
    """Figures of samples, and how many of them hold symbols of `new`."""
    strings = sample_prior(
        model, 0, rules.n, seed=rules.seed, temperature=rules.temperature, max_tokens=rules.max_tokens, threads=threads,
        accept=stable(vocabulary), attempts=rules.attempts,
    )  # fmt: skip
    opened = Model(model, vocabulary, {})
    symbols = list(opened.symbols(strings))
    samples = folder / "samples.smi"
    samples.write_text("\n".join(map(opened.smiles, symbols)) + "\n")
    found = score(
        samples, str(files["test"]), train=str(files["train"]), cache=folder / "cache", threads=threads
    )["metrics"]  # fmt: skip
    shown = {one["name"]: one for one in found if one["name"] in SHOWN}
    return {
        "n": rules.n,
        "stable_strings": float(np.sum(strings.accepted) / np.sum(strings.attempts)),
        "with_new_symbols": float(np.mean([not new.isdisjoint(string) for string in symbols])),
        **{name: {key: one[key] for key in ("value", "interval", "baselines")} for name, one in shown.items()},
    }


def measure(data: DataSettings, epochs: int, samples: SampleSettings, threads: int) -> dict[str, Any]:
    """Both sides and the model before."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fetch(data, folder / "rows.parquet")
        tokens = {
            "fine-tuned": tokens_of(folder / "rows.parquet", folder / "extended", START, threads),
            "from scratch": tokens_of(folder / "rows.parquet", folder / "own", None, threads),
        }
        books = read_json(folder / "extended" / "books.json")
        files = {split: folder / f"{split}.smi" for split in ("train", "test")}
        for split, file in files.items():
            file.write_text("\n".join(tokens["fine-tuned"].smiles[split]) + "\n")

        settings = TrainSettings(epochs=epochs, batch_size=64, dropout=0.2, patience=epochs)
        start, known, _ = load_trained(folder_of(START.model))
        base = extended(
            start, networks(ours.MOSES_SIZES, START), len(tokens["fine-tuned"].vocabulary),
            tokens["fine-tuned"].vocabulary.ids_of(known, ""),
        )  # fmt: skip
        readable = _readable(tokens["fine-tuned"], known)
        models = {"before": (base, tokens["fine-tuned"])}
        rates: dict[str, dict[str, list[float]]] = {}
        for side, path, origin in (("fine-tuned", "extended", START), ("from scratch", "own", None)):
            rates[side] = {}
            for rate in RATES[side]:
                out = folder / f"{path} {rate}"
                chosen = settings.model_copy(update={"learning_rate": rate})
                rates[side][str(rate)] = trial(folder / path, out, origin, chosen, threads)
            best = min(rates[side], key=lambda rate: min(rates[side][rate]))
            models[side] = load_trained(folder / f"{path} {best}")[0], tokens[side]
        found = {}
        for side, (model, own) in models.items():
            test = own.splits["test"]
            losses = {
                "test_nats": loss(model, test, settings),
                "test_nats_known": loss(model, test.select(readable), settings),
            }
            writer = (start, known) if side == "before" else (model, own.vocabulary)
            found[side] = losses | judge(*writer, set(books["new_symbols"]), samples, files, folder, threads)
            print(side, found[side], flush=True)
    return {
        "data": {"file": Path(data.source).name, "sha256": books["dataset"]["sha256"]},
        "molecules": {split: len(smiles) for split, smiles in tokens["fine-tuned"].smiles.items()},
        "test_molecules_of_known_symbols": len(readable),
        "new_symbols": books["new_symbols"],
        "mean_tokens": {side: float(np.mean(own.splits["train"].lengths)) for side, own in tokens.items()},
        "settings": settings.model_dump(exclude={"learning_rate"}),
        "steps": epochs * -(-len(tokens["fine-tuned"].splits["train"]) // settings.batch_size),
        "threads": threads,
        "held_out_nats_after_each_epoch": rates,
        "models": found,
    }


def _readable(tokens: ours.Tokens, known: Vocabulary) -> np.ndarray:
    """Rows of the test molecules that the model knew all symbols of before."""
    fresh = range(len(SPECIAL) + len(known.symbols), len(SPECIAL) + len(tokens.vocabulary.symbols))
    test = tokens.splits["test"]
    return np.array([row for row in range(len(test)) if all(k >= len(SPECIAL) and k not in fresh for k in test[row])])


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", help="file with molecules instead")
    parser.add_argument("--column", default="smiles", help="of the file")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.quick:  # shows that it runs
        RATES.update({"fine-tuned": (1e-3,), "from scratch": (3e-3,)})
        with tempfile.TemporaryDirectory() as temporary:
            data = DataSettings(source=str(ours.example(200, Path(temporary))))
            result = measure(data, 1, SampleSettings(n=40, attempts=1), arguments.threads)
    else:
        sha256 = None if arguments.data else SHA256
        data = DataSettings(source=arguments.data or SOURCE, column=arguments.column, sha256=sha256)
        result = measure(data, arguments.epochs, SampleSettings(n=arguments.samples), arguments.threads)
    write(arguments.json, result)
    before, after, scratch = (result["models"][side]["test_nats"] for side in ("before", *RATES))
    print(f"test loss, nats a molecule: {before:.1f} before, {after:.1f} fine-tuned, {scratch:.1f} from scratch")
    print(f"ratio {scratch / after:.2f}")


if __name__ == "__main__":
    main()

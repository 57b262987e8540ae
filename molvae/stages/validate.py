"""Stage `validate`: what RDKit says of each sample, and what the samples are worth as a set.

Every sample keeps its row. A figure stands beside its nulls (random tokens, shuffled latent points) and its ceiling
(training molecules), computed in the same way on as many molecules.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from molvae.data.accounting import close_books
from molvae.data.sharding import Share
from molvae.data.token_store import read_tokens
from molvae.data.vocabulary import Vocabulary
from molvae.errors import DataError, did_you_mean
from molvae.metrics import baselines
from molvae.metrics.evaluation import Baseline, evaluate
from molvae.metrics.molecule_table import PARTS, describe_all, describe_strings, everything, nothing
from molvae.metrics.reference_sets import Reference, known, read_references, reference_of, told, training_of
from molvae.metrics.suite import SampleSet
from molvae.model_io.folder import load_model
from molvae.model_io.loading import stable
from molvae.runtime.files import read_json, replacing, write_json
from molvae.runtime.provenance import versions
from molvae.runtime.seeds import derive
from molvae.runtime.workers import Workers
from molvae.stages.reference import MOSES, cache_folder, cached_references

if TYPE_CHECKING:
    from molvae.config import SampleSettings, ValidateSettings
    from molvae.data.dataset import TokenSet
    from molvae.nn.vae import VAE

log = logging.getLogger(__name__)
REFERENCE_MOLECULES = 2000  # training molecules described for the property histograms
# what is asked of sets that place the prior and the sampler: all that needs no more than who the molecules are
IDENTITY = ("valid", "unique@1000", "unique@10000", "FCD", "Novelty", "Novelty_canonical", "kept_tokens", "stable")


def validate_block(samples: Path, out: Path, *, share: Share = Share(), workers: int = 1) -> None:
    """Describe one share of the samples, a row each, into `out` (parquet)."""
    table = pd.read_parquet(samples)
    rows = share.range(len(table))
    with replacing(out) as temporary:
        _describe(table.iloc[rows.start : rows.stop], workers).to_parquet(temporary, index=False)


def _describe(table: pd.DataFrame, workers: int | Workers) -> pd.DataFrame:
    """The rows of a table with a column `smiles` (and `selfies`, if there) and what RDKit says of each."""
    strings = table["selfies"].tolist() if "selfies" in table else None
    found = describe_all(table["smiles"].tolist(), strings, workers=workers)
    return pd.concat([table.reset_index(drop=True), found], axis=1)


def validate(
    blocks: Sequence[Path],
    tokens: Path,
    model: Path,
    settings: ValidateSettings,
    out: Path,
    *,
    drawn: SampleSettings,
    references: Path | None = None,
    threads: int,
) -> dict[str, Any]:
    """Put all shares together and score them.

    Writes molecules.parquet (a row a sample), reference.parquet (descriptors of training molecules), metrics.json
    and books.json.

    Args:
        drawn: the settings that the samples were drawn with; the baselines are drawn with the same.
        references: a file of `molvae reference`; without it that of `settings.reference` is taken from the cache.
    """
    import torch

    torch.set_num_threads(threads)
    tables = [pd.read_parquet(block) for block in blocks]
    molecules = pd.concat([table for table in tables if len(table)], ignore_index=True)  # an empty one has no types
    splits = read_tokens(tokens / "tokens.safetensors")
    network, vocabulary, _ = load_model(model)
    if Vocabulary.from_json(read_json(tokens / "vocabulary.json"), str(tokens / "vocabulary.json")) != vocabulary:
        raise DataError(f"{tokens}: not the tokens that {model} was trained on. Give --tokens and --model of one run.")
    with Workers(threads) as workers:
        held_against = _references(settings, tokens, references, workers)
        smiles = _molecules_of("train", tokens)
        training = training_of(smiles, told("split 'train' of the data", smiles), workers=workers)

        log.info("scoring %d samples", len(molecules))
        written = molecules["attempts"].sum() if "attempts" in molecules else len(molecules)
        own = SampleSet(molecules, stable_share=_stable_share(molecules, written), workers=workers)
        beside: Iterable[Baseline] = ()
        if settings.baselines:
            beside = _baselines(network, vocabulary, splits["train"], len(molecules), drawn, workers)
        found = evaluate(own, held_against, training, beside, seed=drawn.seed)
        drawn_training = _training_draw(smiles, drawn.seed, workers)
    molecules["is_first"] = molecules["is_valid"] & ~molecules["canonical"].duplicated()
    molecules["is_novel"] = molecules["is_valid"] & ~known(molecules["canonical"].tolist(), training.canonical)
    content = {
        **found, "n_samples": len(molecules), "seed": drawn.seed, "temperature": drawn.temperature,
        "attempts": drawn.attempts, "rounds": drawn.rounds, "max_tokens": drawn.max_tokens, "versions": versions(),
        **({"wanted": drawn.wanted} if drawn.wanted else {}),
    }  # fmt: skip
    write_json(out / "metrics.json", content)
    with replacing(out / "molecules.parquet") as temporary:
        molecules.drop(columns=["fingerprint", "fragments"]).to_parquet(temporary, index=False)
    with replacing(out / "reference.parquet") as temporary:
        drawn_training.to_parquet(temporary, index=False)
    reasons = Counter(molecules.loc[~molecules["is_valid"], "reason"])
    return close_books(
        out / "books.json", "validate", rows_in=len(molecules), kept=int(molecules["is_first"].sum()),
        rejected=dict(sorted(reasons.items())),
        duplicates=int((molecules["is_valid"] & ~molecules["is_first"]).sum()),
    )  # fmt: skip


def _baselines(
    network: VAE, vocabulary: Vocabulary, train: TokenSet, n: int, drawn: SampleSettings, workers: Workers
) -> Iterator[Baseline]:
    """The sets that the samples stand beside.

    The latent points of training molecules are decoded as those of the prior were, unstable strings written again. The
    nulls are taken as they come: hardly any of their strings is stable.
    """
    rules = {"seed": drawn.seed, "max_tokens": drawn.max_tokens, "threads": workers.count}
    warm = {"temperature": drawn.temperature, **rules}
    several = drawn.attempts > 1

    def of(name: str, strings: list[list[str]], written: int, only: tuple[str, ...] = ()) -> Baseline:
        log.info("scoring %d strings of %s", len(strings), name.replace("_", " "))
        rows = describe_strings(strings, vocabulary.caps, of=nothing if only else everything, workers=workers)
        return Baseline(name, SampleSet(rows, stable_share=_stable_share(rows, written), workers=workers), only)

    yield of("random_tokens", baselines.random_tokens(vocabulary, train.lengths, n, drawn.seed), n)
    yield of("shuffled_latents", baselines.shuffled_latents(network, train, vocabulary, n, **warm), n, IDENTITY)
    if several:
        first = baselines.first_strings(network, vocabulary, n, wanted=drawn.wanted, **warm)
        yield of("first_strings", first, n, IDENTITY)
    strings, written = baselines.aggregate_posterior(
        network, train, vocabulary, n, **warm,
        accept=stable(vocabulary, workers) if several else None, attempts=drawn.attempts,
    )  # fmt: skip
    yield of("aggregate_posterior", strings, written, IDENTITY)
    strings = baselines.training_molecules(train, vocabulary, n, drawn.seed)
    yield of("training_molecules", strings, len(strings))


def _stable_share(rows: pd.DataFrame, written: int) -> float | None:
    """Of all strings written for the samples; None where nothing is known about their strings."""
    if not len(rows) or rows["is_stable"].isna().any():
        return None
    return float(rows["is_stable"].sum() / written)


def headline(metrics: Path) -> dict[str, float]:
    """The figures of a metrics.json, the ends of their intervals and their baselines, as a tracker takes them."""
    found: dict[str, float | None] = {}
    for figure in read_json(metrics)["metrics"]:
        name = figure["name"]
        found[name] = figure["value"]
        found |= {f"{name}/{other}": value for other, value in figure["baselines"].items()}
        if figure["interval"]:
            found |= dict(zip((f"{name}/low", f"{name}/high"), figure["interval"], strict=True))
    return {name: value for name, value in found.items() if value is not None}


def _references(
    settings: ValidateSettings, tokens: Path, references: Path | None, workers: Workers
) -> dict[str, Reference]:
    """What samples are held against, by name."""
    source = settings.reference
    if references is not None:
        return read_references(references)
    if not settings.reference_is_split:
        return cached_references(source, cache_folder(), workers=workers)
    smiles = _molecules_of(source, tokens)
    return {"Test": reference_of(smiles, told(f"split {source!r} of the data", smiles), workers)}


def _molecules_of(split: str, tokens: Path) -> list[str]:
    """The molecules of a split of the data.

    Raises:
        DataError: there is no such split.
    """
    table = pyarrow.parquet.read_table(tokens / "molecules.parquet", columns=["smiles", "split"])
    there = table.column("split").unique().to_pylist()
    if split not in there:
        raise DataError(f"validate.reference: no split {split!r}.{did_you_mean(split, [*there, MOSES])}")
    return table.filter(pyarrow.compute.equal(table.column("split"), split)).column("smiles").to_pylist()


def _training_draw(smiles: list[str], seed: int, workers: Workers) -> pd.DataFrame:
    """Descriptors of a random draw of training molecules."""
    random = np.random.default_rng(derive(seed, "reference molecules"))
    rows = np.sort(random.choice(len(smiles), min(REFERENCE_MOLECULES, len(smiles)), replace=False))
    drawn = _describe(pd.DataFrame({"smiles": [smiles[row] for row in rows]}), workers)
    return drawn.drop(columns=list(PARTS))

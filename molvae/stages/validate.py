"""Stage `validate`: describe each sample with RDKit, and compute the metrics of the samples as a set.

Every sample keeps its row. A metric stands beside its baselines (random tokens, shuffled latent points) and its
training-set reference, computed in the same way on as many molecules.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute

from molvae.chemistry.descriptors import STEREO_MARKS
from molvae.data.accounting import COUNTS_FILE, write_counts
from molvae.data.moses import MOSES
from molvae.data.parquet import read_frame, read_table
from molvae.data.sharding import Shard
from molvae.data.token_store import TOKENS_FILE, VOCABULARY_FILE, TokenStore
from molvae.data.vocabulary import Vocabulary
from molvae.errors import DataError, suggest_nearest
from molvae.inference.round_trip_filter import make_round_trip_filter
from molvae.inference.sampling import SamplingOptions
from molvae.metrics import baselines, definitions
from molvae.metrics.definitions import IDENTITY_METRICS
from molvae.metrics.evaluation import Baseline, evaluate_samples, score_baseline
from molvae.metrics.molecule_table import PARTS, describe_fully, describe_nothing, describe_selfies, describe_smiles
from molvae.metrics.reference_cache import get_cache_folder, load_cached_references
from molvae.metrics.reference_sets import (
    ReferenceSet,
    build_reference_set,
    build_training_set,
    describe_source,
    is_in,
    load_reference_sets,
)
from molvae.metrics.sample_set import SampleSet
from molvae.model_io.card import get_max_tokens
from molvae.model_io.folder import TrainedModel, load_model
from molvae.runtime.files import atomic_write, read_json, write_json
from molvae.runtime.provenance import get_versions
from molvae.runtime.seeds import derive_seed
from molvae.runtime.workers import Workers

if TYPE_CHECKING:
    from molvae.config import SampleSettings, ValidateSettings
    from molvae.data.dataset import TokenSet
    from molvae.nn.vae import VAE

log = logging.getLogger(__name__)
N_HISTOGRAM_MOLECULES = 2000  # training molecules described for the property histograms


def validate_shard(samples: Path, out: Path, *, shard: Shard = Shard(), workers: int | Workers = 1) -> None:
    """Describe one shard of the samples, a row each, into `out` (parquet).

    Args:
        samples: table that `sample` wrote.
        out: shard file to write.
        shard: which samples.
        workers: processes.
    """
    table = read_frame(samples)
    rows = shard.range(len(table))
    with atomic_write(out) as temporary:
        _describe_table(table.iloc[rows.start : rows.stop], workers).to_parquet(temporary, index=False)


def _describe_table(table: pd.DataFrame, workers: int | Workers) -> pd.DataFrame:
    """Describe the rows of a table with a column `smiles` and, if there is one, `selfies`."""
    strings = table["selfies"].tolist() if "selfies" in table else None
    descriptions = describe_smiles(table["smiles"].tolist(), strings, workers=workers)
    return pd.concat([table.reset_index(drop=True), descriptions], axis=1)


def validate_samples(
    samples: Path,
    tokens: Path,
    model: Path,
    settings: ValidateSettings,
    out: Path,
    *,
    sample_settings: SampleSettings,
    references: Path | None = None,
    threads: int,
) -> dict[str, Any]:
    """Validate all samples in one go; see `validate` for its arguments, and for what it writes and returns.

    Args:
        samples: table that `sample` wrote.
        tokens: as in `validate`.
        model: as in `validate`.
        settings: as in `validate`.
        out: as in `validate`.
        sample_settings: as in `validate`.
        references: as in `validate`.
        threads: as in `validate`.
    """
    with tempfile.TemporaryDirectory(prefix="molvae-") as folder:
        shard = Path(folder) / "shard.parquet"
        validate_shard(samples, shard, workers=threads)
        return validate(
            [shard], tokens, model, settings, out, sample_settings=sample_settings, references=references,
            threads=threads,
        )  # fmt: skip


def validate(
    shards: Sequence[Path],
    tokens: Path,
    model: Path,
    settings: ValidateSettings,
    out: Path,
    *,
    sample_settings: SampleSettings,
    references: Path | None = None,
    threads: int,
) -> dict[str, Any]:
    """Merge all shards and score them.

    Writes molecules.parquet (a row a sample), reference.parquet (descriptors of training molecules), metrics.json
    and counts.json.

    Args:
        shards: files of `validate_shard`, in order.
        tokens: folder that `featurize` wrote.
        model: folder that `train` wrote.
        settings: of the stage.
        out: folder to write.
        sample_settings: how the samples were drawn; the baselines are drawn likewise, without MCMC steps.
        references: a file of `molvae reference`; without it that of `settings.reference` is taken from the cache.
        threads: of the CPU.

    Returns:
        the counts.

    Raises:
        DataError: tokens and model are not of one run; or there is no such reference.
    """
    import torch

    torch.set_num_threads(threads)
    tables = [read_frame(shard) for shard in shards]
    molecules = pd.concat([table for table in tables if len(table)], ignore_index=True)  # an empty one has no types
    train = TokenStore.open(tokens / TOKENS_FILE).splits["train"]
    network, vocabulary, card = _load_model_of_tokens(model, tokens)
    options = SamplingOptions.from_settings(sample_settings, get_max_tokens(card), threads)
    with Workers(threads) as workers:
        reference_sets = _load_references(settings, tokens, references, workers)
        smiles = _read_split("train", tokens)
        training = build_training_set(
            smiles,
            describe_source("split 'train' of the data", smiles),
            with_skeletons=settings.skeletons,
            rows_to_rewrite=[row for row, text in enumerate(smiles) if STEREO_MARKS.search(text)],  # all are canonical
            workers=workers,
        )
        log.info("scoring %d samples", len(molecules))
        n_decoded = molecules["tries"].sum() if "tries" in molecules else len(molecules)
        samples = SampleSet(molecules, round_trip_rate=_compute_round_trip_rate(molecules, n_decoded), workers=workers)
        score = partial(score_baseline, references=reference_sets, training=training)
        scorer = _BaselineScorer(network, vocabulary, train, len(molecules), options, workers, score)
        scored: list[Iterator[Baseline]] = []
        if settings.baselines:
            scored.append(scorer.score_data(smiles))
        if settings.latent_baselines:
            scored.append(scorer.score_latent_points())
        evaluation = evaluate_samples(
            samples, reference_sets, training, itertools.chain(*scored), seed=sample_settings.seed
        )
        histogram_molecules = _describe_training_sample(smiles, sample_settings.seed, workers)
    molecules["is_first"] = molecules["is_valid"] & ~molecules["canonical"].duplicated()
    molecules["is_novel"] = molecules["is_valid"] & ~is_in(molecules["canonical"].tolist(), training.canonical)
    write_json(out / "metrics.json", _make_metrics_content(evaluation, len(molecules), options))
    with atomic_write(out / "molecules.parquet") as temporary:
        molecules.drop(columns=["fingerprint", "fragments"]).to_parquet(temporary, index=False)
    with atomic_write(out / "reference.parquet") as temporary:
        histogram_molecules.to_parquet(temporary, index=False)
    reasons = Counter(molecules.loc[~molecules["is_valid"], "reason"])
    return write_counts(
        out / COUNTS_FILE, "validate", rows_in=len(molecules), kept=int(molecules["is_first"].sum()),
        rejected=dict(sorted(reasons.items())),
        duplicates=int((molecules["is_valid"] & ~molecules["is_first"]).sum()),
    )  # fmt: skip


def _load_model_of_tokens(model: Path, tokens: Path) -> TrainedModel:
    """Load a model, and check that its vocabulary is that of the tokens."""
    trained = load_model(model)
    file = tokens / VOCABULARY_FILE
    if Vocabulary.from_json(read_json(file), str(file)) != trained.vocabulary:
        raise DataError(f"{tokens}: not the tokens that {model} was trained on. Give --tokens and --model of one run.")
    return trained


def _make_metrics_content(evaluation: Mapping[str, Any], n: int, options: SamplingOptions) -> dict[str, Any]:
    """Make the content of metrics.json: the evaluation, and how the samples were drawn."""
    targets = {"target_properties": options.target_properties} if options.target_properties else {}
    return {
        **evaluation, "n_samples": n, "seed": options.seed, "temperature": options.temperature,
        "max_tries": options.max_tries, "mcmc_steps": options.mcmc_steps, "max_tokens": options.max_tokens,
        "versions": get_versions(), **targets,
    }  # fmt: skip


@dataclass(frozen=True)
class _BaselineScorer:
    """Draws baselines and computes their metrics.

    Attributes:
        network: trained.
        vocabulary: its own.
        train: training molecules.
        n: molecules of each baseline.
        options: how the samples were drawn.
        workers: processes.
        score: computes the metrics of molecules from the name of the baseline, the molecules, and the metrics wanted.
    """

    network: VAE
    vocabulary: Vocabulary
    train: TokenSet
    n: int
    options: SamplingOptions
    workers: Workers
    score: Callable[..., Baseline]

    @property
    def is_filtered(self) -> bool:
        """Whether samples that fail the round trip were rejected."""
        return self.options.max_tries > 1

    def score_data(self, smiles: Sequence[str]) -> Iterator[Baseline]:
        """Score random tokens, taken as they come, unfiltered samples, and training molecules.

        Args:
            smiles: of the training molecules; their tokens are round-trip consistent, or `featurize` had rejected them.
        """
        name, n, seed = definitions.RANDOM_BASELINE, self.n, self.options.seed
        yield self._score_strings(name, baselines.sample_random_tokens(self.vocabulary, self.train.lengths, n, seed), n)
        if self.is_filtered:
            unfiltered = baselines.sample_unfiltered(self.network, self.vocabulary, n, self.options)
            yield self._score_strings(definitions.UNFILTERED_SAMPLES, unfiltered, n, IDENTITY_METRICS)
        drawn = [smiles[row] for row in baselines.draw_training_rows(len(smiles), n, seed)]
        rows = describe_smiles(drawn, workers=self.workers).assign(token_survival=1.0, is_round_trip=True)
        yield self._score_rows(definitions.TRAINING_SET_REFERENCE, rows, len(rows))

    def score_latent_points(self) -> Iterator[Baseline]:
        """Score strings of shuffled latent points and of the aggregate posterior.

        The latter are decoded as those of the prior were, with rejection, but no MCMC steps. The former are taken as
        they come: hardly any passes the round trip.
        """
        arguments = self.network, self.train, self.vocabulary, self.n, self.options
        shuffled = baselines.sample_shuffled_latents(*arguments)
        yield self._score_strings(definitions.SHUFFLED_BASELINE, shuffled, self.n, IDENTITY_METRICS)
        accept = make_round_trip_filter(self.vocabulary, self.workers) if self.is_filtered else None
        strings, n_decoded = baselines.sample_from_posteriors(*arguments, accept)
        yield self._score_strings(definitions.AGGREGATE_POSTERIOR, strings, n_decoded, IDENTITY_METRICS)

    def _score_strings(
        self, name: str, strings: list[list[str]], n_decoded: int, only: tuple[str, ...] = ()
    ) -> Baseline:
        describe = describe_nothing if only else describe_fully
        rows = describe_selfies(strings, self.vocabulary.constraints, describe=describe, workers=self.workers)
        return self._score_rows(name, rows, n_decoded, only)

    def _score_rows(self, name: str, rows: pd.DataFrame, n_decoded: int, only: tuple[str, ...] = ()) -> Baseline:
        log.info("scoring %d strings of %s", len(rows), name.replace("_", " "))
        rate = _compute_round_trip_rate(rows, n_decoded)
        return self.score(name, SampleSet(rows, round_trip_rate=rate, workers=self.workers), only=only)


def _compute_round_trip_rate(rows: pd.DataFrame, n_decoded: int) -> float | None:
    """Of all strings decoded for the samples; None where nothing is known about their strings."""
    if not len(rows) or rows["is_round_trip"].isna().any():
        return None
    return float(rows["is_round_trip"].sum() / n_decoded)


def collect_metrics(file: Path) -> dict[str, float]:
    """Collect the metrics of a metrics.json, the ends of their intervals and their baselines, for a tracker."""
    values: dict[str, float | None] = {}
    for metric in read_json(file)["metrics"]:
        name = metric["name"]
        values[name] = metric["value"]
        values |= {f"{name}/{baseline}": value for baseline, value in metric["baselines"].items()}
        if metric["interval"]:
            values |= dict(zip((f"{name}/low", f"{name}/high"), metric["interval"], strict=True))
    return {name: value for name, value in values.items() if value is not None}


def _load_references(
    settings: ValidateSettings, tokens: Path, references: Path | None, workers: Workers
) -> dict[str, ReferenceSet]:
    """Load the sets that samples are compared with, by name."""
    source = settings.reference
    if references is not None:
        return load_reference_sets(references)
    if not settings.reference_is_split:
        return load_cached_references(source, get_cache_folder(), workers=workers)
    smiles = _read_split(source, tokens)
    return {"Test": build_reference_set(smiles, describe_source(f"split {source!r} of the data", smiles), workers)}


def _read_split(split: str, tokens: Path) -> list[str]:
    """Read the molecules of a split of the data.

    Raises:
        DataError: there is no such split.
    """
    table = read_table(tokens / "molecules.parquet", columns=["smiles", "split"])
    known = table.column("split").unique().to_pylist()
    if split not in known:
        raise DataError(f"validate.reference: no split {split!r}.{suggest_nearest(split, [*known, MOSES])}")
    smiles: list[str] = table.filter(pyarrow.compute.equal(table.column("split"), split)).column("smiles").to_pylist()
    return smiles


def _describe_training_sample(smiles: list[str], seed: int, workers: Workers) -> pd.DataFrame:
    """Descriptors of a random draw of training molecules."""
    random = np.random.default_rng(derive_seed(seed, "reference molecules"))
    rows = np.sort(random.choice(len(smiles), min(N_HISTOGRAM_MOLECULES, len(smiles)), replace=False))
    table = _describe_table(pd.DataFrame({"smiles": [smiles[row] for row in rows]}), workers)
    return table.drop(columns=list(PARTS))

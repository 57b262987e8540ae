"""A latent space to be measured: a model, held-out molecules, and what the model decodes near them.

Shapes: n molecules or points, Z latent dimensions.
"""

from __future__ import annotations

from functools import cached_property
from itertools import islice

import pandas as pd
import torch
from torch import Tensor

from molvae.chemistry.descriptors import compute_filters_and_fingerprint
from molvae.data.dataset import TokenSet
from molvae.data.tokenizer import ids_to_selfies
from molvae.data.vocabulary import Vocabulary
from molvae.inference.posterior import compute_posterior
from molvae.inference.round_trip_filter import iter_selfies
from molvae.inference.sampling import SamplingOptions, sample_at_points
from molvae.latent.pca_baseline import PCABaseline
from molvae.metrics.molecule_table import DescribeFunction, describe_fully, describe_selfies
from molvae.nn.vae import VAE
from molvae.runtime.seeds import make_generator
from molvae.runtime.workers import Workers


class LatentSpace:
    """The latent space of a model, and molecules that the model was not trained on.

    Attributes:
        mu: (n, Z) posterior means of the molecules.
        logvar: (n, Z) log-variances of their posteriors.
        pca: PCA of training molecules with as many components as the model has latent dimensions; None without
            training molecules.
        n_decoded: strings decoded so far.
        n_cut: of them, those that were cut at `max_tokens`.
        table: the molecules, a row each, see `molvae.metrics.molecule_table`.
    """

    def __init__(
        self,
        model: VAE,
        vocabulary: Vocabulary,
        molecules: TokenSet,
        training: TokenSet | None = None,
        *,
        max_tokens: int,
        seed: int,
        workers: Workers,
    ) -> None:
        """Encode and describe the molecules.

        Args:
            model: a VAE.
            vocabulary: of the model.
            molecules: held-out molecules.
            training: training molecules, for the PCA baseline.
            max_tokens: longest string that is decoded, its end counted.
            seed: of all draws.
            workers: processes that describe molecules; strings are decoded in as many threads.
        """
        self.model, self.vocabulary, self.molecules = model, vocabulary, molecules
        self.seed, self.workers = seed, workers
        self._options = SamplingOptions(seed, temperature=0, max_tokens=max_tokens, threads=workers.count)
        self.n_decoded = self.n_cut = 0
        self.mu, self.logvar = compute_posterior(model, molecules)
        self.pca = PCABaseline(training, vocabulary, model.latent_dim) if training is not None else None
        self.table = self.describe(molecules)

    @cached_property
    def reconstructions(self) -> pd.DataFrame:
        """The molecules decoded from their means, a row each."""
        return self.decode(self.mu)[0]

    def decode(self, *sets: Tensor, describe: DescribeFunction = compute_filters_and_fingerprint) -> list[pd.DataFrame]:
        """Decode sets of points, (n, Z) each, greedily: a table of `molvae.metrics.molecule_table` for each set."""
        strings = sample_at_points(self.model, torch.cat(sets), self._options)
        self.n_decoded += len(strings.finished)
        self.n_cut += len(strings.finished) - int(strings.finished.sum())
        selfies = iter(iter_selfies(self.vocabulary, strings))
        return self.describe_sets(*(list(islice(selfies, len(points))) for points in sets), describe=describe)

    def describe(self, molecules: TokenSet) -> pd.DataFrame:
        """Describe molecules as they are, with all descriptors."""
        selfies = [ids_to_selfies(self.vocabulary, molecules[row].tolist()) for row in range(len(molecules))]
        return self.describe_sets(selfies, describe=describe_fully)[0]

    def describe_sets(
        self, *sets: list[list[str]], describe: DescribeFunction = compute_filters_and_fingerprint
    ) -> list[pd.DataFrame]:
        """Describe sets of SELFIES strings, a table each."""
        strings = [string for part in sets for string in part]
        table = describe_selfies(strings, self.vocabulary.constraints, describe=describe, workers=self.workers)
        tables, start = [], 0
        for part in sets:
            tables.append(table[start : start + len(part)].reset_index(drop=True))
            start += len(part)
        return tables

    def sample_posteriors(self, spread: float, purpose: str) -> Tensor:
        """Draw a point near each molecule, (n, Z): from its posterior, made `spread` times as wide.

        Args:
            spread: in posterior widths; 1 is the posterior itself.
            purpose: name of the random stream; another purpose gives other draws.
        """
        noise = torch.randn(self.mu.shape, generator=make_generator(self.seed, purpose))
        return self.mu + spread * (0.5 * self.logvar).exp() * noise

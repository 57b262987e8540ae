"""A trained model as a Python object: `molvae.load(folder)`, then sample, and work in the latent space."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from molvae.chemistry.oracles import Objective, get_objective
from molvae.chemistry.round_trip import compute_round_trip_smiles
from molvae.chemistry.selfies_codec import decode_selfies
from molvae.data.dataset import TokenSet
from molvae.data.molecule_tokenizer import MoleculeTokenizer
from molvae.data.vocabulary import MAX_TOKENS, Vocabulary
from molvae.errors import MolvaeError
from molvae.inference.conditioning import require_head
from molvae.inference.decoding import TokenStrings
from molvae.inference.posterior import compute_posterior
from molvae.inference.round_trip_filter import iter_selfies, make_round_trip_filter
from molvae.inference.sampling import (
    SamplingOptions,
    decode_points,
    sample_at_points,
    sample_prior,
    warn_of_cut_strings,
)
from molvae.latent.interpolation import sample_around, slerp
from molvae.latent.likelihood import estimate_log_likelihood
from molvae.latent.neighbors import count_neighbors
from molvae.latent.optimization import History, SaveFunction, run_evolution
from molvae.latent.property_regression import Predictor
from molvae.model_io.card import ModelCard, get_max_tokens
from molvae.model_io.folder import compute_model_id
from molvae.model_io.loading import open_model
from molvae.model_io.pretrained import PREFIX
from molvae.nn.vae import VAE
from molvae.runtime.arguments import check_integer, check_list, check_number, check_path
from molvae.runtime.seeds import make_generator

log = logging.getLogger(__name__)


def load(folder: str | Path, device: str = "cpu") -> Model:
    """Load a model folder (model.safetensors and model.json), or pretrained:NAME. Nothing in it is executed.

    Raises:
        ModelFileError: missing, damaged, or of another version; the message names the file.

    >>> load("pretrained:moses").latent_dim
    64
    """
    if not str(folder).startswith(PREFIX):
        check_path("folder", folder)
    return Model(*open_model(folder, device))


class Model:
    """A VAE with its vocabulary, its bond constraints and its card (settings, versions, provenance, metrics)."""

    def __init__(self, network: VAE, vocabulary: Vocabulary, card: ModelCard) -> None:
        self.network, self.vocabulary, self.card = network, vocabulary, card
        self._tokenizer = MoleculeTokenizer(vocabulary, card.get("settings", {}).get("featurize", {}))

    @property
    def latent_dim(self) -> int:
        """Dimensions of the latent space."""
        return self.network.latent_dim

    @property
    def max_tokens(self) -> int:
        """Longest string that the model writes unless asked otherwise: as long as its training molecules may be."""
        return get_max_tokens(self.card)

    @cached_property
    def id(self) -> str:
        """Hash of encoder, decoder and vocabulary, in hex: latent points of models with the same one mean the same."""
        return compute_model_id(self.network, self.vocabulary)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        max_tokens: int | None = None,
        max_tries: int = 32,
        mcmc_steps: int = 0,
        target_properties: Mapping[str, float] | None = None,
        threads: int = 1,
    ) -> list[str]:
        """Sample exactly `n` SMILES from the prior; the i-th depends on (seed, i) only.

        They are as decoded: not canonical, duplicates kept, "" where a string stands for no atom.

        Args:
            n: samples.
            seed: another one gives other samples.
            temperature: divides the logits; 0 takes the likeliest token at each step.
            max_tokens: longest string, its end counted; longer ones are cut, and a warning counts them. None: as long
                as the molecules that the model was trained on (`max_tokens`).
            max_tries: strings decoded at most for a sample until one is round-trip consistent
                (`molvae.chemistry.round_trip`); 1 takes the first as it is.
            mcmc_steps: times that each string is encoded and decoded again from a draw of its posterior, which moves
                samples from the prior to where the data lie (`molvae.inference.sampling`).
            target_properties: values, in their own units, of properties that the model was trained to predict, by name:
                the prior under the condition that its head predicts them (`molvae.inference.conditioning`).
                `mcmc_steps` lead away from them.
            threads: of the CPU that decode at the same time.

        Raises:
            MolvaeError: a number is out of its range; or the model does not predict a target property, or its prior is
                no normal one.
        """
        max_tokens = self._check_max_tokens(max_tokens)
        check_integer("n", n, 1)
        options = SamplingOptions(
            check_integer("seed", seed), check_number("temperature", temperature, 0), max_tokens,
            check_integer("max_tries", max_tries, 1), check_integer("mcmc_steps", mcmc_steps, 0),
            target_properties or {}, check_integer("threads", threads, 1),
        )  # fmt: skip
        accept = make_round_trip_filter(self.vocabulary) if max_tries > 1 else None
        samples = sample_prior(self.network, 0, n, options, accept)
        warn_of_cut_strings(int((~samples.finished).sum()), n, max_tokens)
        return self._to_smiles(samples)

    def encode(self, smiles: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
        """Encode molecules: mean and log-variance of each posterior, (n, latent_dim) float32 each, in their order.

        Molecules are standardised as the training data were. A row that is missing or no molecule, or holds a symbol
        the vocabulary lacks, is NaN, and a warning names it, the first as row 1.
        """
        smiles = check_list("smiles", smiles)
        rows, tokens = self.tokenize(smiles)
        mu, logvar = (np.full((len(smiles), self.latent_dim), np.nan, np.float32) for _ in range(2))
        mu[rows], logvar[rows] = (part.numpy() for part in compute_posterior(self.network, tokens))
        return mu, logvar

    def predict_properties(self, smiles: Sequence[str | None]) -> pd.DataFrame:
        """Predict the properties that the model was trained with: a row a molecule, a column a property, own units.

        The head reads the mean of each posterior; rows are NaN as in `encode`. For any other property see
        `fit_predictor`.

        Raises:
            MolvaeError: the model was trained without properties.
        """
        head = require_head(self.network)
        mu = torch.from_numpy(self.encode(smiles)[0]).to(head.mean.device)
        with torch.inference_mode():
            return pd.DataFrame(head(mu).cpu().numpy(), columns=list(head.names))

    def log_likelihood(self, smiles: Sequence[str | None], *, draws: int = 16, seed: int = 0) -> np.ndarray:
        """Estimate the IWAE bound of log p(x) of each molecule, (n,) nats, rows as in the input; NaN as in `encode`.

        Args:
            smiles: molecules.
            draws: of the latent point of each; 1 gives the ELBO, and the bound tightens with more, as its variance over
                seeds falls (`molvae.latent.likelihood`).
            seed: of the draws.

        Raises:
            MolvaeError: draws is under 1; or the model is a plain autoencoder.
        """
        check_integer("draws", draws, 1)
        check_integer("seed", seed)
        smiles = check_list("smiles", smiles)
        rows, tokens = self.tokenize(smiles)
        bounds = np.full(len(smiles), np.nan, np.float32)
        bounds[rows] = estimate_log_likelihood(self.network, tokens, draws, seed).numpy()
        return bounds

    def interpolate(
        self,
        start: str,
        end: str,
        steps: int = 8,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        max_tokens: int | None = None,
    ) -> list[str]:
        """Decode molecules on the path from one to another: SMILES at `steps` points, both ends included.

        The path's ends are what the model makes of the two molecules, which need not be they themselves. From a
        molecule to itself all points are the same.

        Args:
            start: SMILES.
            end: SMILES.
            steps: points, at least 2.
            temperature: as in `decode`.
            seed: of the tokens.
            max_tokens: as in `decode`.

        Raises:
            MolvaeError: an end is no molecule, or holds a symbol the model does not know; or a number is out of range.
        """
        points = self.compute_path(start, end, steps)
        return self.decode(points, temperature=temperature, seed=seed, max_tokens=max_tokens)

    def compute_path(self, start: str, end: str, steps: int = 8) -> np.ndarray:
        """Compute the points of `interpolate`, (steps, latent_dim): spherical (slerp; `molvae.latent.interpolation`).

        Raises:
            MolvaeError: as `interpolate`.
        """
        check_integer("steps", steps, 2)
        first, last = (self._encode_one(smiles)[0] for smiles in (start, end))
        return slerp(first, last, steps)

    def neighbors(
        self,
        smiles: str,
        n: int = 100,
        radius: float = 0.5,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        max_tokens: int | None = None,
    ) -> pd.DataFrame:
        """Decode points near a molecule, and list the molecules there, the most frequent first.

        Args:
            smiles: the molecule.
            n: latent points, drawn from the molecule's posterior made `radius` times as wide.
            radius: 0 is the posterior's mean, 1 the posterior itself.
            temperature: as in `decode`.
            seed: of points and tokens.
            max_tokens: as in `decode`.

        Returns:
            a row for each different molecule: smiles (canonical; "" for strings that are none), frequency (fraction of
            the points), similarity (Tanimoto, Morgan fingerprints of radius 2, 1024 bits; NaN for ""), finished (false
            where a string that gave it was cut).

        Raises:
            MolvaeError: it is no molecule, or holds a symbol the model does not know; or a number is out of range.
        """
        check_integer("n", n, 1)
        check_integer("seed", seed, 0)
        points = sample_around(*self._encode_one(smiles), n, check_number("radius", radius, 0), seed)
        decoded = self.decode_to_table(points, temperature=temperature, seed=seed, max_tokens=max_tokens)
        return count_neighbors(self._tokenizer.require_known(smiles), decoded)

    def optimize(
        self,
        objective: str | Objective,
        calls: int = 1000,
        *,
        start: Sequence[str] = (),
        similar_to: str | None = None,
        min_similarity: float = 0.4,
        history: pd.DataFrame | None = None,
        save: SaveFunction | None = None,
        seed: int = 0,
        max_tokens: int | None = None,
    ) -> pd.DataFrame:
        """Search the latent space for molecules that score better; Ctrl-C ends it with what was found.

        Only strings that are not cut and round-trip consistent (`molvae.chemistry.round_trip`) are scored, each
        molecule once.

        Args:
            objective: a function of a canonical SMILES, larger is better; or "qed" or "penalised_logp". A molecule for
                which it raises, or gives no finite number, stays in the history without a score and is never a parent.
            calls: of it, at most.
            start: SMILES to begin with; none: molecules from the prior.
            similar_to: a SMILES that molecules have to be similar to; the search begins with it, too.
            min_similarity: to it (Tanimoto, Morgan fingerprints of radius 2, 1024 bits).
            history: that of an earlier search; its molecules cost no call.
            save: a function that is given the history so far every ten seconds, and when the search ends, with an error
                or without.
            seed: of the search.
            max_tokens: as in `decode`.

        Returns:
            the history, a row for each call: call, smiles (canonical), score, similarity (NaN without `similar_to`),
            origin (`start`, `prior`, `near` a parent or `between` two), error.

        Raises:
            MolvaeError: no molecule to begin with has a score; or it is none, or holds a symbol the model does not
                know; or calls or min_similarity is out of range.
        """
        if history is not None and not (isinstance(history, pd.DataFrame) and {"smiles", "score"} <= {*history}):
            raise MolvaeError("history is no table with columns smiles and score; give that of an earlier search.")
        if save is not None and not callable(save):
            raise MolvaeError(f"save is {save!r}; give a function of the history.")
        check_integer("calls", calls, 1)
        check_number("min_similarity", min_similarity, 0, 1)
        check_integer("seed", seed, 0)
        start, max_tokens = check_list("start", start), self._check_max_tokens(max_tokens)
        objective = get_objective(objective) if isinstance(objective, str) else objective
        lead = self._tokenizer.require_known(similar_to) if similar_to else None
        leads = [lead] if lead else []
        leads += [self._tokenizer.require_known(smiles) for smiles in start]
        record = History(objective, calls, lead, min_similarity, save)
        if history is not None:
            readable = history.iloc[self.tokenize(list(history["smiles"]))[0]]
            record.add_known([self._tokenizer.standardise(smiles) for smiles in readable["smiles"]], readable["score"])
        random = make_generator(seed, "optimize")

        def draw(n: int) -> np.ndarray:
            points: np.ndarray = self.network.prior.sample(n, random).numpy()
            return points

        def decode(z: np.ndarray) -> list[str]:
            return self.decode_round_trip(z, max_tokens=max_tokens)

        with torch.inference_mode():
            run_evolution(record, leads, draw, decode, self.encode, seed)
        return record.to_table()

    def fit_predictor(self, smiles: Sequence[str], values: Sequence[float], *, seed: int = 0) -> Predictor:
        """Fit a predictor of a property from latent points, and measure it beside one from fingerprints.

        Args:
            smiles: at least 10 molecules.
            values: one for each. Where there is no finite value, or no molecule that the model can read, the row is
                left out. Of a molecule that occurs repeatedly the mean of its values is learned.
            seed: of the folds.

        Raises:
            MolvaeError: fewer are left, or there are not as many values as molecules.
        """
        smiles, values = check_list("smiles", smiles), check_list("values", values)
        return Predictor(
            self.encode, self._tokenizer.standardise, smiles, values, check_integer("seed", seed, 0, 2**32 - 1)
        )

    def decode(
        self, z: np.ndarray, *, temperature: float = 0.0, seed: int = 0, max_tokens: int | None = None
    ) -> list[str]:
        """Decode one SMILES for each latent point; the i-th depends on the i-th point, i and the seed only.

        They are as decoded: not canonical, "" where a string stands for no atom.

        Args:
            z: (n, latent_dim) points, finite.
            temperature: 0 takes the likeliest token at each step; above, tokens are drawn.
            seed: of the tokens.
            max_tokens: longest string, its end counted; longer ones are cut, and a warning counts them. None: as long
                as the molecules that the model was trained on (`max_tokens`).

        Raises:
            MolvaeError: z has another shape, or values that are not finite; or a number is out of range.
        """
        table = self.decode_to_table(z, temperature=temperature, seed=seed, max_tokens=max_tokens)
        smiles: list[str] = table["smiles"].tolist()
        return smiles

    def decode_to_table(
        self, z: np.ndarray, *, temperature: float = 0.0, seed: int = 0, max_tokens: int | None = None
    ) -> pd.DataFrame:
        """Decode as `decode` does, to a table of a row for each point: smiles, finished (false: the string was cut).

        Args:
            z: as in `decode`.
            temperature: as in `decode`.
            seed: as in `decode`.
            max_tokens: as in `decode`.

        Raises:
            MolvaeError: as `decode`.
        """
        points = self._check_points(z)
        max_tokens = self._check_max_tokens(max_tokens)
        check_number("temperature", temperature, 0)
        smiles: list[str] = []
        finished: list[bool] = []
        for strings in decode_points(self.network, points, max_tokens, temperature, check_integer("seed", seed)):
            smiles += self._to_smiles(strings)
            finished += strings.finished.tolist()
        warn_of_cut_strings(finished.count(False), len(finished), max_tokens)
        return pd.DataFrame({"smiles": pd.Series(smiles, dtype=object), "finished": pd.Series(finished, dtype=bool)})

    def decode_round_trip(self, z: np.ndarray, *, max_tokens: int | None = None) -> list[str]:
        """Decode points, (n, latent_dim), greedily to canonical SMILES.

        Args:
            z: as in `decode`.
            max_tokens: as in `decode`.

        Returns:
            a SMILES for each; "" where the string was cut, or fails the round trip.
        """
        max_tokens = self._check_max_tokens(max_tokens)
        options = SamplingOptions(temperature=0, max_tokens=max_tokens, threads=torch.get_num_threads())
        strings = sample_at_points(self.network, torch.from_numpy(self._check_points(z)), options)
        constraints = self.vocabulary.constraints
        selfies = iter_selfies(self.vocabulary, strings)
        return [
            compute_round_trip_smiles(symbols, constraints) if finished else ""
            for symbols, finished in zip(selfies, strings.finished, strict=True)
        ]

    def _check_points(self, z: np.ndarray) -> np.ndarray:
        try:
            points = np.asarray(z.detach().cpu() if isinstance(z, torch.Tensor) else z, dtype=np.float32)
        except (TypeError, ValueError) as err:
            raise MolvaeError(f"z holds what is no number ({err}).") from None
        if points.ndim != 2 or points.shape[1] != self.latent_dim or not np.isfinite(points).all():
            raise MolvaeError(f"z has shape {points.shape}; expected finite values of shape (n, {self.latent_dim}).")
        return points

    def _check_max_tokens(self, max_tokens: int | None) -> int:
        return self.max_tokens if max_tokens is None else check_integer("max_tokens", max_tokens, 1, MAX_TOKENS)

    def tokenize(self, smiles: Sequence[str | None], rows: Sequence[int] | None = None) -> tuple[np.ndarray, TokenSet]:
        """Tokenize the molecules of a list that the model can read.

        Args:
            smiles: molecules; None where there is none.
            rows: numbers for the warnings that name those it cannot read; None: 1, 2, …
        Returns:
            their places in the list, from 0, and their tokens.

        Raises:
            MolvaeError: `smiles` is one string, not a list.
        """
        return self._tokenizer.tokenize(check_list("smiles", smiles), rows)

    def _to_smiles(self, strings: TokenStrings) -> list[str]:
        """SMILES of decoded strings under this model's own bond constraints; not canonical."""
        constraints = self.vocabulary.constraints
        return [decode_selfies(symbols, constraints) for symbols in iter_selfies(self.vocabulary, strings)]

    def _encode_one(self, smiles: str) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and log-variance of one molecule, (latent_dim,) each; one that has none is an error."""
        mu, logvar = self.encode([self._tokenizer.require_known(smiles)])
        return mu[0], logvar[0]

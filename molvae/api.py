"""A trained model as a Python object: `molvae.load(folder)`, then sample, and work in the latent space."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from molvae.chemistry.descriptors import to_canonical_smiles
from molvae.chemistry.fingerprints import compute_fingerprint
from molvae.chemistry.oracles import Objective, get_objective
from molvae.chemistry.round_trip import compute_round_trip_smiles
from molvae.chemistry.selfies_codec import decode_selfies
from molvae.chemistry.standardise import parse_smiles, standardise
from molvae.data.bpe import MergeEncoder
from molvae.data.dataset import TokenSet
from molvae.data.tokenizer import tokenize_smiles
from molvae.data.vocabulary import UNK, Vocabulary
from molvae.errors import MolvaeError, Rejected
from molvae.inference.conditioning import require_head
from molvae.inference.decoding import TokenStrings, decode_latents
from molvae.inference.posterior import compute_posterior
from molvae.inference.round_trip_filter import iter_selfies, make_round_trip_filter
from molvae.inference.sampling import SamplingOptions, sample_at_points, sample_prior
from molvae.latent.interpolation import sample_around, slerp
from molvae.latent.likelihood import estimate_log_likelihood
from molvae.latent.optimization import History, SaveFunction, run_evolution
from molvae.latent.property_regression import Predictor
from molvae.metrics.tanimoto import compute_similarity
from molvae.model_io.card import ModelCard
from molvae.model_io.loading import open_model
from molvae.nn.vae import VAE
from molvae.runtime.seeds import make_generator

log = logging.getLogger(__name__)
BATCH_SIZE = 512
MAX_TOKENS = 128


def load(folder: str | Path, device: str = "cpu") -> Model:
    """Load a model folder (model.safetensors and model.json), or pretrained:NAME. Nothing in it is executed.

    Raises:
        ModelFileError: missing, damaged, or of another version; the message names the file.

    >>> load("pretrained:moses").latent_dim
    64
    """
    return Model(*open_model(folder, device))


class Model:
    """A VAE with its vocabulary, its bond constraints and its card (settings, versions, provenance, metrics)."""

    def __init__(self, network: VAE, vocabulary: Vocabulary, card: ModelCard) -> None:
        self.network, self.vocabulary, self.card = network, vocabulary, card

    @property
    def latent_dim(self) -> int:
        """Dimensions of the latent space."""
        return self.network.latent_dim

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        max_tokens: int = MAX_TOKENS,
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
            max_tokens: longest string; longer ones are cut.
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
        if n < 1:
            raise MolvaeError(f"n is {n}; ask for at least one sample.")
        if not (
            0 <= temperature < math.inf and max_tokens >= 1 and max_tries >= 1 and mcmc_steps >= 0 and threads >= 1
        ):
            raise MolvaeError(
                f"temperature is {temperature}, max_tokens {max_tokens}, max_tries {max_tries}, mcmc_steps "
                f"{mcmc_steps}, threads {threads}; temperature and mcmc_steps are at least 0, the others 1."
            )
        options = SamplingOptions(
            seed, temperature, max_tokens, max_tries, mcmc_steps, target_properties or {}, threads
        )
        accept = make_round_trip_filter(self.vocabulary) if max_tries > 1 else None
        return self._to_smiles(sample_prior(self.network, 0, n, options, accept))

    def encode(self, smiles: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
        """Encode molecules: mean and log-variance of each posterior, (n, latent_dim) float32 each, in their order.

        Molecules are standardised as the training data were. A row that is missing or no molecule, or holds a symbol
        the vocabulary lacks, is NaN, and a warning names it, the first as row 1.
        """
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
        if draws < 1:
            raise MolvaeError(f"draws is {draws}; at least one is needed.")
        rows, tokens = self.tokenize(smiles)
        bounds = np.full(len(smiles), np.nan, np.float32)
        bounds[rows] = estimate_log_likelihood(self.network, tokens, draws, seed).numpy()
        return bounds

    def interpolate(
        self, start: str, end: str, steps: int = 8, *, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Decode molecules on the path from one to another: SMILES at `steps` points, both ends included.

        The path is spherical (slerp; `molvae.latent.interpolation`). Its ends are what the model makes of the two
        molecules, which need not be they themselves. From a molecule to itself all points are the same.

        Args:
            start: SMILES.
            end: SMILES.
            steps: points, at least 2.
            temperature: as in `decode`.
            seed: of the tokens.

        Raises:
            MolvaeError: an end is no molecule, or holds a symbol the model does not know; or steps is under 2.
        """
        if steps < 2:
            raise MolvaeError(f"steps is {steps}; a path has two ends at least.")
        first, last = (self._encode_one(smiles)[0] for smiles in (start, end))
        return self.decode(slerp(first, last, steps), temperature=temperature, seed=seed)

    def neighbors(
        self, smiles: str, n: int = 100, radius: float = 0.5, *, temperature: float = 0.0, seed: int = 0
    ) -> pd.DataFrame:
        """Decode points near a molecule, and list the molecules there, the most frequent first.

        Args:
            smiles: the molecule.
            n: latent points, drawn from the molecule's posterior made `radius` times as wide.
            radius: 0 is the posterior's mean, 1 the posterior itself.
            temperature: as in `decode`.
            seed: of points and tokens.

        Returns:
            a row for each different molecule: smiles (canonical; "" for strings that are none), frequency (fraction of
            the points), similarity (Tanimoto, Morgan fingerprints of radius 2, 1024 bits; NaN for "").

        Raises:
            MolvaeError: it is no molecule, or holds a symbol the model does not know; or n or radius is out of range.
        """
        if n < 1 or not 0 <= radius < np.inf:
            raise MolvaeError(f"n is {n} and radius {radius}; n is at least 1, radius finite and not below 0.")
        points = sample_around(*self._encode_one(smiles), n, radius, seed)
        counts = Counter(self.decode(points, temperature=temperature, seed=seed))
        fingerprint = compute_fingerprint(parse_smiles(self._require_known(smiles)))
        neighbors: dict[str, tuple[int, float]] = {}  # canonical SMILES -> how often, and how similar
        for decoded, count in counts.items():
            try:
                mol = parse_smiles(decoded)
                canonical = to_canonical_smiles(mol)
                similarity = compute_similarity(fingerprint, compute_fingerprint(mol))
            except Rejected:
                canonical, similarity = "", np.nan
            neighbors[canonical] = neighbors.get(canonical, (0, 0.0))[0] + count, similarity
        rows = [(canonical, count / n, similarity) for canonical, (count, similarity) in neighbors.items()]
        table = pd.DataFrame(rows, columns=["smiles", "frequency", "similarity"])
        return table.sort_values(["frequency", "similarity"], ascending=False, ignore_index=True)

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
    ) -> pd.DataFrame:
        """Search the latent space for molecules that score better; Ctrl-C ends it with what was found.

        Only round-trip consistent strings (`molvae.chemistry.round_trip`) are scored, each molecule once.

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

        Returns:
            the history, a row for each call: call, smiles (canonical), score, similarity (NaN without `similar_to`),
            origin (`start`, `prior`, `near` a parent or `between` two), error.

        Raises:
            MolvaeError: no molecule to begin with has a score; or it is none, or holds a symbol the model does not
                know; or calls or min_similarity is out of range.
        """
        if calls < 1 or not 0 <= min_similarity <= 1:
            raise MolvaeError(f"calls is {calls} and min_similarity {min_similarity}; at least 1, and between 0 and 1.")
        objective = get_objective(objective) if isinstance(objective, str) else objective
        lead = self._require_known(similar_to) if similar_to else None
        leads = [lead] if lead else []
        leads += [self._require_known(smiles) for smiles in start]
        record = History(objective, calls, lead, min_similarity, save)
        if history is not None:
            readable = history.iloc[self.tokenize(list(history["smiles"]))[0]]
            record.add_known([self._standardise(smiles) for smiles in readable["smiles"]], readable["score"])
        random = make_generator(seed, "optimize")

        def draw(n: int) -> np.ndarray:
            points: np.ndarray = self.network.prior.sample(n, random).numpy()
            return points

        with torch.inference_mode():
            run_evolution(record, leads, draw, self.decode_round_trip, self.encode, seed)
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
        return Predictor(self.encode, self._standardise, smiles, values, seed)

    def decode(
        self, z: np.ndarray, *, temperature: float = 0.0, seed: int = 0, max_tokens: int = MAX_TOKENS
    ) -> list[str]:
        """Decode one SMILES for each latent point; the i-th depends on the i-th point, i and the seed only.

        They are as decoded: not canonical, "" where a string stands for no atom.

        Args:
            z: (n, latent_dim) points, finite.
            temperature: 0 takes the likeliest token at each step; above, tokens are drawn.
            seed: of the tokens.
            max_tokens: longest string; longer ones are cut.

        Raises:
            MolvaeError: z has another shape, or values that are not finite.
        """
        z = np.asarray(z, dtype=np.float32)
        if z.ndim != 2 or z.shape[1] != self.latent_dim or not np.isfinite(z).all():
            raise MolvaeError(f"z has shape {z.shape}; expected finite values of shape (n, {self.latent_dim}).")
        random = make_generator(seed, "decode")
        smiles: list[str] = []
        for start in range(0, len(z), BATCH_SIZE):
            points = torch.from_numpy(z[start : start + BATCH_SIZE])
            # a row each: none depends on how many follow
            uniforms = torch.rand((len(points), max_tokens), generator=random).T
            smiles += self._to_smiles(decode_latents(self.network, points, uniforms, temperature))
        return smiles

    def decode_round_trip(self, z: np.ndarray) -> list[str]:
        """Decode points, (n, latent_dim), greedily to canonical SMILES; "" where the string fails the round trip."""
        options = SamplingOptions(temperature=0, max_tokens=MAX_TOKENS, threads=torch.get_num_threads())
        strings = sample_at_points(self.network, torch.from_numpy(z).float(), options)
        constraints = self.vocabulary.constraints
        return [compute_round_trip_smiles(symbols, constraints) for symbols in iter_selfies(self.vocabulary, strings)]

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
        if isinstance(smiles, str):
            raise MolvaeError("this takes a list of SMILES; put the one you have into a list.")
        places, strings = [], []
        for place, text in enumerate(smiles):
            try:
                strings.append(self._encode_symbols(text))
                places.append(place)
            except Rejected as rejection:
                log.warning("row %d, %r: %s", place + 1 if rows is None else rows[place], text, rejection)
        return np.array(places, dtype=np.int64), self._merge(TokenSet.from_lists(strings))

    def _to_smiles(self, strings: TokenStrings) -> list[str]:
        """SMILES of decoded strings under this model's own bond constraints; not canonical."""
        constraints = self.vocabulary.constraints
        return [decode_selfies(symbols, constraints) for symbols in iter_selfies(self.vocabulary, strings)]

    def _merge(self, tokens: TokenSet) -> TokenSet:
        """Molecules in single symbols, in the tokens of this model."""
        if not self.vocabulary.merges or not len(tokens):
            return tokens
        ids, lengths = MergeEncoder(self.vocabulary).apply(tokens.ids, tokens.lengths)
        return TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]))

    def _encode_one(self, smiles: str) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and log-variance of one molecule, (latent_dim,) each; one that has none is an error."""
        mu, logvar = self.encode([self._require_known(smiles)])
        return mu[0], logvar[0]

    def _require_known(self, smiles: str) -> str:
        """Convert a molecule to canonical SMILES as `encode` does; one that it cannot read is an error."""
        try:
            self._encode_symbols(smiles)
        except Rejected as rejection:
            raise MolvaeError(f"{smiles!r}: {rejection}") from None
        return self._standardise(smiles)

    def _encode_symbols(self, text: str | None) -> list[int]:
        """Ids of the single symbols of a SMILES.

        Raises:
            Rejected: it is missing or no molecule, SELFIES cannot write it, or the vocabulary lacks symbols of it.
        """
        if not isinstance(text, str):  # what pandas puts where a table has nothing
            raise Rejected("empty")
        symbols = tokenize_smiles(self._standardise(text))
        ids = self.vocabulary.encode(symbols)
        if UNK in ids:
            unknown = sorted({symbol for symbol, i in zip(symbols, ids, strict=True) if i == UNK})
            raise Rejected("unknown_symbol", f"the model does not know {', '.join(unknown)}")
        return ids

    def _standardise(self, text: str) -> str:
        """Canonical SMILES of a molecule, standardised as the training data were."""
        settings = self.card["settings"].get("featurize", {})
        rules = {name: settings[name] for name in ("largest_fragment", "neutralise", "stereo") if name in settings}
        return standardise(text, **rules)

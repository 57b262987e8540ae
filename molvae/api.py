"""A trained model as a Python object: `molvae.load(folder)`, then sample, and work in the latent space."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from molvae.chemistry.descriptors import canonical, fingerprint
from molvae.chemistry.round_trip import stable_form
from molvae.chemistry.selfies_codec import decode, encode
from molvae.chemistry.standardise import Rejected, parse, read, standardise
from molvae.chemistry.tokenization import bracketed
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import UNK, Vocabulary
from molvae.errors import MolvaeError
from molvae.inference import conditioning
from molvae.inference.decoding import Strings, decode_points
from molvae.inference.posterior import posterior
from molvae.inference.sampling import sample_at, sample_prior
from molvae.latent import interpolation, likelihood, optimization
from molvae.latent.property_regression import Predictor
from molvae.metrics.tanimoto import similarity_of
from molvae.model_io.loading import opened, stable, symbols_of
from molvae.nn.vae import VAE
from molvae.runtime.seeds import generator

log = logging.getLogger(__name__)
BATCH = 512
MAX_TOKENS = 128


def load(folder: str | Path, device: str = "cpu") -> Model:
    """Open a model folder (model.safetensors and model.json), or pretrained:NAME. Nothing in it is executed.

    Raises:
        ModelFileError: missing, damaged, or of another version; the message names the file.
    """
    return Model(*opened(folder, device))


class Model:
    """A VAE with its vocabulary, its bonding caps and its card (settings, versions, lineage, figures)."""

    def __init__(self, network: VAE, vocabulary: Vocabulary, card: dict[str, Any]) -> None:
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
        attempts: int = 32,
        rounds: int = 0,
        wanted: Mapping[str, float] | None = None,
        threads: int = 1,
    ) -> list[str]:
        """Exactly `n` SMILES from the prior; the i-th depends on (seed, i) only.

        They are as decoded: not canonical, duplicates kept, "" where a string stands for no atom.

        Args:
            attempts: strings written at most for a sample until one is stable (`molvae.chemistry.round_trip`); 1 takes
                the first as it is.
            rounds: times that each string is encoded and written again from a draw of its posterior, which moves
                samples from the prior to where the data lie (`molvae.inference.sampling`).
            wanted: values, in their own units, of properties that the model was trained to tell, by name: the prior
                under the condition that its head says them (`molvae.inference.conditioning`). `rounds` lead away from
                them.
        Raises:
            MolvaeError: a number is out of its range; or the model does not tell a wanted property, or its prior is no
                normal one.
        """
        if n < 1:
            raise MolvaeError(f"n is {n}; ask for at least one sample.")
        if not (0 <= temperature < math.inf and max_tokens >= 1 and attempts >= 1 and rounds >= 0 and threads >= 1):
            raise MolvaeError(
                f"temperature is {temperature}, max_tokens {max_tokens}, attempts {attempts}, rounds {rounds}, threads "
                f"{threads}; temperature and rounds are at least 0, the others 1."
            )
        strings = sample_prior(
            self.network, 0, n, seed=seed, temperature=temperature, max_tokens=max_tokens, threads=threads,
            accept=stable(self.vocabulary) if attempts > 1 else None, attempts=attempts, rounds=rounds,
            wanted=wanted,
        )  # fmt: skip
        return [self.smiles(symbols) for symbols in self.symbols(strings)]

    def encode(self, smiles: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Posterior of molecules: mean and log-variance, (n, latent_dim) each, float32, rows as in the input.

        Molecules are standardised as the training data were. A row that is missing or no molecule, or holds a symbol
        the vocabulary lacks, is NaN, and a warning names it, the first as row 1.
        """
        rows, tokens = self.tokens(smiles)
        mu, logvar = (np.full((len(smiles), self.latent_dim), np.nan, np.float32) for _ in range(2))
        mu[rows], logvar[rows] = (part.numpy() for part in posterior(self.network, tokens))
        return mu, logvar

    def properties(self, smiles: Sequence[str]) -> pd.DataFrame:
        """What the model's head says of molecules: a row for each, a column for each property, in its own units.

        It reads the mean of each posterior; rows are NaN as in `encode`. For any other property see `predictor`.

        Raises:
            MolvaeError: the model was trained without properties.
        """
        head = self.network.head
        if head is None:
            raise MolvaeError(conditioning.NO_HEAD)
        mu = torch.from_numpy(self.encode(smiles)[0]).to(head.mean.device)
        with torch.inference_mode():
            return pd.DataFrame(head(mu).cpu().numpy(), columns=list(head.names))

    def log_likelihood(self, smiles: Sequence[str], *, draws: int = 16, seed: int = 0) -> np.ndarray:
        """A lower bound of log p(x) of each molecule, (n,) nats, rows as in the input; NaN as in `encode`.

        Args:
            draws: of the latent point of each; 1 gives the ELBO, more come nearer to log p(x), and another seed to the
                same (`molvae.latent.likelihood`).
        Raises:
            MolvaeError: draws is under 1; or the model is a plain autoencoder.
        """
        if draws < 1:
            raise MolvaeError(f"draws is {draws}; at least one is needed.")
        rows, tokens = self.tokens(smiles)
        found = np.full(len(smiles), np.nan, np.float32)
        found[rows] = likelihood.log_likelihood(self.network, tokens, draws, seed).numpy()
        return found

    def interpolate(
        self, start: str, end: str, steps: int = 8, *, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Molecules on the way from one to another: SMILES decoded at `steps` points, both ends included.

        The way keeps its distance from 0 as the ends have it (`molvae.latent.interpolation`). The ends are what the
        model makes of the two molecules, which need not be they themselves. Of a molecule and itself all points are
        the same.

        Raises:
            MolvaeError: an end is no molecule, or holds a symbol the model does not know; or steps is under 2.
        """
        if steps < 2:
            raise MolvaeError(f"steps is {steps}; a way has two ends at least.")
        one, other = (self._point(smiles)[0] for smiles in (start, end))
        return self.decode(interpolation.between(one, other, steps), temperature=temperature, seed=seed)

    def neighbors(
        self, smiles: str, n: int = 100, radius: float = 0.5, *, temperature: float = 0.0, seed: int = 0
    ) -> pd.DataFrame:
        """What the model writes near a molecule, the most frequent first.

        Args:
            n: latent points, drawn from the molecule's posterior made `radius` times as wide.
            radius: 0 is the posterior's mean, 1 the posterior itself.
        Returns:
            a row for each different molecule: smiles (canonical; "" for strings that are none), frequency (share of
            the points), similarity (Tanimoto, Morgan fingerprints of radius 2, 1024 bits; NaN for "").
        Raises:
            MolvaeError: it is no molecule, or holds a symbol the model does not know; or n or radius is out of range.
        """
        if n < 1 or not 0 <= radius < np.inf:
            raise MolvaeError(f"n is {n} and radius {radius}; n is at least 1, radius finite and not below 0.")
        points = interpolation.around(*self._point(smiles), n, radius, seed)
        counts = Counter(self.decode(points, temperature=temperature, seed=seed))
        own, near = fingerprint(parse(self._readable(smiles))), {}  # canonical SMILES -> how often, and how similar
        for decoded, count in counts.items():
            try:
                mol = read(decoded)
                form, similarity = canonical(mol), similarity_of(own, fingerprint(mol))
            except Rejected:
                form, similarity = "", np.nan
            near[form] = near.get(form, (0, 0.0))[0] + count, similarity
        rows = [(form, count / n, similarity) for form, (count, similarity) in near.items()]
        found = pd.DataFrame(rows, columns=["smiles", "frequency", "similarity"])
        return found.sort_values(["frequency", "similarity"], ascending=False, ignore_index=True)

    def optimize(
        self,
        score: str | optimization.Score,
        calls: int = 1000,
        *,
        start: Sequence[str] = (),
        like: str | None = None,
        similarity: float = 0.4,
        known: pd.DataFrame | None = None,
        save: optimization.Save | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Search the latent space for molecules that score better; Ctrl-C ends it with what was found.

        Only stable strings (`molvae.chemistry.round_trip`) are scored, each molecule once.

        Args:
            score: a function of a canonical SMILES, larger is better; or "qed" or "penalised_logp". A molecule for
                which it raises, or gives no finite number, is left out and stays in the ledger.
            calls: of it, at most.
            start: SMILES to begin with; none: molecules from the prior.
            like: a SMILES that molecules have to be similar to, with which the search begins, too.
            similarity: to it, at least (Tanimoto, Morgan fingerprints of radius 2, 1024 bits).
            known: an earlier ledger; its molecules cost no call.
            save: a function that is given the ledger so far every ten seconds, and when the search ends, with an error
                or without.
        Returns:
            a ledger with a row for each call: call, smiles (canonical), score, similarity (NaN without `like`), origin
            (start, prior, near a parent, between two), error.
        Raises:
            MolvaeError: no molecule to begin with has a score; or it is none, or holds a symbol the model does not
                know; or calls or similarity is out of range.
        """
        if calls < 1 or not 0 <= similarity <= 1:
            raise MolvaeError(f"calls is {calls} and similarity {similarity}; at least 1, and between 0 and 1.")
        score = optimization.named(score) if isinstance(score, str) else score
        like = self._readable(like) if like else None
        begin = [like] if like else []
        begin += [self._readable(one) for one in start]
        ledger = optimization.Ledger(score, calls, like, similarity, save)
        if known is not None:
            readable = known.iloc[self.tokens(list(known["smiles"]))[0]]
            ledger.remember([self._standard(one) for one in readable["smiles"]], readable["score"])
        random = generator(seed, "optimize")
        with torch.inference_mode():
            optimization.evolve(
                ledger, begin, lambda n: self.network.prior.draw(n, random).numpy(), self.stable_at, self.encode, seed
            )
        return ledger.table()

    def predictor(self, smiles: Sequence[str], values: Sequence[float], *, seed: int = 0) -> Predictor:
        """A predictor of a property from latent points, and how good it is beside one from fingerprints.

        Args:
            smiles, values: of at least 10 molecules; where there is no finite value, or no molecule that the model can
                read, the row is left out. Of a molecule that occurs repeatedly the mean of its values is learned.
        Raises:
            MolvaeError: fewer are left, or there are not as many values as molecules.
        """
        return Predictor(self.encode, self._standard, smiles, values, seed)

    def stable_at(self, z: np.ndarray) -> list[str]:
        """Canonical SMILES of what is written greedily at points, (n, latent_dim); "" where that is not stable."""
        strings = sample_at(
            self.network, torch.from_numpy(z).float(), seed=0, temperature=0, max_tokens=MAX_TOKENS,
            threads=torch.get_num_threads(),
        )  # fmt: skip
        return [stable_form(symbols, self.vocabulary.caps) for symbols in self.symbols(strings)]

    def decode(
        self, z: np.ndarray, *, temperature: float = 0.0, seed: int = 0, max_tokens: int = MAX_TOKENS
    ) -> list[str]:
        """One SMILES for each latent point, as decoded; the i-th depends on the i-th point, i and the seed only.

        Args:
            z: (n, latent_dim) points, finite.
            temperature: 0 takes the likeliest token at each step; above, tokens are drawn.
        """
        z = np.asarray(z, dtype=np.float32)
        if z.ndim != 2 or z.shape[1] != self.latent_dim or not np.isfinite(z).all():
            raise MolvaeError(f"z has shape {z.shape}; expected finite values of shape (n, {self.latent_dim}).")
        random = generator(seed, "decode")
        found: list[str] = []
        for start in range(0, len(z), BATCH):
            points = torch.from_numpy(z[start : start + BATCH])
            uniforms = torch.rand((len(points), max_tokens), generator=random).T  # a row each: none knows of the next
            strings = decode_points(self.network, points, uniforms, temperature)
            found += [self.smiles(symbols) for symbols in self.symbols(strings)]
        return found

    def symbols(self, strings: Strings) -> Iterable[list[str]]:
        """SELFIES symbols of decoded strings."""
        return symbols_of(self.vocabulary, strings)

    def smiles(self, symbols: Sequence[str]) -> str:
        """SMILES of SELFIES symbols under this model's own bonding caps; not canonical."""
        return decode(symbols, self.vocabulary.caps)

    def _merged(self, tokens: TokenSet) -> TokenSet:
        """Molecules in single symbols, in the tokens of this model."""
        if not self.vocabulary.merges or not len(tokens):
            return tokens
        from molvae.data.bpe import Merger

        ids, lengths = Merger(self.vocabulary).apply(tokens.ids, tokens.lengths)
        return TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]))

    def _point(self, smiles: str) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and log-variance of one molecule, (latent_dim,) each; what has none is an error."""
        mu, logvar = self.encode([self._readable(smiles)])
        return mu[0], logvar[0]

    def _readable(self, smiles: str) -> str:
        """A molecule as `encode` reads it, as canonical SMILES; what it cannot read is an error."""
        try:
            self._ids(smiles)
        except Rejected as why:
            raise MolvaeError(f"{smiles!r}: {why}") from None
        return self._standard(smiles)

    def tokens(self, smiles: Sequence[str | None], rows: Sequence[int] | None = None) -> tuple[np.ndarray, TokenSet]:
        """The places in a list of SMILES that the model can read, from 0, and their tokens.

        Args:
            rows: numbers for the warnings that name the others; None: 1, 2, …
        """
        if isinstance(smiles, str):
            raise MolvaeError("this takes a list of SMILES; put the one you have into a list.")
        places, found = [], []
        for place, text in enumerate(smiles):
            try:
                found.append(self._ids(text))
                places.append(place)
            except Rejected as why:
                log.warning("row %d, %r: %s", place + 1 if rows is None else rows[place], text, why)
        return np.array(places, dtype=np.int64), self._merged(TokenSet.of(found))

    def _ids(self, text: str | None) -> list[int]:
        """Ids of the single symbols of a SMILES.

        Raises:
            Rejected: it is missing or no molecule, SELFIES cannot write it, or the vocabulary lacks symbols of it.
        """
        if not isinstance(text, str):  # what pandas puts where a table has nothing
            raise Rejected("empty")
        symbols = bracketed(encode(self._standard(text)))
        ids = self.vocabulary.ids(symbols)
        if UNK in ids:
            unknown = sorted({symbol for symbol, i in zip(symbols, ids, strict=True) if i == UNK})
            raise Rejected("unknown_symbol", f"the model does not know {', '.join(unknown)}")
        return ids

    def _standard(self, text: str) -> str:
        """Canonical SMILES of a molecule, standardised as the training data were."""
        settings = self.card["settings"].get("featurize", {})
        chosen = {name: settings[name] for name in ("largest_fragment", "neutralise", "stereo") if name in settings}
        return standardise(text, **chosen)

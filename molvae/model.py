"""A trained model as a Python object: `molvae.load(folder)`, then sample, encode, decode."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molvae.checkpoints import CARD, load_model
from molvae.chemistry.brackets import bracketed, plain, selfies_of
from molvae.chemistry.stable import are_stable
from molvae.chemistry.standardise import Rejected, standardise
from molvae.chemistry.symbols import decode, encode
from molvae.dataset import TokenSet
from molvae.decoding import Strings, decode_points
from molvae.encoding import posterior
from molvae.errors import ModelFileError, MolvaeError
from molvae.parallel import Workers
from molvae.sampling import Accept, sample_prior
from molvae.seeds import generator
from molvae.vae import VAE
from molvae.vocabulary import UNK, Vocabulary

log = logging.getLogger(__name__)
BATCH = 512
TASK_STRINGS = 1024  # a few samples are not worth a process
ALONE = Workers()


def load(folder: str | Path, device: str = "cpu") -> Model:
    """Open a model folder (model.safetensors and model.json). Nothing in it is executed.

    Raises:
        ModelFileError: missing, damaged, or of another version; the message names the file.
    """
    network, vocabulary, card = load_model(Path(folder))
    for symbol in vocabulary.symbols:  # said here, not after an hour of sampling
        try:
            decode(plain([symbol]), vocabulary.caps)
        except ModelFileError as err:
            raise ModelFileError(f"{Path(folder) / CARD}: {err}") from None
    return Model(network.to(device), vocabulary, card)


def stable(vocabulary: Vocabulary, workers: Workers = ALONE) -> Accept:
    """A function that tells which decoded strings are stable, see `molvae.chemistry.stable`."""

    def accept(strings: Strings) -> np.ndarray:
        symbols = [selfies_of(vocabulary, ids) for ids in strings.ids.tolist()]
        tasks = [(symbols[at : at + TASK_STRINGS], vocabulary.caps) for at in range(0, len(symbols), TASK_STRINGS)]
        return np.array([one for part in workers.in_order(are_stable, tasks) for one in part], dtype=bool)

    return accept


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
        max_tokens: int = 128,
        attempts: int = 32,
        rounds: int = 0,
        threads: int = 1,
    ) -> list[str]:
        """Exactly `n` SMILES from the prior; the i-th depends on (seed, i) only.

        They are as decoded: not canonical, duplicates kept, "" where a string stands for no atom.

        Args:
            attempts: strings written at most for a sample until one is stable (`molvae.chemistry.stable`); 1 takes the
                first as it is.
            rounds: times that each string is encoded and written again from a draw of its posterior, which moves
                samples from the prior to where the data lie (`molvae.sampling`).
        """
        if n < 1:
            raise MolvaeError(f"n is {n}; ask for at least one sample.")
        strings = sample_prior(
            self.network, 0, n, seed=seed, temperature=temperature, max_tokens=max_tokens, threads=threads,
            accept=stable(self.vocabulary) if attempts > 1 else None, attempts=attempts, rounds=rounds,
        )  # fmt: skip
        return [self.smiles(symbols) for symbols in self.symbols(strings)]

    def encode(self, smiles: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Posterior of molecules: mean and log-variance, (n, latent_dim) each, float32, rows as in the input.

        Molecules are standardised as the training data were. A row that is no molecule, or holds a symbol the
        vocabulary lacks, is NaN, and a warning names it.
        """
        if isinstance(smiles, str):
            raise MolvaeError("encode takes a list of SMILES; put the one you have into a list.")
        ids = [self._ids(row, text) for row, text in enumerate(smiles)]
        rows = np.array([row for row, found in enumerate(ids) if found], dtype=np.int64)
        mu, logvar = (np.full((len(ids), self.latent_dim), np.nan, np.float32) for _ in range(2))
        tokens = self._merged(TokenSet.of([ids[row] for row in rows]))
        mu[rows], logvar[rows] = (part.numpy() for part in posterior(self.network, tokens))
        return mu, logvar

    def decode(self, z: np.ndarray, *, temperature: float = 0.0, seed: int = 0, max_tokens: int = 128) -> list[str]:
        """One SMILES for each latent point, as decoded.

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
            uniforms = torch.rand((max_tokens, len(points)), generator=random)
            strings = decode_points(self.network, points, uniforms, temperature)
            found += [self.smiles(symbols) for symbols in self.symbols(strings)]
        return found

    def symbols(self, strings: Strings) -> Iterable[list[str]]:
        """SELFIES symbols of decoded strings."""
        return (selfies_of(self.vocabulary, ids) for ids in strings.ids.tolist())

    def smiles(self, symbols: Sequence[str]) -> str:
        """SMILES of SELFIES symbols under this model's own bonding caps; not canonical."""
        return decode(symbols, self.vocabulary.caps)

    def _merged(self, tokens: TokenSet) -> TokenSet:
        """Molecules in single symbols, in the tokens of this model."""
        if not self.vocabulary.merges or not len(tokens):
            return tokens
        from molvae.merges import Merger

        ids, lengths = Merger(self.vocabulary).apply(tokens.ids, tokens.lengths)
        return TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]))

    def _ids(self, row: int, text: str) -> list[int]:
        """Ids of the single symbols of a SMILES; none, with a warning, where there is no way to write it."""
        settings = self.card["settings"].get("featurize", {})
        chosen = {name: settings[name] for name in ("largest_fragment", "neutralise", "stereo") if name in settings}
        try:
            symbols = bracketed(encode(standardise(text, **chosen)))
        except Rejected as why:
            log.warning("row %d, %r: %s", row, text, why)
            return []
        ids = self.vocabulary.ids(symbols)
        if UNK in ids:
            unknown = sorted({symbol for symbol, i in zip(symbols, ids, strict=True) if i == UNK})
            log.warning("row %d, %r: the model does not know %s", row, text, ", ".join(unknown))
            return []
        return ids

"""What the unit tests share: a few real molecules, their tokens, and networks small enough to train in a second."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks here are so small that a second thread costs time

hypothesis.settings.register_profile("molvae", deadline=None, max_examples=30, derandomize=True, database=None)
hypothesis.settings.load_profile("molvae")

SMILES = (
    "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "CC(=O)Nc1ccc(O)cc1",
    "COc1ccc2cc(C(C)C(=O)O)ccc2c1", "CN1CCCC1c1cccnc1", "O=C(O)c1cccnc1", "NC(=O)c1cnccn1", "C[N+](=O)[O-]",
    "CCN(CC)CCOC(=O)c1ccc(N)cc1", "CC(C)NCC(O)COc1cccc2ccccc12", "Clc1ccc(C2CCNCC2)cc1", "O=S(=O)(Nc1ccccn1)c1ccccc1",
    "FC(F)(F)c1ccccc1N1CCOCC1", "Cc1ccc(S(N)(=O)=O)cc1", "O=C1CCCN1", "c1ccc2[nH]ccc2c1", "CCOC(=O)c1ccccc1",
    "N#Cc1ccccc1", "CC1CCCCC1O", "CCCCO", "CSc1ccccc1", "Brc1ccccn1", "O=C(Nc1ccccc1)C1CC1", "CN(C)c1ccccc1",
    "OCCN1CCNCC1", "c1ccsc1", "c1ccoc1", "CC#N", "C[C@H](N)C(=O)O", "F/C=C/F", "C[Si](C)(C)c1ccccc1",
)  # fmt: skip


@pytest.fixture(scope="session")
def smiles() -> tuple[str, ...]:
    """Molecules as a chemist would write them, with charges, stereo marks and an element outside SELFIES' table."""
    return SMILES


@pytest.fixture(scope="session")
def strings(smiles) -> list[list[str]]:
    """SELFIES symbols of each."""
    from molvae.chemistry.selfies_codec import encode
    from molvae.chemistry.standardise import standardise

    return [encode(standardise(one)) for one in smiles]


@pytest.fixture(scope="session")
def vocabulary(strings):
    from molvae.chemistry.selfies_codec import caps_for
    from molvae.chemistry.tokenization import bracketed
    from molvae.data.vocabulary import Vocabulary

    symbols = {symbol for string in strings for symbol in bracketed(string)}
    return Vocabulary.build(symbols, caps_for(symbols))


@pytest.fixture(scope="session")
def tokens(strings, vocabulary):
    from molvae.chemistry.tokenization import bracketed
    from molvae.data.dataset import TokenSet

    return TokenSet.of([vocabulary.ids(bracketed(string)) for string in strings])


@pytest.fixture
def everything(tokens):
    """All of them as one batch."""
    return tokens.batch(range(len(tokens)))


@pytest.fixture(scope="session")
def sizes():
    from molvae.config import ModelSettings

    return ModelSettings(embedding_dim=6, latent_dim=5, encoder_hidden=9, decoder_hidden=8, decoder_layers=2)


@pytest.fixture
def network(vocabulary, sizes):
    """Random weights, larger than at the start of a training so that no two tokens are alike."""
    import torch

    from molvae.nn.vae import untrained

    model = untrained(len(vocabulary), sizes, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    return model


@pytest.fixture
def folder(tmp_path, network, vocabulary, sizes) -> Path:
    """A model folder as `train` writes it, with the networks of `network`."""
    from molvae.model_io.folder import save_model

    card = {"settings": {"featurize": {"stereo": "keep"}, "model": sizes.model_dump()}, "metrics": {"epoch": 1}}
    save_model(tmp_path / "model", network, vocabulary, card)
    return tmp_path / "model"


@pytest.fixture
def lay_down(tmp_path):
    """lay_down(rows) writes (SMILES, split) rows as a data set of `fetch`; returns its path."""

    def write(rows, name: str = "data") -> Path:
        from molvae.config import DataSettings
        from molvae.stages.fetch import fetch

        source = tmp_path / "raw.tsv"
        with_split = any(split for _, split in rows)
        lines = ["SMILES\tSPLIT", *(f"{one}\t{split}" for one, split in rows)]
        source.write_text("\n".join(lines if with_split else [line.split("\t")[0] or '""' for line in lines]) + "\n")
        fetch(DataSettings(source=str(source)), tmp_path / f"{name}.parquet")
        return tmp_path / f"{name}.parquet"

    return write


@pytest.fixture
def featurised(tmp_path, lay_down, smiles):
    """featurised(train, valid) is the token folder of the molecules, longest first: so many of each split, then test.

    More settings of `featurize` may be named.
    """

    def make(train: int, valid: int, **settings) -> Path:
        from molvae.config import FeaturizeSettings
        from molvae.stages.featurize import featurize, featurize_block

        chosen = FeaturizeSettings(**settings)
        splits = ["train"] * train + ["valid"] * valid + ["test"] * (len(smiles) - train - valid)
        rows = zip(sorted(smiles, key=len, reverse=True), splits, strict=True)
        featurize_block(lay_down(list(rows)), chosen, tmp_path / "tokens.parquet")
        featurize([tmp_path / "tokens.parquet"], chosen, tmp_path / "tokens")
        return tmp_path / "tokens"

    return make


@pytest.fixture
def damage():
    """Ways to spoil a file; each is given its path."""

    def truncate(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def randomise(path: Path) -> None:
        path.write_bytes(random.Random(0).randbytes(5000))

    def empty(path: Path) -> None:
        path.write_bytes(b"")

    def remove(path: Path) -> None:
        path.unlink()

    def replace_by_a_list(path: Path) -> None:
        path.write_text(json.dumps([1, 2]))

    return {f.__name__: f for f in (truncate, randomise, empty, remove, replace_by_a_list)}

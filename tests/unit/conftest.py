"""Shared fixtures: a few real molecules, their tokens, and networks small enough to train in a second."""

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
    "CC(=O)Oc1ccccc1C(=O)O",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "CC(C)Cc1ccc(C(C)C(=O)O)cc1",
    "CC(=O)Nc1ccc(O)cc1",
    "COc1ccc2cc(C(C)C(=O)O)ccc2c1",
    "CN1CCCC1c1cccnc1",
    "O=C(O)c1cccnc1",
    "NC(=O)c1cnccn1",
    "C[N+](=O)[O-]",
    "CCN(CC)CCOC(=O)c1ccc(N)cc1",
    "CC(C)NCC(O)COc1cccc2ccccc12",
    "Clc1ccc(C2CCNCC2)cc1",
    "O=S(=O)(Nc1ccccn1)c1ccccc1",
    "FC(F)(F)c1ccccc1N1CCOCC1",
    "Cc1ccc(S(N)(=O)=O)cc1",
    "O=C1CCCN1",
    "c1ccc2[nH]ccc2c1",
    "CCOC(=O)c1ccccc1",
    "N#Cc1ccccc1",
    "CC1CCCCC1O",
    "CCCCO",
    "CSc1ccccc1",
    "Brc1ccccn1",
    "O=C(Nc1ccccc1)C1CC1",
    "CN(C)c1ccccc1",
    "OCCN1CCNCC1",
    "c1ccsc1",
    "c1ccoc1",
    "CC#N",
    "C[C@H](N)C(=O)O",
    "F/C=C/F",
    "C[Si](C)(C)c1ccccc1",
)


@pytest.fixture(scope="session")
def smiles() -> tuple[str, ...]:
    """Real molecules, not all canonical, with charges, stereo marks and an element outside SELFIES' table."""
    return SMILES


@pytest.fixture(scope="session")
def strings(smiles) -> list[list[str]]:
    """SELFIES symbols of each molecule of `smiles`."""
    from molvae.chemistry.selfies_codec import encode_smiles
    from molvae.chemistry.standardise import standardise

    return [encode_smiles(standardise(text)) for text in smiles]


@pytest.fixture(scope="session")
def vocabulary(strings):
    """The vocabulary of all symbols in `strings`."""
    from molvae.chemistry.selfies_codec import build_constraints
    from molvae.chemistry.tokenization import tokenize
    from molvae.data.vocabulary import Vocabulary

    symbols = {symbol for string in strings for symbol in tokenize(string)}
    return Vocabulary.build(symbols, build_constraints(symbols))


@pytest.fixture(scope="session")
def tokens(strings, vocabulary):
    """The molecules of `smiles` as a TokenSet."""
    from molvae.chemistry.tokenization import tokenize
    from molvae.data.dataset import TokenSet

    return TokenSet.from_lists([vocabulary.encode(tokenize(string)) for string in strings])


@pytest.fixture
def everything(tokens):
    """All molecules of `tokens` as one batch."""
    return tokens.collate(range(len(tokens)))


@pytest.fixture(scope="session")
def sizes():
    """Settings of a small network."""
    from molvae.config import ModelSettings

    return ModelSettings(embedding_dim=6, latent_dim=5, encoder_hidden=9, decoder_hidden=8, decoder_layers=2)


@pytest.fixture
def network(vocabulary, sizes):
    """A network with random weights, larger than at the start of training, so that no two tokens are alike."""
    import torch

    from molvae.nn.vae import init_vae

    model = init_vae(len(vocabulary), sizes, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    return model


@pytest.fixture
def folder(tmp_path, network, vocabulary, sizes) -> Path:
    """A model folder as `train` writes it, with the weights of `network`."""
    from molvae.model_io.folder import save_model

    card = {"settings": {"featurize": {"stereo": "keep"}, "model": sizes.model_dump()}, "metrics": {"epoch": 1}}
    save_model(tmp_path / "model", network, vocabulary, card)
    return tmp_path / "model"


@pytest.fixture
def write_dataset(tmp_path):
    """A function that writes (SMILES, split) rows as a data set, as `fetch` does, and returns its path."""

    def write(rows, name: str = "data") -> Path:
        from molvae.config import DataSettings
        from molvae.stages.fetch import fetch

        source = tmp_path / "raw.tsv"
        with_split = any(split for _, split in rows)
        lines = ["SMILES\tSPLIT", *(f"{text}\t{split}" for text, split in rows)]
        source.write_text("\n".join(lines if with_split else [line.split("\t")[0] or '""' for line in lines]) + "\n")
        fetch(DataSettings(source=str(source)), tmp_path / f"{name}.parquet")
        return tmp_path / f"{name}.parquet"

    return write


@pytest.fixture
def featurised(tmp_path, write_dataset, smiles):
    """A function that featurizes `smiles`, longest first, and returns the token folder.

    It is given the numbers of training and validation molecules (the rest is the test split) and more settings of
    `featurize`.
    """

    def make(train: int, valid: int, **settings) -> Path:
        from molvae.config import FeaturizeSettings
        from molvae.stages.featurize import featurize, featurize_shard

        featurize_settings = FeaturizeSettings(**settings)
        splits = ["train"] * train + ["valid"] * valid + ["test"] * (len(smiles) - train - valid)
        rows = zip(sorted(smiles, key=len, reverse=True), splits, strict=True)
        featurize_shard(write_dataset(list(rows)), featurize_settings, tmp_path / "tokens.parquet")
        featurize([tmp_path / "tokens.parquet"], featurize_settings, tmp_path / "tokens")
        return tmp_path / "tokens"

    return make


@pytest.fixture
def damage():
    """Functions that damage a file, by name; each is given its path."""

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


@pytest.fixture(scope="session")
def moses(request) -> Path:
    """A folder with the MOSES wheel and the sets computed of it, kept from one test run to the next."""
    from molvae.data.moses import download_moses_wheel
    from molvae.errors import DataError

    folder = request.config.cache.mkdir("molvae")
    try:
        download_moses_wheel(folder / "downloads")
    except DataError as err:
        pytest.skip(f"the wheel with the MOSES sets cannot be downloaded here: {err}")
    return folder

"""benchmarks/gpu: all of its commands on a CPU, where the suite finds torch and numpy and no other dependency."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import molvae

GPU = Path(__file__).parents[2] / "benchmarks/gpu"
HIDE_DEPENDENCIES = """
import sys
NAMES = {"rdkit", "selfies", "pydantic", "safetensors", "pandas", "mlflow", "psutil", "typer", "pyarrow", "tokenizers",
         "fcd_torch", "sklearn", "matplotlib", "snakemake"}
class FinderWithout:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in NAMES else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [FinderWithout(finder) for finder in sys.meta_path]
"""
# all commands in one process: each import of torch takes seconds
RUN_COMMANDS = f"""
import json, runpy, sys
sys.path.insert(0, {str(GPU)!r})  # where Python looks first when it is given the file
for command in json.loads(sys.argv[1]):
    sys.argv = [{str(GPU / "suite.py")!r}, *command, "--tokens", "packed.npz", "--device", "cpu"]
    runpy.run_path(sys.argv[0], run_name="__main__")
for name in ("rdkit", "pydantic"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(name + " was there")
"""
SIZES = {"embedding_dim": 12, "latent_dim": 6, "encoder_hidden": 24, "decoder_hidden": 24}


@pytest.fixture
def gpu_modules(monkeypatch):
    """Makes the modules of benchmarks/gpu importable."""
    monkeypatch.syspath_prepend(GPU)


def test_model_trained_without_our_dependencies_unpacks_to_a_model_that_samples_the_same(
    featurised, gpu_modules, tmp_path, smiles, capsys
):
    import pack
    import unpack

    tokens = featurised(train=22, valid=6)
    pack.pack(tokens, tmp_path / "packed.npz")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/sitecustomize.py").write_text(HIDE_DEPENDENCIES)
    fit = {"draws": 1000, "steps": 5, "components": 3, "batch_size": 64}
    settings = ["--model", json.dumps(SIZES), "--train", json.dumps({"batch_size": 8, "epochs": 2})]
    commands = [
        ["throughput", "--out", "speed", "--sizes", "default", "--batches", "8", "--seconds", "0.05"],
        ["train", "--out", "run", "--minutes", "1", "--samples", "20", *settings, "--prior", json.dumps(fit)],
        ["sample", "--out", "speed", "--weights", "run", "--seconds", "0.05"],
        ["agree", "--out", "speed", "--weights", "run"],
    ]
    process = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, json.dumps(commands)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "hidden")},
    )
    assert process.returncode == 0, process.stderr
    capsys.readouterr()
    unpack.unpack(tmp_path / "run", tokens, tmp_path / "unpacked", workers=1)
    printed = capsys.readouterr().out

    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*/*.json")}
    (cell,) = results["throughput"]["ours"]
    assert cell["molecules_per_s"] > 0 and cell["loss_is_finite"] and 0 < cell["fraction_of_matmul"] < 1
    assert all(cell["strings_per_s"] > 0 for cell in results["sample"]["ours"]) and results["sample"]["trained"]
    comparisons = results["agree"]["comparisons"]
    assert comparisons["cpu float32 against CPU float32"]["greedy_same"] == 1
    assert comparisons["cpu float32 against CPU float64"]["gradients"] < 1e-4
    assert results["train"]["measured"]["torch"] and results["train"]["stopped"] == "epochs"
    with open(tmp_path / "run/history.csv") as file:
        assert len(list(csv.DictReader(file))) == 2

    samples = {}
    for name in ("model", "model-flow", "model-mixture"):
        model = molvae.load(tmp_path / "unpacked" / name)
        samples[name] = model.sample(20, seed=0, max_tries=1)
        assert model.latent_dim == SIZES["latent_dim"] and model.card["metrics"]["epoch"] in (1, 2)
    for name, model_name in (("prior", "model"), ("flow", "model-flow"), ("mixture", "model-mixture")):
        table = pyarrow.parquet.read_table(tmp_path / f"unpacked/{name}.parquet")
        assert table.column("smiles").to_pylist() == samples[model_name], "the unpacked model samples something else"
    greedy = json.loads((tmp_path / "unpacked/metrics.json").read_text())["strings"]["greedy"]
    assert greedy["n"] == len(smiles) - 28 and greedy["same_molecule"] >= greedy["exact"]
    assert [line.split()[0] for line in printed.splitlines()] == ["prior", "flow", "mixture", "posterior", "greedy"]


def test_packed_file_read_with_fewer_merges_equals_tokens_merged_that_far(featurised, gpu_modules, tmp_path):
    import common
    import pack

    from molvae.data.bpe import MergeEncoder

    pack.pack(featurised(train=22, valid=6, merges=30), tmp_path / "packed.npz")
    single, partial, full = (common.read_packed(tmp_path / "packed.npz", merges) for merges in (0, 7, None))
    assert len(partial.vocabulary.merges) == 7 < len(full.vocabulary.merges)
    for split, molecules in partial.splits.items():
        singles = single.splits[split]
        ids, lengths = MergeEncoder(partial.vocabulary).apply(singles.ids, singles.lengths)
        assert np.array_equal(molecules.ids, ids) and np.array_equal(molecules.lengths, lengths)
        merged = full.splits[split]
        for row in range(len(molecules)):
            assert partial.vocabulary.decode(molecules[row]) == full.vocabulary.decode(merged[row])


def test_packed_augmentations_equal_those_of_the_token_store(featurised, gpu_modules, tmp_path):
    import common
    import pack

    from molvae.data.token_store import TOKENS_FILE, TokenStore

    tokens = featurised(train=22, valid=6, merges=30, augmentations=2)
    pack.pack(tokens, tmp_path / "packed.npz")
    stored = TokenStore.open(tokens / TOKENS_FILE).augmentations
    packed = common.read_packed(tmp_path / "packed.npz").augmentations
    assert len(packed) == 44
    assert np.array_equal(packed.ids, stored.ids) and np.array_equal(packed.lengths, stored.lengths)
    single = common.read_packed(tmp_path / "packed.npz", 0)
    assert single.augmentations.lengths.sum() > packed.lengths.sum()


def test_packed_control_symbols_write_the_same_molecules(featurised, gpu_modules, tmp_path):
    import common
    import pack

    from molvae.chemistry.selfies_codec import encode_smiles

    tokens = featurised(train=22, valid=6, merges=30)
    for symbols in ("smiles", "selfies"):
        pack.pack(tokens, tmp_path / f"{symbols}.npz", symbols)
    table = pyarrow.parquet.read_table(tokens / "molecules.parquet").to_pandas()
    molecules = table.loc[table["split"] == "train", "smiles"].tolist()
    smiles, selfies = (common.read_packed(tmp_path / f"{symbols}.npz") for symbols in ("smiles", "selfies"))
    assert ["".join(smiles.vocabulary.decode(smiles.train[row])) for row in range(22)] == molecules
    decoded = [selfies.vocabulary.decode(selfies.train[row]) for row in range(22)]
    assert decoded == [encode_smiles(text) for text in molecules]
    assert len(smiles.vocabulary.merges) == 30


def test_weights_are_cut_into_parts_and_read_from_bfloat16_where_float32_is_missing(gpu_modules, monkeypatch, tmp_path):
    import torch
    import weights

    monkeypatch.setattr(weights, "PART_BYTES", 1500)
    tensors = {"model": {"a": torch.randn(40, 50), "n": torch.arange(3)}}
    weights.write_weights(tmp_path, tensors)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 1500
    torch.testing.assert_close(weights.read_weights(tmp_path), tensors, rtol=0, atol=0)
    for path in tmp_path.glob("weights-float32*"):
        path.unlink()
    restored = weights.read_weights(tmp_path)["model"]
    assert restored["a"].dtype == torch.float32 and restored["n"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(restored["a"], tensors["model"]["a"], rtol=2**-8)

"""benchmarks/gpu: its whole way on a CPU, where the suite itself finds torch and numpy and none of our other needs."""

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
HIDDEN = """
import sys
NAMES = {"rdkit", "selfies", "pydantic", "safetensors", "pandas", "mlflow", "psutil", "typer", "pyarrow", "tokenizers",
         "fcd_torch", "sklearn", "matplotlib", "snakemake"}
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in NAMES else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
# all commands in one process: each import of torch takes seconds
SUITE = f"""
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
def programs(monkeypatch):
    """The folder's modules can be imported."""
    monkeypatch.syspath_prepend(GPU)


def test_what_a_machine_without_our_libraries_trains_comes_back_as_a_model(
    featurised, programs, tmp_path, smiles, capsys
):
    import pack
    import unpack

    tokens = featurised(train=22, valid=6)
    pack.pack(tokens, tmp_path / "packed.npz")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/sitecustomize.py").write_text(HIDDEN)
    fit = {"draws": 1000, "steps": 5, "components": 3, "batch_size": 64}
    commands = [
        ["throughput", "--out", "speed", "--sizes", "default", "--batches", "8", "--seconds", "0.05"],
        ["train", "--out", "run", "--minutes", "1", "--samples", "20", "--model", json.dumps(SIZES),
         "--train", json.dumps({"batch_size": 8, "epochs": 2}), "--prior", json.dumps(fit)],
        ["sample", "--out", "speed", "--weights", "run", "--seconds", "0.05"],
        ["agree", "--out", "speed", "--weights", "run"],
    ]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", SUITE, json.dumps(commands)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "hidden")},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    capsys.readouterr()
    unpack.unpack(tmp_path / "run", tokens, tmp_path / "unpacked", workers=1)
    shown = capsys.readouterr().out

    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*/*.json")}
    (cell,) = results["throughput"]["ours"]
    assert cell["molecules_per_s"] > 0 and cell["loss_is_finite"] and 0 < cell["share_of_ceiling"] < 1
    assert all(cell["strings_per_s"] > 0 for cell in results["sample"]["ours"]) and results["sample"]["trained"]
    by_pair = results["agree"]["comparisons"]
    assert by_pair["cpu float32 against CPU float32"]["greedy_same"] == 1
    assert by_pair["cpu float32 against CPU float64"]["gradients"] < 1e-4
    assert results["train"]["measured"]["torch"] and results["train"]["stopped"] == "epochs"
    with open(tmp_path / "run/history.csv") as file:
        assert len(list(csv.DictReader(file))) == 2

    plain = {}
    for name in ("model", "model-flow", "model-mixture"):
        opened = molvae.load(tmp_path / "unpacked" / name)
        plain[name] = opened.sample(20, seed=0, attempts=1)
        assert opened.latent_dim == SIZES["latent_dim"] and opened.card["metrics"]["epoch"] in (1, 2)
    for name, of in (("prior", "model"), ("flow", "model-flow"), ("mixture", "model-mixture")):
        table = pyarrow.parquet.read_table(tmp_path / f"unpacked/{name}.parquet")
        assert table.column("smiles").to_pylist() == plain[of], "the model that came back does not write what it wrote"
    greedy = json.loads((tmp_path / "unpacked/figures.json").read_text())["strings"]["greedy"]
    assert greedy["n"] == len(smiles) - 28 and greedy["same_molecule"] >= greedy["exact"]
    assert [line.split()[0] for line in shown.splitlines()] == ["prior", "flow", "mixture", "posterior", "greedy"]


def test_the_first_merges_alone_are_what_the_others_are_taken_apart_to(featurised, programs, tmp_path):
    import common
    import pack

    from molvae.data.bpe import Merger

    pack.pack(featurised(train=22, valid=6, merges=30), tmp_path / "packed.npz")
    single, some, all_of_them = (common.read(tmp_path / "packed.npz", merges) for merges in (0, 7, None))
    assert len(some.vocabulary.merges) == 7 < len(all_of_them.vocabulary.merges)
    for split, molecules in some.splits.items():
        ids, lengths = Merger(some.vocabulary).apply(single.splits[split].ids, single.splits[split].lengths)
        assert np.array_equal(molecules.ids, ids) and np.array_equal(molecules.lengths, lengths)
        other = all_of_them.splits[split]
        for row in range(len(molecules)):
            assert some.vocabulary.text(molecules[row]) == all_of_them.vocabulary.text(other[row])


def test_controls_are_the_same_molecules_in_other_symbols(featurised, programs, tmp_path):
    import common
    import pack

    from molvae.chemistry.selfies_codec import encode

    tokens = featurised(train=22, valid=6, merges=30)
    for symbols in ("smiles", "selfies"):
        pack.pack(tokens, tmp_path / f"{symbols}.npz", symbols)
    table = pyarrow.parquet.read_table(tokens / "molecules.parquet").to_pandas()
    molecules = table.loc[table["split"] == "train", "smiles"].tolist()
    smiles, selfies = (common.read(tmp_path / f"{symbols}.npz") for symbols in ("smiles", "selfies"))
    assert ["".join(smiles.vocabulary.text(smiles.train[row])) for row in range(22)] == molecules
    assert [selfies.vocabulary.text(selfies.train[row]) for row in range(22)] == [encode(one) for one in molecules]
    assert len(smiles.vocabulary.merges) == 30


def test_many_weights_are_cut_into_parts_and_come_back_in_bfloat16_where_the_others_are_missing(
    programs, monkeypatch, tmp_path
):
    import torch
    import weights

    monkeypatch.setattr(weights, "PART_BYTES", 1500)
    tensors = {"model": {"a": torch.randn(40, 50), "n": torch.arange(3)}}
    weights.write_weights(tmp_path, tensors)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 1500
    torch.testing.assert_close(weights.read_weights(tmp_path), tensors, rtol=0, atol=0)
    for path in tmp_path.glob("weights-float32*"):
        path.unlink()
    found = weights.read_weights(tmp_path)["model"]
    assert found["a"].dtype == torch.float32 and found["n"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(found["a"], tensors["model"]["a"], rtol=2**-8)

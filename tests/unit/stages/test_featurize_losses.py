"""Stage `featurize`: what molecules lose when they are standardised is listed and counted."""

from __future__ import annotations

import pandas as pd
import pytest
import selfies

from molvae.chemistry.standardise import standardise
from molvae.config import FeaturizeSettings
from molvae.data import readers
from molvae.data import shards as shard_files
from molvae.data.sharding import Shard
from molvae.stages.featurize import featurize, featurize_shard

SETTINGS = FeaturizeSettings(max_tokens=60, valid_fraction=0.2, test_fraction=0.2)
PARACETAMOL = "CC(=O)Nc1ccc(O)cc1"
LOSSY = {  # row: kept molecule, dropped fragments, is it a mixture
    "CCCCCCCCCN.Cl": ("CCCCCCCCCN", "Cl", False),
    "CCCCCCCCN.O.Cl.O": ("CCCCCCCCN", "Cl.O.O", False),
    "CCCCCCCC(=O)[O-].[Na+]": ("CCCCCCCC(=O)O", "[Na+]", False),
    "CCCCCCCCCCCCN.OC(=O)C(O)C(O)C(O)=O": ("CCCCCCCCCCCCN", "O=C(O)C(O)C(O)C(=O)O", False),
    f"CCCCCCCCCCCCO.{PARACETAMOL}": ("CCCCCCCCCCCCO", PARACETAMOL, True),
    f"{PARACETAMOL}.CCCCCCCCCCCCCO.Cl": ("CCCCCCCCCCCCCO", f"{PARACETAMOL}.Cl", True),
}
RACEMATES = {
    r"CCCCC[C@H](F)Cl |&1:5|": ("CCCCCC(F)Cl", 1),
    r"CCCCC[C@@H](F)Cl |&1:5|": None,  # a duplicate of the one before
    r"CCCC[C@H](O)[C@@H](F)Cl |o1:4,6|": ("CCCCC(O)C(F)Cl", 2),
    r"CCCCCC[C@H](F)Cl |a:6|": (r"CCCCCC[C@H](F)Cl", 0),
    r"CCCC[C@@H](F)Cl |r| name": ("CCCCC(F)Cl", 1),
}
REJECTED = {
    "CCCC |Sg:n:1,2::ht|": "not_one_structure",
    "CCCC |$_R1;;;$|": "not_one_structure",
    "CCCC |&1:7|": "not_cxsmiles",
    "CCCC |no extension|": "not_cxsmiles",
    f"{'C' * 61}.Cl": "too_long",
}


@pytest.fixture
def dataset(write_dataset, smiles, monkeypatch):
    """Molecules that lose nothing, and all rows above, the first of them twice, in row groups of seven."""
    monkeypatch.setattr(readers, "ROW_GROUP", 7)
    return write_dataset([(text, "") for text in (*smiles, *LOSSY, *RACEMATES, *REJECTED, next(iter(LOSSY)))])


def featurize_in_shards(dataset, out, n_shards=1, settings=SETTINGS):
    shards = [out.parent / f"{out.name}-{number}.parquet" for number in range(1, n_shards + 1)]
    for number, path in enumerate(shards, start=1):
        featurize_shard(dataset, settings, path, shard=Shard(number, n_shards))
    return featurize(shards, settings, out)


def test_each_molecule_has_the_fragments_that_were_dropped_beside_it(tmp_path, dataset, smiles):
    counts = featurize_in_shards(dataset, tmp_path / "tokens")
    table = pd.read_parquet(tmp_path / "tokens" / "molecules.parquet")
    assert table.columns.tolist() == ["row", "smiles", "split", "dropped", "is_mixture"]
    lossy = table[table["dropped"].notna()]
    assert list(zip(lossy["smiles"], lossy["dropped"], lossy["is_mixture"], strict=True)) == list(LOSSY.values())
    assert table.loc[table["dropped"].isna(), "is_mixture"].isna().all()
    assert counts["dropped_fragments"] == {
        "molecules": 6,
        "mixtures": 2,
        "most_frequent": [
            {"smiles": "Cl", "molecules": 3},
            {"smiles": PARACETAMOL, "molecules": 2},
            {"smiles": "O", "molecules": 1},  # twice beside one molecule
            {"smiles": "O=C(O)C(O)C(O)C(=O)O", "molecules": 1},
            {"smiles": "[Na+]", "molecules": 1},
        ],
    }


def test_racemates_are_one_molecule_and_their_centres_counted(tmp_path, dataset, smiles):
    counts = featurize_in_shards(dataset, tmp_path / "tokens")
    kept = pd.read_parquet(tmp_path / "tokens" / "molecules.parquet")["smiles"].tolist()
    expected = [value for value in RACEMATES.values() if value]
    assert [text for text in kept if "F" in text and "Cl" in text and "." not in text][-4:] == [
        text for text, _ in expected
    ]
    assert counts["unmarked_centres"] == {"molecules": 3, "centres": sum(number for _, number in expected)}
    assert counts["duplicates"] == 2 + len(smiles) - len({standardise(text) for text in smiles})


def test_rows_that_are_no_one_structure_or_no_cxsmiles_are_rejected_with_the_reason(tmp_path, dataset):
    counts = featurize_in_shards(dataset, tmp_path / "tokens")
    assert counts["rejected"] == {"not_one_structure": 2, "not_cxsmiles": 2, "too_long": 1}
    rejected = pd.read_parquet(tmp_path / "tokens" / "rejected.parquet")
    reasons = dict(zip(rejected["smiles"], rejected["reason"], strict=True))
    assert {text: reasons[text] for text in REJECTED} == REJECTED
    assert (rejected["detail"].str.len() > 0).all()


@pytest.mark.parametrize(("n_shards", "molecules_per_pass"), [(2, 1), (5, 500_000), (40, 2)])
def test_losses_do_not_depend_on_shards_nor_on_the_number_of_passes(
    tmp_path, dataset, monkeypatch, n_shards, molecules_per_pass
):
    expected = featurize_in_shards(dataset, tmp_path / "whole")
    monkeypatch.setattr(shard_files, "FRAGMENT_PASS_MOLECULES", molecules_per_pass)
    assert featurize_in_shards(dataset, tmp_path / "tokens", n_shards) == expected
    for name in ("molecules.parquet", "rejected.parquet", "tokens.safetensors", "counts.json"):
        assert (tmp_path / "tokens" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_nothing_is_lost_where_all_fragments_are_kept(tmp_path, dataset):
    settings = SETTINGS.model_copy(update={"largest_fragment": False})
    counts = featurize_in_shards(dataset, tmp_path / "tokens", settings=settings)
    assert counts["dropped_fragments"] == {"molecules": 0, "mixtures": 0, "most_frequent": []}
    assert pd.read_parquet(tmp_path / "tokens" / "molecules.parquet")["dropped"].isna().all()


def test_constraints_that_the_user_has_set_hold_after_featurizing(tmp_path, dataset):
    octet_rule = selfies.get_preset_constraints("octet_rule")
    selfies.set_semantic_constraints("octet_rule")
    try:
        featurize_in_shards(dataset, tmp_path / "tokens")
        assert selfies.get_semantic_constraints() == octet_rule
    finally:
        selfies.set_semantic_constraints("default")

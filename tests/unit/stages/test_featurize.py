"""Stage `featurize`: every row is counted, and the result depends on the data and the settings only."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from molvae.chemistry.descriptors import compute_descriptors
from molvae.chemistry.selfies_codec import decode_selfies, encode_smiles
from molvae.chemistry.standardise import parse_smiles, standardise
from molvae.chemistry.tokenization import detokenize
from molvae.config import DataSettings, FeaturizeSettings
from molvae.data import readers, tokenizer
from molvae.data import shards as shard_files
from molvae.data.sharding import Shard
from molvae.data.token_store import TokenStore
from molvae.data.tokenizer import tokenize_smiles
from molvae.data.vocabulary import SPECIAL, UNK, Vocabulary
from molvae.errors import DataError, Rejected
from molvae.runtime.files import read_json
from molvae.stages.featurize import featurize, featurize_shard
from molvae.stages.fetch import fetch

FILES = ("tokens.safetensors", "vocabulary.json", "molecules.parquet", "rejected.parquet")
SETTINGS = FeaturizeSettings(max_tokens=40, valid_fraction=0.2, test_fraction=0.2)
AUGMENTED_SETTINGS = SETTINGS.model_copy(update={"augmentations": 3})
REJECTED_SMILES = {
    "empty": "",
    "not_smiles": "nonsense",
    "unphysical": "C(C)(C)(C)(C)C",
    "wildcard_atom": "C*",
    "not_selfies": "CI(C)C",
    "too_long": "C" * 41,
}


@pytest.fixture(scope="module")
def many_smiles(smiles):
    """Molecules, and many of them with a longer chain: enough for every split."""
    extendable = [text for text in smiles if text[0] in "CN" and text[1] not in "l#" and "[" not in text]
    return [*smiles, *(f"{tail}{text}" for text in extendable for tail in ("C", "CC", "O", "N", "F"))]


@pytest.fixture
def many_dataset(write_dataset, many_smiles):
    """The data set of these molecules, without splits."""
    return write_dataset([(text, "") for text in many_smiles])


def featurize_in_shards(dataset, out, settings=SETTINGS, n_shards=1, workers=1):
    """Featurise a data set in so many shards; returns the counts."""
    shards = [out.parent / f"{out.name}-{number}-of-{n_shards}.parquet" for number in range(1, n_shards + 1)]
    for number, path in enumerate(shards, start=1):
        featurize_shard(dataset, settings, path, shard=Shard(number, n_shards), workers=workers)
    return featurize(shards, settings, out)


def read_splits(out) -> dict[str, str]:
    """The split of each molecule of a token folder, by its SMILES."""
    table = pd.read_parquet(out / "molecules.parquet")
    return dict(zip(table["smiles"], table["split"], strict=True))


def read_vocabulary(out) -> Vocabulary:
    return Vocabulary.from_json(read_json(out / "vocabulary.json"), "")


def decode_all(vocabulary, tokens) -> list[list[str]]:
    """The symbols of each molecule of a token set."""
    return [vocabulary.decode(tokens[k].tolist()) for k in range(len(tokens))]


def assert_same_files(out, expected, names=FILES) -> None:
    for name in names:
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name


# counts, and what the store holds


def test_featurize_counts_close_over_every_kind_of_rejected_row(tmp_path, many_smiles):
    raw = tmp_path / "raw.csv"
    lines = [
        "ID,SMILES",
        *(f"1,{text}" for text in many_smiles),
        *(f"2,{text}" for text in REJECTED_SMILES.values()),
        "3",
        "",
        "4,OCCCC",
        "5,\xff",
    ]
    raw.write_bytes("\n".join(lines).encode("latin-1"))
    fetch(DataSettings(source=str(raw)), tmp_path / "data.parquet")
    counts = featurize_in_shards(tmp_path / "data.parquet", tmp_path / "tokens")
    assert counts["rejected"] == dict.fromkeys(REJECTED_SMILES, 1) | {"empty": 2, "too_few_columns": 1, "not_utf8": 1}
    assert counts["rows_in"] == len(many_smiles) + len(REJECTED_SMILES) + 4
    n_distinct = len({standardise(text) for text in many_smiles})
    assert counts["duplicates"] == len(many_smiles) - n_distinct + 1  # butanol came twice
    assert counts["kept"] == counts["rows_in"] - counts["duplicates"] - sum(counts["rejected"].values())
    assert counts == read_json(tmp_path / "tokens" / "counts.json")

    rejected = pd.read_parquet(tmp_path / "tokens" / "rejected.parquet")
    assert Counter(rejected["reason"]) == counts["rejected"] | {"duplicate": counts["duplicates"]}
    kept = pd.read_parquet(tmp_path / "tokens" / "molecules.parquet")
    assert sorted([*kept["row"], *rejected["row"]]) == list(range(1, counts["rows_in"] + 1))
    details = dict(zip(rejected["reason"], rejected["detail"], strict=True))
    assert details["too_long"] == "41 symbols, featurize.max_tokens is 40"
    assert details["duplicate"] == "an earlier row is the same molecule"
    assert rejected.loc[rejected["reason"] == "not_selfies", "smiles"].tolist() == ["CI(C)C"]


def test_token_store_holds_the_tokens_of_the_molecules_in_their_order(tmp_path, many_dataset):
    counts = featurize_in_shards(many_dataset, tmp_path / "tokens")
    vocabulary = read_vocabulary(tmp_path / "tokens")
    splits = TokenStore.open(tmp_path / "tokens" / "tokens.safetensors").splits
    table = pd.read_parquet(tmp_path / "tokens" / "molecules.parquet")
    assert {name: len(part) for name, part in splits.items()} == counts["splits"] == dict(Counter(table["split"]))
    known = {*vocabulary.symbols}
    for name, part in splits.items():
        symbols = [tokenize_smiles(text) for text in table.loc[table["split"] == name, "smiles"]]
        expected = [[symbol if symbol in known else SPECIAL[UNK] for symbol in string] for string in symbols]
        assert decode_all(vocabulary, part) == expected
    assert counts["vocabulary_size"] == len(vocabulary)
    lengths = np.concatenate([part.lengths for part in splits.values()])
    assert counts["mean_tokens"] == pytest.approx(lengths.mean())
    training_smiles = table.loc[table["split"] == "train", "smiles"]
    assert vocabulary.symbols == tuple(sorted({symbol for text in training_smiles for symbol in tokenize_smiles(text)}))


# shards and workers


@pytest.fixture(scope="module")
def in_one_shard(tmp_path_factory, many_smiles):
    """The folder of a data set of several row groups, featurised in one shard, and the counts."""
    folder = tmp_path_factory.mktemp("whole")
    rows = [*many_smiles, *REJECTED_SMILES.values(), *many_smiles[::3], "[Xe]", "[Kr]"]
    random.Random(0).shuffle(rows)
    (folder / "raw.csv").write_text("SMILES\n" + "\n".join(text or '""' for text in rows) + "\n")
    before, readers.ROW_GROUP = readers.ROW_GROUP, 20
    fetch(DataSettings(source=str(folder / "raw.csv")), folder / "data.parquet")
    counts = featurize_in_shards(folder / "data.parquet", folder / "tokens")
    readers.ROW_GROUP = before
    return folder, counts


@pytest.mark.parametrize(("n_shards", "workers"), [(2, 1), (3, 1), (40, 1), (1, 2)])
def test_featurised_files_do_not_depend_on_the_number_of_shards_nor_of_workers(
    tmp_path, in_one_shard, monkeypatch, n_shards, workers
):
    folder, counts = in_one_shard
    monkeypatch.setattr(readers, "ROW_GROUP", 20)
    dataset = folder / "data.parquet"
    assert featurize_in_shards(dataset, tmp_path / "tokens", n_shards=n_shards, workers=workers) == counts
    assert_same_files(tmp_path / "tokens", folder / "tokens", (*FILES, "counts.json"))


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_featurised_files_do_not_depend_on_the_number_of_passes_over_the_keys(
    tmp_path, in_one_shard, monkeypatch, rows
):
    folder, counts = in_one_shard
    monkeypatch.setattr(readers, "ROW_GROUP", 20)
    monkeypatch.setattr(shard_files, "DUPLICATE_PASS_ROWS", rows)
    assert featurize_in_shards(folder / "data.parquet", tmp_path / "tokens") == counts
    assert_same_files(tmp_path / "tokens", folder / "tokens")


def test_a_shard_file_names_its_symbols_once_and_its_data_set(tmp_path, many_dataset):
    featurize_shard(many_dataset, SETTINGS, tmp_path / "shard.parquet")
    symbols = shard_files.read_symbols(tmp_path / "shard.parquet")
    assert len(symbols) == len(set(symbols)) > 10
    table = pd.read_parquet(tmp_path / "shard.parquet")
    assert tokenize_smiles(table["smiles"][3]) == [symbols[k] for k in table["ids"][3]]
    assert json.loads(shard_files.read_metadata(tmp_path / "shard.parquet", "dataset"))["dataset"] == "data"
    assert table["key"].nunique() == table["smiles"].nunique()


# augmentations


def read_training_symbols(out) -> tuple[Vocabulary, list[list[str]], list[list[str]]]:
    """The vocabulary of a token store, and the symbols of its training molecules and of their augmentations."""
    vocabulary, store = read_vocabulary(out), TokenStore.open(out / "tokens.safetensors")
    return vocabulary, *(decode_all(vocabulary, part) for part in (store.splits["train"], store.augmentations))


@pytest.fixture(scope="module")
def augmented(in_one_shard):
    """The token folder of `in_one_shard` with three augmentations of each training molecule, and the counts."""
    folder, _ = in_one_shard
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "ROW_GROUP", 20)
        counts = featurize_in_shards(folder / "data.parquet", folder / "augmented", AUGMENTED_SETTINGS)
    return folder / "augmented", counts


def test_augmentations_are_randomised_smiles_of_the_training_molecules_in_their_order(augmented):
    out, _ = augmented
    table = pd.read_parquet(out / "molecules.parquet")
    smiles = table.loc[table["split"] == "train", "smiles"].tolist()
    vocabulary, molecules, augmentations = read_training_symbols(out)
    assert len(augmentations) == 3 * len(molecules) == 3 * len(smiles)
    decoded = [decode_selfies(detokenize(symbols), vocabulary.constraints) for symbols in augmentations]
    assert [standardise(text, neutralise=False) for text in decoded] == [text for text in smiles for _ in range(3)]
    differ = [augmentations[3 * k + j] != molecule for k, molecule in enumerate(molecules) for j in range(3)]
    assert np.mean(differ) > 0.5
    distinct = [len({*map(tuple, augmentations[3 * k : 3 * k + 3])}) for k in range(len(molecules))]
    assert np.mean(distinct) > 2


def test_vocabulary_covers_the_augmentations_and_its_merges_are_those_without_them(augmented, in_one_shard):
    out, _ = augmented
    vocabulary, molecules, augmentations = read_training_symbols(out)
    known = {*vocabulary.symbols}
    assert known == {symbol for string in molecules + augmentations for symbol in string}
    assert known > {symbol for string in molecules for symbol in string}  # so that the line above says something

    def expand_merges(vocabulary: Vocabulary) -> list[list[str]]:
        return [vocabulary.decode([left]) + vocabulary.decode([right]) for left, right in vocabulary.merges]

    assert expand_merges(vocabulary) == expand_merges(read_vocabulary(in_one_shard[0] / "tokens")) != []


def test_augmentations_are_not_counted_as_rows(augmented, in_one_shard):
    out, counts = augmented
    folder, plain_counts = in_one_shard
    assert counts["augmentations"] == 3 * counts["splits"]["train"]
    assert 0 <= counts["augmentations_replaced_by_canonical"] < counts["augmentations"] / 10
    same = ("rows_in", "kept", "rejected", "duplicates", "splits")
    assert {name: counts[name] for name in same} == {name: plain_counts[name] for name in same}
    assert_same_files(out, folder / "tokens", ("molecules.parquet", "rejected.parquet"))


@pytest.mark.parametrize(("n_shards", "workers", "rows"), [(3, 1, 16_384), (40, 1, 7), (1, 2, 50)])
def test_augmentations_do_not_depend_on_shards_workers_nor_on_the_rows_in_memory_at_once(
    tmp_path, augmented, in_one_shard, monkeypatch, n_shards, workers, rows
):
    out, counts = augmented
    monkeypatch.setattr(readers, "ROW_GROUP", 20)
    monkeypatch.setattr(shard_files, "BATCH_ROWS", rows)
    dataset = in_one_shard[0] / "data.parquet"
    assert featurize_in_shards(dataset, tmp_path / "tokens", AUGMENTED_SETTINGS, n_shards, workers) == counts
    assert_same_files(tmp_path / "tokens", out, (*FILES, "counts.json"))


def test_augmentations_of_a_molecule_do_not_depend_on_the_rows_around_it(tmp_path, write_dataset, many_smiles):
    by_molecule = []
    for name, rows in (("forward", many_smiles), ("reversed", many_smiles[::-1])):
        featurize_in_shards(write_dataset([(text, "") for text in rows]), tmp_path / name, AUGMENTED_SETTINGS)
        _, molecules, augmentations = read_training_symbols(tmp_path / name)
        by_molecule.append({tuple(string): augmentations[3 * k : 3 * k + 3] for k, string in enumerate(molecules)})
    assert by_molecule[0] == by_molecule[1]


def test_token_store_and_counts_name_no_augmentations_where_none_are_asked_for(in_one_shard):
    folder, counts = in_one_shard
    assert TokenStore.open(folder / "tokens" / "tokens.safetensors").augmentations is None
    assert not any("augmentations" in name for name in counts)


@pytest.mark.parametrize("cause", ["not_selfies", "too_long"])
def test_an_augmentation_that_is_not_usable_is_the_canonical_string_and_counted(
    tmp_path, many_dataset, many_smiles, monkeypatch, cause
):
    def encode_canonical_only(smiles):
        if smiles == standardise(smiles):
            return encode_smiles(smiles)
        if cause == "not_selfies":
            raise Rejected(cause)
        return ["[C]"] * (SETTINGS.max_tokens + 1)

    monkeypatch.setattr(tokenizer, "encode_smiles", encode_canonical_only)
    counts = featurize_in_shards(many_dataset, tmp_path / "tokens", AUGMENTED_SETTINGS)
    _, molecules, augmentations = read_training_symbols(tmp_path / "tokens")
    assert augmentations == [molecule for molecule in molecules for _ in range(3)]
    assert counts["augmentations"] / 2 < counts["augmentations_replaced_by_canonical"] <= counts["augmentations"]
    assert counts["rejected"] == {} and counts["kept"] + counts["duplicates"] == len(many_smiles)


def test_shards_made_for_another_number_of_augmentations_are_refused(tmp_path, many_dataset):
    featurize_shard(many_dataset, SETTINGS, tmp_path / "shard.parquet")
    with pytest.raises(DataError, match="0 augmentations written, [1-9][0-9]* announced"):
        featurize([tmp_path / "shard.parquet"], AUGMENTED_SETTINGS, tmp_path / "tokens")


# duplicates and splits


def test_of_rows_with_the_same_molecule_the_first_is_kept(tmp_path, write_dataset, many_smiles):
    rows = [*many_smiles, "OCC", "C(O)C", "CCO"]
    featurize_in_shards(write_dataset([(text, "") for text in rows]), tmp_path / "tokens")
    kept = pd.read_parquet(tmp_path / "tokens" / "molecules.parquet")
    first_rows: dict[str, int] = {}
    for number, text in enumerate(rows, start=1):
        first_rows.setdefault(standardise(text), number)
    assert dict(zip(kept["smiles"], kept["row"], strict=True)) == first_rows


def test_the_split_of_a_molecule_does_not_depend_on_the_rows_around_it(tmp_path, write_dataset, many_smiles):
    for name, rows in (("all", many_smiles), ("reversed", many_smiles[::-1]), ("half", many_smiles[::2])):
        featurize_in_shards(write_dataset([(text, "") for text in rows]), tmp_path / name)
    whole, half = read_splits(tmp_path / "all"), read_splits(tmp_path / "half")
    assert whole == read_splits(tmp_path / "reversed")
    assert half == {smiles: whole[smiles] for smiles in half}
    counts = Counter(whole.values())
    assert set(counts) == {"train", "valid", "test"}
    for name in ("valid", "test"):  # a fifth each, within four standard deviations of a binomial
        assert abs(counts[name] / len(whole) - 0.2) < 4 * (0.2 * 0.8 / len(whole)) ** 0.5


def test_a_larger_test_fraction_only_adds_molecules_to_the_test_split(tmp_path, many_dataset):
    featurize_in_shards(many_dataset, tmp_path / "few")
    featurize_in_shards(many_dataset, tmp_path / "more", SETTINGS.model_copy(update={"test_fraction": 0.4}))
    few, more = read_splits(tmp_path / "few"), read_splits(tmp_path / "more")
    assert {smiles for smiles in few if few[smiles] == "test"} < {smiles for smiles in more if more[smiles] == "test"}


def test_splits_of_the_data_are_kept_and_validation_molecules_come_from_training_only(
    tmp_path, write_dataset, many_smiles
):
    given_splits = {standardise(text): ("train", "test", "scaffolds")[k % 3] for k, text in enumerate(many_smiles)}
    counts = featurize_in_shards(write_dataset(list(given_splits.items())), tmp_path / "tokens")
    assert set(counts["splits"]) == {"train", "valid", "test", "scaffolds"}
    for smiles, split in read_splits(tmp_path / "tokens").items():
        assert split == given_splits[smiles] or (split, given_splits[smiles]) == ("valid", "train")


def test_a_validation_split_of_the_data_is_the_only_one(tmp_path, write_dataset, many_smiles):
    given_splits = {standardise(text): ("train", "train", "valid")[k % 3] for k, text in enumerate(many_smiles)}
    featurize_in_shards(write_dataset(list(given_splits.items())), tmp_path / "tokens")
    assert read_splits(tmp_path / "tokens") == given_splits


def test_a_molecule_in_two_splits_stays_in_the_split_of_its_first_row(tmp_path, write_dataset, many_smiles):
    rows = [*((text, "train") for text in many_smiles), ("OCCCC", "test"), ("[Kr]", "test")]
    settings = SETTINGS.model_copy(update={"valid_fraction": 0.5})
    counts = featurize_in_shards(write_dataset(rows), tmp_path / "tokens", settings)
    assert read_splits(tmp_path / "tokens")["CCCCO"] in {"train", "valid"}
    assert counts["splits"]["test"] == 1


def test_a_symbol_that_occurs_only_in_the_test_split_is_unknown_and_counted(tmp_path, write_dataset, many_smiles):
    new = [("CCCCCC", "valid"), ("C[Ge]C", "test"), ("C[Ge](C)[As]", "test")]
    counts = featurize_in_shards(write_dataset([*((text, "train") for text in many_smiles), *new]), tmp_path / "tokens")
    assert counts["unknown_symbols"] == {"[Ge]": 2, "[As]": 1, "[CH3]": 4}  # RDKit brackets carbon on metals
    vocabulary = read_json(tmp_path / "tokens" / "vocabulary.json")
    assert not {"[Ge]", "[As]"} & set(vocabulary["symbols"]) and not {"Ge", "As"} & set(vocabulary["constraints"])
    test = TokenStore.open(tmp_path / "tokens" / "tokens.safetensors").splits["test"]
    assert Counter((test.ids == UNK).tolist())[True] == 7
    assert test.ids.min() == UNK == len(SPECIAL) - 1


# settings and errors


def test_featurize_settings_change_which_molecules_are_kept(tmp_path, write_dataset, many_smiles):
    new = [("CC(=O)[O-].[Na+]", "test"), ("C[C@H](O)N", "test")]
    loose = {"largest_fragment": False, "neutralise": False, "stereo": "strip", "max_tokens": 15}
    dataset = write_dataset([*((text, "train") for text in many_smiles), *new])
    counts = featurize_in_shards(dataset, tmp_path / "tokens", SETTINGS.model_copy(update=loose))
    splits = read_splits(tmp_path / "tokens")
    assert splits["CC(=O)[O-].[Na+]"] == splits["CC(N)O"] == "test"
    assert counts["rejected"]["too_long"] > 5
    assert not any("@" in smiles or "/" in smiles for smiles in splits)


def test_data_without_a_training_molecule_is_an_error_with_the_rows_by_reason(tmp_path, write_dataset):
    dataset = write_dataset([("nonsense", ""), ("x", ""), ("", ""), ("C*", "")])
    message = "no molecule is left to train on. Rows by reason: not_smiles: 2, empty: 1, wild"
    with pytest.raises(DataError, match=message):
        featurize_in_shards(dataset, tmp_path / "tokens")
    rejected = pd.read_parquet(tmp_path / "tokens/rejected_rows.parquet")
    assert rejected["row"].tolist() == [1, 2, 3, 4] and rejected["smiles"].tolist() == ["nonsense", "x", "", "C*"]
    assert rejected["reason"].tolist() == ["not_smiles", "not_smiles", "empty", "wildcard_atom"]
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["rejected_rows.parquet"]
    dataset = write_dataset([("C", "test"), ("CC", "test")])
    with pytest.raises(DataError, match="Rows by reason: kept: 2"):
        featurize_in_shards(dataset, tmp_path / "tokens")


def test_a_file_that_was_read_wrongly_is_named_with_the_likely_cause(tmp_path, many_smiles, caplog):
    (tmp_path / "raw.smi").write_text("".join(f"mol{k} {text}\n" for k, text in enumerate(many_smiles)))
    fetch(DataSettings(source=str(tmp_path / "raw.smi")), tmp_path / "set.parquet")
    cause = r"The first row was read as 'mol0' \(not_smiles\)\. Field 2 of the lines holds molecules"
    with pytest.raises(DataError, match=cause):
        featurize_in_shards(tmp_path / "set.parquet", tmp_path / "tokens")
    lines = [*many_smiles[:8], *("x" for _ in range(400))]
    (tmp_path / "raw.smi").write_text("\n".join(lines))
    fetch(DataSettings(source=str(tmp_path / "raw.smi")), tmp_path / "set.parquet")
    featurize_in_shards(
        tmp_path / "set.parquet", tmp_path / "tokens", SETTINGS.model_copy(update={"valid_fraction": 0.5})
    )
    assert "only 8 of 408 rows were not rejected. The first row was read as 'x' (not_smiles)" in caplog.text


def test_data_without_a_validation_molecule_is_an_error_with_the_key_to_raise(tmp_path, write_dataset, many_smiles):
    dataset = write_dataset([(text, "train") for text in many_smiles])
    with pytest.raises(DataError, match=r"molecules to train on, but none held out\. Raise featurize\.valid_fraction"):
        featurize_in_shards(dataset, tmp_path / "tokens", SETTINGS.model_copy(update={"valid_fraction": 0.0}))


def test_a_raw_file_instead_of_a_data_set_is_an_error_that_says_what_is_missing(tmp_path):
    (tmp_path / "raw.csv").write_text("SMILES\nC\n")
    with pytest.raises(DataError, match=r"raw\.json: no such file\. Run the stage that writes it first"):
        featurize_shard(tmp_path / "raw.csv", SETTINGS, tmp_path / "shard.parquet")


# properties


def test_properties_in_the_store_are_those_of_each_molecule_whatever_the_shards(tmp_path, many_smiles, write_dataset):
    names = ["tpsa", "logp", "rings"]
    rows = [(text, "") for text in (*many_smiles, "nonsense", *many_smiles[:5])]  # rejected rows have no values
    dataset = write_dataset(rows)
    settings = SETTINGS.model_copy(update={"properties": names, "augmentations": 2})
    for n_shards in (1, 3):
        featurize_in_shards(dataset, tmp_path / f"of-{n_shards}", settings, n_shards)
    assert_same_files(tmp_path / "of-1", tmp_path / "of-3")
    table = pd.read_parquet(tmp_path / "of-1" / "molecules.parquet")
    assert table.columns.tolist() == ["row", "smiles", "split", "dropped", "is_mixture", *names]
    descriptors = [compute_descriptors(parse_smiles(text)) for text in table["smiles"]]
    expected = np.array([[values[name] for name in names] for values in descriptors], np.float32)
    assert np.array_equal(table[names].to_numpy(np.float32), expected)
    store = TokenStore.open(tmp_path / "of-1" / "tokens.safetensors")
    assert store.properties == names
    for split, part in store.splits.items():
        assert len(part) and np.array_equal(part.properties, expected[table["split"] == split])

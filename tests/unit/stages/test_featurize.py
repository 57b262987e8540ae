"""Stage `featurize`: closed books, and a result that depends on the data and the settings only."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from molvae.chemistry.descriptors import describe
from molvae.chemistry.selfies_codec import decode, encode
from molvae.chemistry.standardise import Rejected, parse, standardise
from molvae.chemistry.tokenization import bracketed, plain
from molvae.config import DataSettings, FeaturizeSettings
from molvae.data import readers
from molvae.data import shards as blockfiles
from molvae.data.sharding import Share
from molvae.data.token_store import read_properties, read_tokens, read_variants
from molvae.data.vocabulary import SPECIAL, UNK, Vocabulary
from molvae.errors import DataError
from molvae.runtime.files import read_json
from molvae.stages import featurize as stage
from molvae.stages.featurize import featurize, featurize_block
from molvae.stages.fetch import fetch

FILES = ("tokens.safetensors", "vocabulary.json", "molecules.parquet", "rejected.parquet")
SETTINGS = FeaturizeSettings(max_tokens=40, valid_fraction=0.2, test_fraction=0.2)
WITH_VARIANTS = SETTINGS.model_copy(update={"variants": 3})
BAD = {
    "empty": "", "not_smiles": "nonsense", "unphysical": "C(C)(C)(C)(C)C", "wildcard_atom": "C*",
    "not_selfies": "CI(C)C", "too_long": "C" * 41,
}  # fmt: skip


@pytest.fixture(scope="module")
def many(smiles):
    """Molecules, each with some variants: enough for every split."""
    tails = ("C", "CC", "O", "N", "F")
    return [
        *smiles,
        *(
            f"{tail}{one}"
            for one in smiles
            if one[0] in "CN" and one[1] not in "l#" and "[" not in one
            for tail in tails
        ),
    ]


def run(dataset, out, settings=SETTINGS, shares=1, workers=1):
    blocks = [out.parent / f"{out.name}-{number}-of-{shares}.parquet" for number in range(1, shares + 1)]
    for number, block in enumerate(blocks, start=1):
        featurize_block(dataset, settings, block, share=Share(number, shares), workers=workers)
    return featurize(blocks, settings, out)


def molecules(out) -> dict[str, str]:
    table = pd.read_parquet(out / "molecules.parquet")
    return dict(zip(table["smiles"], table["split"], strict=True))


def test_the_books_close_over_every_kind_of_bad_row(tmp_path, many):
    raw = tmp_path / "raw.csv"
    lines = [
        "ID,SMILES",
        *(f"1,{one}" for one in many),
        *(f"2,{bad}" for bad in BAD.values()),
        "3",
        "",
        "4,OCCCC",
        "5,\xff",
    ]
    raw.write_bytes("\n".join(lines).encode("latin-1"))
    fetch(DataSettings(source=str(raw)), tmp_path / "data.parquet")
    books = run(tmp_path / "data.parquet", tmp_path / "tokens")
    assert books["rejected"] == dict.fromkeys(BAD, 1) | {"empty": 2, "too_few_columns": 1, "not_utf8": 1}
    assert books["rows_in"] == len(many) + len(BAD) + 4
    assert books["duplicates"] == len(many) - len({standardise(one) for one in many}) + 1  # butanol came twice
    assert books["kept"] == books["rows_in"] - books["duplicates"] - sum(books["rejected"].values())
    assert books == read_json(tmp_path / "tokens" / "books.json")

    rejected = pd.read_parquet(tmp_path / "tokens" / "rejected.parquet")
    assert Counter(rejected["reason"]) == books["rejected"] | {"duplicate": books["duplicates"]}
    kept = pd.read_parquet(tmp_path / "tokens" / "molecules.parquet")
    assert sorted([*kept["row"], *rejected["row"]]) == list(range(1, books["rows_in"] + 1))
    details = dict(zip(rejected["reason"], rejected["detail"], strict=True))
    assert details["too_long"] == "41 symbols, featurize.max_tokens is 40"
    assert details["duplicate"] == "an earlier row is the same molecule"
    assert rejected.loc[rejected["reason"] == "not_selfies", "smiles"].tolist() == ["CI(C)C"]


def test_the_store_holds_the_tokens_of_the_molecules_in_their_order(tmp_path, lay_down, many):
    books = run(lay_down([(one, "") for one in many]), tmp_path / "tokens")
    vocabulary = Vocabulary.from_json(read_json(tmp_path / "tokens" / "vocabulary.json"), "")
    splits = read_tokens(tmp_path / "tokens" / "tokens.safetensors")
    table = pd.read_parquet(tmp_path / "tokens" / "molecules.parquet")
    assert {name: len(part) for name, part in splits.items()} == books["splits"] == dict(Counter(table["split"]))
    for name, part in splits.items():
        written = [vocabulary.text(part[k].tolist()) for k in range(len(part))]
        known = {*vocabulary.symbols}
        smiles = table.loc[table["split"] == name, "smiles"]
        assert written == [[s if s in known else SPECIAL[UNK] for s in bracketed(encode(one))] for one in smiles]
    assert books["vocabulary_size"] == len(vocabulary)
    lengths = np.concatenate([part.lengths for part in splits.values()])
    assert books["mean_tokens"] == pytest.approx(lengths.mean())
    training = {symbol for one in table.loc[table["split"] == "train", "smiles"] for symbol in bracketed(encode(one))}
    assert vocabulary.symbols == tuple(sorted(training))


@pytest.fixture(scope="module")
def in_one_piece(tmp_path_factory, many):
    """A data set of several row groups, and what `featurize` makes of it in one share."""
    folder = tmp_path_factory.mktemp("whole")
    rows = [*many, *BAD.values(), *many[::3], "[Xe]", "[Kr]"]
    random.Random(0).shuffle(rows)
    (folder / "raw.csv").write_text("SMILES\n" + "\n".join(one or '""' for one in rows) + "\n")
    before, readers.ROW_GROUP = readers.ROW_GROUP, 20
    fetch(DataSettings(source=str(folder / "raw.csv")), folder / "data.parquet")
    books = run(folder / "data.parquet", folder / "tokens")
    readers.ROW_GROUP = before
    return folder, books


@pytest.mark.parametrize(("shares", "workers"), [(2, 1), (3, 1), (40, 1), (1, 2)])
def test_the_result_does_not_depend_on_the_number_of_shares_nor_of_workers(
    tmp_path, in_one_piece, monkeypatch, shares, workers
):
    folder, books = in_one_piece
    monkeypatch.setattr(readers, "ROW_GROUP", 20)
    assert run(folder / "data.parquet", tmp_path / "tokens", shares=shares, workers=workers) == books
    for name in (*FILES, "books.json"):
        assert (tmp_path / "tokens" / name).read_bytes() == (folder / "tokens" / name).read_bytes(), name


def read_all(out) -> tuple[Vocabulary, list[list[str]], list[list[str]]]:
    """The vocabulary of a token store, and the symbols of its training molecules and of their variants."""
    vocabulary = Vocabulary.from_json(read_json(out / "vocabulary.json"), "")
    sets = read_tokens(out / "tokens.safetensors")["train"], read_variants(out / "tokens.safetensors")
    return vocabulary, *([vocabulary.text(part[k].tolist()) for k in range(len(part))] for part in sets)


@pytest.fixture(scope="module")
def with_variants(in_one_piece):
    """The data set of `in_one_piece` with three variants of each training molecule."""
    folder, _ = in_one_piece
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "ROW_GROUP", 20)
        return folder / "with", run(folder / "data.parquet", folder / "with", WITH_VARIANTS)


def test_variants_are_other_spellings_of_the_training_molecules_in_their_order(with_variants):
    out, _ = with_variants
    table = pd.read_parquet(out / "molecules.parquet")
    smiles = table.loc[table["split"] == "train", "smiles"].tolist()
    vocabulary, molecules, variants = read_all(out)
    assert len(variants) == 3 * len(molecules) == 3 * len(smiles)
    back = [standardise(decode(plain(symbols), vocabulary.caps), neutralise=False) for symbols in variants]
    assert back == [one for one in smiles for _ in range(3)]
    differ = [variants[3 * k + j] != molecule for k, molecule in enumerate(molecules) for j in range(3)]
    assert np.mean(differ) > 0.5
    distinct = [len({*map(tuple, variants[3 * k : 3 * k + 3])}) for k in range(len(molecules))]
    assert np.mean(distinct) > 2


def test_the_vocabulary_covers_the_variants_and_the_merges_are_those_without_them(with_variants, in_one_piece):
    out, _ = with_variants
    vocabulary, molecules, variants = read_all(out)
    known = {*vocabulary.symbols}
    assert known == {symbol for string in molecules + variants for symbol in string}
    assert known > {symbol for string in molecules for symbol in string}  # so that the line above says something
    without = Vocabulary.from_json(read_json(in_one_piece[0] / "tokens" / "vocabulary.json"), "")
    spelt = [[each.text([one]) + each.text([other]) for one, other in each.merges] for each in (vocabulary, without)]
    assert spelt[0] == spelt[1] != []


def test_variants_are_no_rows(with_variants, in_one_piece):
    out, books = with_variants
    folder, before = in_one_piece
    assert books["variants"] == 3 * books["splits"]["train"]
    assert 0 <= books["variants_replaced_by_canonical"] < books["variants"] / 10
    same = ("rows_in", "kept", "rejected", "duplicates", "splits")
    assert {name: books[name] for name in same} == {name: before[name] for name in same}
    for name in ("molecules.parquet", "rejected.parquet"):
        assert (out / name).read_bytes() == (folder / "tokens" / name).read_bytes()


@pytest.mark.parametrize(("shares", "workers", "rows"), [(3, 1, 16_384), (40, 1, 7), (1, 2, 50)])
def test_variants_do_not_depend_on_shares_workers_nor_on_the_rows_in_memory_at_once(
    tmp_path, with_variants, in_one_piece, monkeypatch, shares, workers, rows
):
    out, books = with_variants
    monkeypatch.setattr(readers, "ROW_GROUP", 20)
    monkeypatch.setattr(blockfiles, "BATCH_ROWS", rows)
    dataset = in_one_piece[0] / "data.parquet"
    assert run(dataset, tmp_path / "tokens", WITH_VARIANTS, shares, workers) == books
    for name in (*FILES, "books.json"):
        assert (tmp_path / "tokens" / name).read_bytes() == (out / name).read_bytes(), name


def test_variants_do_not_depend_on_the_rows_around_them(tmp_path, lay_down, many):
    spellings = []
    for name, rows in (("one", many), ("reversed", many[::-1])):
        run(lay_down([(one, "") for one in rows]), tmp_path / name, WITH_VARIANTS)
        _, found, variants = read_all(tmp_path / name)
        spellings.append({tuple(one): variants[3 * k : 3 * k + 3] for k, one in enumerate(found)})
    assert spellings[0] == spellings[1]


def test_without_variants_the_store_holds_none_and_the_books_do_not_speak_of_them(in_one_piece):
    folder, books = in_one_piece
    assert read_variants(folder / "tokens" / "tokens.safetensors") is None
    assert not any("variants" in name for name in books)


@pytest.mark.parametrize("cause", ["not_selfies", "too_long"])
def test_a_variant_that_will_not_do_is_the_canonical_string_and_counted(tmp_path, lay_down, many, monkeypatch, cause):
    def encode_canonical_only(smiles):
        if smiles == standardise(smiles):
            return encode(smiles)
        if cause == "not_selfies":
            raise Rejected(cause)
        return ["[C]"] * (SETTINGS.max_tokens + 1)

    monkeypatch.setattr(stage, "encode", encode_canonical_only)
    books = run(lay_down([(one, "") for one in many]), tmp_path / "tokens", WITH_VARIANTS)
    _, molecules, variants = read_all(tmp_path / "tokens")
    assert variants == [molecule for molecule in molecules for _ in range(3)]
    assert books["variants"] / 2 < books["variants_replaced_by_canonical"] <= books["variants"]
    assert books["rejected"] == {} and books["kept"] + books["duplicates"] == len(many)


def test_blocks_made_for_another_number_of_variants_are_refused(tmp_path, lay_down, many):
    featurize_block(lay_down([(one, "") for one in many]), SETTINGS, tmp_path / "block.parquet")
    with pytest.raises(DataError, match="0 variants written, [1-9][0-9]* announced"):
        featurize([tmp_path / "block.parquet"], WITH_VARIANTS, tmp_path / "tokens")


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_the_result_does_not_depend_on_the_passes_over_the_keys(tmp_path, in_one_piece, monkeypatch, rows):
    folder, books = in_one_piece
    monkeypatch.setattr(readers, "ROW_GROUP", 20)
    monkeypatch.setattr(blockfiles, "DUPLICATE_PASS_ROWS", rows)
    assert run(folder / "data.parquet", tmp_path / "tokens") == books
    for name in FILES:
        assert (tmp_path / "tokens" / name).read_bytes() == (folder / "tokens" / name).read_bytes(), name


def test_of_rows_with_the_same_molecule_the_first_is_kept(tmp_path, lay_down, many):
    rows = [*many, "OCC", "C(O)C", "CCO"]
    run(lay_down([(one, "") for one in rows]), tmp_path / "tokens")
    kept = pd.read_parquet(tmp_path / "tokens" / "molecules.parquet")
    first: dict[str, int] = {}
    for number, one in enumerate(rows, start=1):
        first.setdefault(standardise(one), number)
    assert dict(zip(kept["smiles"], kept["row"], strict=True)) == first


def test_the_split_of_a_molecule_is_its_own_whatever_stands_beside_it(tmp_path, lay_down, many):
    run(lay_down([(one, "") for one in many]), tmp_path / "one")
    run(lay_down([(one, "") for one in many[::-1]]), tmp_path / "reversed")
    run(lay_down([(one, "") for one in many[::2]]), tmp_path / "half")
    whole, half = molecules(tmp_path / "one"), molecules(tmp_path / "half")
    assert whole == molecules(tmp_path / "reversed")
    assert half == {one: whole[one] for one in half}
    counts = Counter(whole.values())
    assert set(counts) == {"train", "valid", "test"}
    for name in ("valid", "test"):  # a fifth each, within four standard deviations of a binomial
        assert abs(counts[name] / len(whole) - 0.2) < 4 * (0.2 * 0.8 / len(whole)) ** 0.5


def test_a_larger_fraction_only_adds_molecules_to_a_split(tmp_path, lay_down, many):
    dataset = lay_down([(one, "") for one in many])
    run(dataset, tmp_path / "few")
    run(dataset, tmp_path / "more", SETTINGS.model_copy(update={"test_fraction": 0.4}))
    few, more = molecules(tmp_path / "few"), molecules(tmp_path / "more")
    assert {one for one in few if few[one] == "test"} < {one for one in more if more[one] == "test"}


def test_splits_that_the_data_give_are_kept_and_held_out_molecules_come_from_training_only(tmp_path, lay_down, many):
    given = {standardise(one): ("train", "test", "scaffolds")[k % 3] for k, one in enumerate(many)}
    books = run(lay_down(list(given.items())), tmp_path / "tokens")
    found = molecules(tmp_path / "tokens")
    assert set(books["splits"]) == {"train", "valid", "test", "scaffolds"}
    for one, split in found.items():
        assert split == given[one] or (split, given[one]) == ("valid", "train")


def test_held_out_molecules_that_the_data_give_are_the_only_ones(tmp_path, lay_down, many):
    given = {standardise(one): ("train", "train", "valid")[k % 3] for k, one in enumerate(many)}
    run(lay_down(list(given.items())), tmp_path / "tokens")
    assert molecules(tmp_path / "tokens") == given


def test_a_molecule_in_two_splits_stays_in_that_of_its_first_row(tmp_path, lay_down, many):
    rows = [(one, "train") for one in many] + [("OCCCC", "test"), ("[Kr]", "test")]
    books = run(lay_down(rows), tmp_path / "tokens", SETTINGS.model_copy(update={"valid_fraction": 0.5}))
    assert molecules(tmp_path / "tokens")["CCCCO"] in {"train", "valid"}
    assert books["splits"]["test"] == 1


def test_a_symbol_only_in_the_test_set_is_unknown_and_counted(tmp_path, lay_down, many):
    rows = [*((one, "train") for one in many), ("CCCCCC", "valid"), ("C[Ge]C", "test"), ("C[Ge](C)[As]", "test")]
    books = run(lay_down(rows), tmp_path / "tokens")
    assert books["unknown_symbols"] == {"[Ge]": 2, "[As]": 1, "[CH3]": 4}  # RDKit brackets carbon on metals
    vocabulary = read_json(tmp_path / "tokens" / "vocabulary.json")
    assert not {"[Ge]", "[As]"} & set(vocabulary["symbols"]) and not {"Ge", "As"} & set(vocabulary["caps"])
    test = read_tokens(tmp_path / "tokens" / "tokens.safetensors")["test"]
    assert Counter((test.ids == UNK).tolist())[True] == 7
    assert test.ids.min() == UNK == len(SPECIAL) - 1


def test_settings_change_what_is_kept(tmp_path, lay_down, many):
    dataset = lay_down([*((one, "train") for one in many), ("CC(=O)[O-].[Na+]", "test"), ("C[C@H](O)N", "test")])
    loose = {"largest_fragment": False, "neutralise": False, "stereo": "strip", "max_tokens": 15}
    books = run(dataset, tmp_path / "tokens", SETTINGS.model_copy(update=loose))
    found = molecules(tmp_path / "tokens")
    assert found["CC(=O)[O-].[Na+]"] == found["CC(N)O"] == "test"
    assert books["rejected"]["too_long"] > 5
    assert not any("@" in one or "/" in one for one in found)


def test_nothing_left_to_train_on_is_an_error_with_the_rows_by_reason(tmp_path, lay_down):
    dataset = lay_down([("nonsense", ""), ("x", ""), ("", ""), ("C*", "")])
    with pytest.raises(
        DataError, match="no molecule is left to train on. Rows by reason: not_smiles: 2, empty: 1, wild"
    ):
        run(dataset, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
    dataset = lay_down([("C", "test"), ("CC", "test")])
    with pytest.raises(DataError, match="Rows by reason: kept: 2"):
        run(dataset, tmp_path / "tokens")


def test_nothing_held_out_is_an_error_with_the_key_to_raise(tmp_path, lay_down, many):
    dataset = lay_down([(one, "train") for one in many])
    with pytest.raises(DataError, match=r"molecules to train on, but none held out\. Raise featurize\.valid_fraction"):
        run(dataset, tmp_path / "tokens", SETTINGS.model_copy(update={"valid_fraction": 0.0}))


def test_a_raw_file_instead_of_a_data_set_is_an_error_that_says_what_is_missing(tmp_path):
    (tmp_path / "raw.csv").write_text("SMILES\nC\n")
    with pytest.raises(DataError, match=r"raw\.json: no such file\. Run the stage that writes it first"):
        featurize_block(tmp_path / "raw.csv", SETTINGS, tmp_path / "block.parquet")


def test_a_block_names_its_symbols_once_and_its_data_set(tmp_path, lay_down, many):
    featurize_block(lay_down([(one, "") for one in many]), SETTINGS, tmp_path / "block.parquet")
    symbols = blockfiles.symbols_in(tmp_path / "block.parquet")
    assert len(symbols) == len(set(symbols)) > 10
    table = pd.read_parquet(tmp_path / "block.parquet")
    assert bracketed(encode(table["smiles"][3])) == [symbols[k] for k in table["ids"][3]]
    assert json.loads(blockfiles.metadata(tmp_path / "block.parquet", "dataset"))["dataset"] == "data"
    assert table["key"].nunique() == table["smiles"].nunique()


def test_properties_are_those_of_each_molecule_whatever_the_shares(tmp_path, in_one_piece, many, lay_down):
    names = ["tpsa", "logp", "rings"]
    rows = [(one, "") for one in (*many, "nonsense", *many[:5])]  # what goes takes no values along
    dataset = lay_down(rows)
    settings = SETTINGS.model_copy(update={"properties": names, "variants": 2})
    for shares in (1, 3):
        run(dataset, tmp_path / f"of-{shares}", settings, shares)
    assert [(tmp_path / "of-1" / name).read_bytes() for name in FILES] == [
        (tmp_path / "of-3" / name).read_bytes() for name in FILES
    ]
    table = pd.read_parquet(tmp_path / "of-1" / "molecules.parquet")
    assert table.columns.tolist() == ["row", "smiles", "split", *names]
    expected = np.array([[describe(parse(one))[name] for name in names] for one in table["smiles"]], np.float32)
    assert np.array_equal(table[names].to_numpy(np.float32), expected)
    store = tmp_path / "of-1" / "tokens.safetensors"
    assert read_properties(store) == names
    for split, part in read_tokens(store).items():
        assert len(part) and np.array_equal(part.values, expected[table["split"] == split])

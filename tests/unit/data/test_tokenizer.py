"""The tokenizer: from SMILES to tokens, and from token ids to SELFIES."""

from __future__ import annotations

import pytest

from molvae.chemistry.selfies_codec import decode_selfies
from molvae.chemistry.standardise import standardise
from molvae.data.tokenizer import ids_to_selfies, tokenize_molecule, tokenize_smiles
from molvae.data.vocabulary import EOS, PAD
from molvae.errors import Rejected


def test_smiles_are_tokenized_in_their_atom_order():
    assert tokenize_smiles("OC1(C)CC1") == ["[O]", "[C]", "<1", "(", "[C]", ")", "[C]", "[C]", "1>"]
    assert tokenize_smiles("CO") == ["[C]", "[O]"] and tokenize_smiles("OC") == ["[O]", "[C]"]


def test_smiles_that_selfies_cannot_write_have_no_tokens():
    with pytest.raises(Rejected, match="not_selfies"):
        tokenize_smiles("C$C")


def test_token_ids_of_a_molecule_are_converted_to_its_selfies_up_to_the_first_eos(smiles, strings, vocabulary):
    for text, string in zip(smiles, strings, strict=True):
        ids = vocabulary.encode(tokenize_smiles(standardise(text)))
        assert ids_to_selfies(vocabulary, [*ids, EOS, *ids, PAD]) == string
        assert standardise(decode_selfies(string, vocabulary.constraints)) == standardise(text)


def test_a_molecule_that_selfies_writes_as_another_is_rejected_and_all_usual_ones_are_written(smiles):
    for text in smiles:
        assert tokenize_molecule(standardise(text)) == tokenize_smiles(standardise(text))
    with pytest.raises(Rejected, match=r"not_selfies: SELFIES writes C=C\(C\)CC\(=O\)O in its place"):
        tokenize_molecule(standardise("C:C(C)CC(=O)O"))
    with pytest.raises(Rejected, match="not_selfies: SELFIES writes "):
        tokenize_molecule("N#CC1=C2Nc3ccccc3N2c2c(sc3ccccc23)P(=O)=C1")

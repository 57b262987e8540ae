"""The errors of the package, and the suggestions in their messages."""

from __future__ import annotations

import molvae
from molvae.errors import Interrupted, Rejected, suggest_nearest


def test_suggestion_names_the_nearest_known_word_or_lists_all_of_them():
    assert suggest_nearest("epoch", ["batch_size", "epochs"]) == " Did you mean 'epochs'?"
    assert suggest_nearest("zzz", ["a", "b"]) == " Known: a, b."


def test_errors_that_a_user_can_mend_share_a_base_class():
    for name in ("ConfigError", "DataError", "ModelFileError", "TrainingError"):
        assert issubclass(getattr(molvae, name), molvae.MolvaeError)
    assert issubclass(Interrupted, molvae.MolvaeError)
    assert issubclass(molvae.MolvaeError, ValueError)


def test_rejection_of_a_row_keeps_reason_and_detail_and_is_no_error_of_a_user():
    rejection = Rejected("not_smiles", "RDKit cannot parse it")
    assert (rejection.reason, rejection.detail) == ("not_smiles", "RDKit cannot parse it")
    assert str(rejection) == "not_smiles: RDKit cannot parse it"
    assert not isinstance(rejection, molvae.MolvaeError)

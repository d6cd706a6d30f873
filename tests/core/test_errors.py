"""What a caller may rely on in the errors of the core."""

from __future__ import annotations

import pickle

from chords_core import InvalidInput


def test_a_renamed_error_tells_the_same_problem_under_the_other_name() -> None:
    error = InvalidInput("lr", "must be positive: it is -1")
    renamed = error.renamed("learning rate")
    assert (renamed.name, renamed.problem) == ("learning rate", error.problem)
    assert str(renamed) == "learning rate: must be positive: it is -1"


def test_it_survives_pickling() -> None:
    """Hosts may pass errors between processes."""
    error = pickle.loads(pickle.dumps(InvalidInput("x", "must be a tensor")))
    assert (str(error), error.name) == ("x: must be a tensor", "x")

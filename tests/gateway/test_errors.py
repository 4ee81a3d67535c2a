"""The error tree and how it meets HTTP."""

import inspect

from gateway import errors
from gateway.middleware import ERROR_STATUS


def leaves() -> set[type]:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    return {kind for kind in kinds if not kind.__subclasses__()}


def test_every_error_of_a_request_has_its_status():
    """A new error cannot be forgotten: it would be a KeyError, and so a 500."""
    assert set(ERROR_STATUS) == leaves() - {errors.SettingsError}


def test_the_clients_faults_are_4xx_and_ours_5xx():
    """By whose fault it is."""
    for kind, problem in ERROR_STATUS.items():
        assert problem.status // 100 == (4 if issubclass(kind, errors.RequestError) else 5)


def test_the_picture_of_the_tree_is_the_tree():
    """The module's docstring names every error."""
    assert errors.__doc__ is not None
    for name, _ in inspect.getmembers(errors, inspect.isclass):
        assert name in errors.__doc__

import shutil

import pytest

from tests.hands.copies import clear


@pytest.fixture
def copies(made_sets, tmp_path):
    """A function that gives a copy of a made dataset, to be changed."""
    clear()

    def copy(name):
        return shutil.copytree(made_sets[name], tmp_path / name)

    yield copy
    clear()

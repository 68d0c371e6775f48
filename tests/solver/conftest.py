import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """In all of this folder, where the tables are small."""

import pytest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a drawn data set, converted and registered."""
    from tests.training import runs  # here: tests that need no PyTorch do not wait for it

    return runs.draw(tmp_path_factory.mktemp("data"))

"""What several files of whole runs share."""

import pytest
import tiny


@pytest.fixture(scope="module")
def shallow():
    """Networks of one block a stage, for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.shallow(patch)
        yield

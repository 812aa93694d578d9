"""What several files of whole runs share."""

import pytest
import tiny

from cil_func.runs import report_files


@pytest.fixture(scope="module")
def shallow():
    """Networks of one block a stage, for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.shallow(patch)
        yield


@pytest.fixture(scope="module")
def undrawn():
    """No report at the end of a run, whose figures take longer than a small run, for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_files, "write_report", lambda directory, warn: [])
        yield

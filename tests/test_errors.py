"""What a person is told when something fails."""

from cil_func.errors import DataError, StoppedError


def test_a_message_is_one_printable_line_whatever_is_in_it():
    assert str(DataError("a\nb\x1b\x85 \udcff\u2028é猫")) == "a\\nb\\x1b\\x85 \\udcff\\u2028é猫"


def test_a_stop_carries_its_own_exit_status():
    assert (DataError("x").exit_status, StoppedError(143, "y").exit_status) == (3, 143)
    assert not isinstance(StoppedError(143, "y"), Exception)  # nobody takes it for a broken image

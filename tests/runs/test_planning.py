"""What the plan and a run's first lines warn of: digits, set up and not trained."""

import pytest

from cil_func import config
from cil_func.data import sources
from cil_func.errors import DataError
from cil_func.runs import planning, setup


def build(*overrides):
    return setup.build(config.load("digits", ["run.device=cpu", *overrides]))


def test_a_sound_run_has_no_warning_and_the_plan_names_the_classes():
    ready = build("data.class_order=[3,1,4,0,5,9,2,6,8,7]", "data.increment=4")
    assert planning.warnings(ready) == []
    lines = planning.describe(ready).splitlines()
    assert lines[2].endswith("classes") and lines[3].endswith("  3 (3), 1 (1), 4 (4) and 1 more")
    assert not any(line.startswith("warning") for line in lines)


@pytest.mark.parametrize("method", ["wa", "finetune"])
def test_a_single_class_in_phase_0_is_warned_of(method):
    """Softmax over one class is 1: no loss there, nor any distillation from it."""
    ready = build("data.initial_increment=1", "data.increment=3", f"method.name={method}")
    [warning] = planning.warnings(ready)
    name = str(ready.experiment.scenario.class_order[0])
    assert warning.startswith(f"phase 0 brings a single class, '{name}': its loss is 0")
    assert warning.endswith("set data.initial_increment to 2 or more")
    assert ("in phase 1 distillation from one class says nothing either" in warning) is (method == "wa")
    assert f"warning: {warning}" in planning.describe(ready).splitlines()


def test_a_convex_weight_of_1_that_leaves_new_classes_unlearned_is_warned_of():
    [warning] = planning.warnings(build("method.kd_weight=1.0"))
    assert "classes of later phases are never learned; set a weight below 1" in warning
    for fine in ("method.kd_weight=0.9", "method.kd_combination=sum", "method.name=replay", "data.increment=10"):
        assert planning.warnings(build("method.kd_weight=1.0", fine)) == []


def test_lwf_with_a_single_class_in_a_later_phase_is_refused_before_training():
    for increment in (1, 3):  # one class in each phase; one in the last
        with pytest.raises(DataError, match=r"^data\.increment: phase . brings a single class.*never learned"):
            build("method.name=lwf", f"data.increment={increment}")
    assert planning.warnings(build("method.name=lwf", "data.increment=3", "method.lwf_classes=seen")) == []


def test_folders_named_by_numbers_in_another_order_are_warned_of(monkeypatch):
    """Alphabetically "10" comes before "2": an index is not the name, whatever order is asked for."""
    digits = sources.load("digits")
    names = ("0", "1", "10", "2", "3", "4", "5", "6", "7", "8")
    monkeypatch.setattr(sources, "load", lambda *_, **__: digits._replace(class_names=names))
    for order in ("canonical", "sorted"):
        [warning] = planning.warnings(build(f"data.class_order={order}"))
        assert "index 2 is class '10'" in warning and "list the names in data.class_order" in warning
    listed = ", ".join(f'"{name}"' for name in sorted(names, key=int))
    assert planning.warnings(ready := build(f"data.class_order=[{listed}]")) == []
    assert ready.experiment.scenario.class_order == (0, 1, 3, 4, 5, 6, 7, 8, 9, 2)
    with pytest.raises(DataError, match=r"data\.class_order holds 2, which is the index of class '10'"):
        build("data.class_order=[0,1,2,3,4,5,6,7,8,9]")

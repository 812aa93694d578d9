"""What the plan and a run's first lines warn of: digits, set up and not trained."""

from dataclasses import replace

import pytest
import torch

from cil_func import config, methods
from cil_func.data import sources
from cil_func.errors import ConfigError, DataError
from cil_func.runs import counting, planning, setup
from cil_func.training import rows


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
    convex = ("method.kd_combination=convex", "method.kd_weight=1.0")
    [warning] = planning.warnings(build(*convex))
    assert "classes of later phases are never learned; set a weight below 1" in warning
    for fine in ("method.kd_weight=0.9", "method.kd_combination=sum", "method.name=replay", "data.increment=10"):
        assert planning.warnings(build(*convex, fine)) == []


def test_lwf_with_a_single_class_in_a_later_phase_is_refused_before_training():
    for increment in (1, 3):  # one class in each phase; one in the last
        with pytest.raises(DataError, match=r"^data\.increment: phase . brings a single class.*never learned"):
            build("method.name=lwf", f"data.increment={increment}")
    assert planning.warnings(build("method.name=lwf", "data.increment=3", "method.lwf_classes=seen")) == []


def test_phases_that_are_not_trained_are_not_checked():
    build("method.name=ewc", "data.increment=3", "data.phases=2")  # the last one would bring a single class
    build("data.phases=2", "data.increment=2", "memory.size=5")  # four classes are seen
    with pytest.raises(DataError, match="once 6 classes are seen"):
        build("data.phases=3", "data.increment=2", "memory.size=5")
    with pytest.raises(DataError, match=r"^data\.phases: 9, and there are 5; give at most that, or 0 for all"):
        build("data.phases=9", "data.increment=2")


@pytest.mark.parametrize(
    ("method", "way_out"),
    [("ewc", ""), ("mas", ""), ("si", ""), ("rwalk", ""), ("gem", ', or set method.options.columns = "seen"'),
     ("lwf", ', or set method.lwf_classes = "seen"')],
)  # fmt: skip
def test_the_way_out_of_a_single_class_is_one_that_the_method_has(method, way_out):
    fault = methods.make(method, methods.Options()).fault_of([2, 1])
    assert fault.endswith(f"brings 2 or more classes in each phase{way_out}")


def test_the_plan_of_a_network_that_grows_counts_its_parameters_by_phase():
    """A backbone of 269,072 parameters more each phase; rows of 2 classes and their biases; the auxiliary head."""
    made = build("method.name=der", "run.compile=true")
    shared = 11 * 64 + 11  # one output for each of 10 classes, one for all old ones
    wide = 5 * 64  # features of all backbones that the run will have
    counts = [(phase + 1) * 269_072 + 2 * (phase + 1) * (wide + 1) + shared for phase in range(5)]
    text = planning.describe(made)
    for line, count in zip(text.splitlines()[3:8], counts, strict=True):
        assert f" {count:,} " in line
    assert "graphs to compile: 2, whatever the number of phases" in text


def test_the_plan_has_a_line_for_each_stage_and_warns_of_one_without_images():
    """100 exemplars: ceil(0.1 x 50) = 5 of each of 2 old classes are held out, and 5 of each of 2 new ones."""
    lines = planning.describe(build("method.name=bic", "memory.size=100")).splitlines()
    stages = [line.split() for line in lines if "stage 'bias'" in line]
    assert [words[0] for words in stages] == [str(4 * 5), str(4 * 3 + 2 * 3), str(6 * 2 + 2 * 2), str(8 * 2 + 2 * 2)]
    said = planning.warnings(build("method.name=bic", "memory.size=10"))
    assert said == ["stage 'bias' of bic has no images in phase 3, and is left out there; raise memory.size"]
    said = planning.warnings(build("method.name=bic", "memory.size=100", "optim.balance.epochs=1"))
    assert len(said) == 1 and "[optim.balance] has no effect" in said[0]


def test_the_plan_of_a_network_with_a_last_stage_more_in_each_phase_counts_it():
    """Of a ResNet-20 the last stage has 5 convolutions 64 -> 64, one 32 -> 64, and 6 norms: 203,520 parameters."""
    made = build("method.name=memo", "run.compile=true")
    stage, shared, wide = 5 * 64 * 64 * 9 + 32 * 64 * 9 + 6 * 2 * 64, 11 * 64 + 11, 5 * 64
    assert stage == 203_520
    text = planning.describe(made)
    for phase, line in enumerate(text.splitlines()[3:8]):
        assert f" {269_072 + phase * stage + 2 * (phase + 1) * (wide + 1) + shared:,} " in line
    assert "graphs to compile: 10, as many in each phase" in text
    with pytest.raises(ConfigError, match="timm:test_vit has no last stage that memo could add to it in each phase"):
        build("method.name=memo", "model.backbone=timm:test_vit", "data.image_size=16")


@pytest.mark.parametrize(("method", "share"), [("bic", 0.1), ("bic", 0.28), ("podnet", None), ("eeil", None)])
def test_the_plan_counts_what_a_stage_trains_on(method, share):
    """Also where share * kept is a whole number but for rounding: 0.28 * 25 is 7."""
    options = [f"method.options.share={share}"] if share else []
    made = build(f"method.name={method}", "memory.fixed_per_class=25", *options).experiment
    labels = made.scenario.train_labels
    first = {label: torch.nonzero(labels == label).flatten()[:25] for label in range(10)}
    for phase in made.scenario.phases[1:]:
        seen = made.sizes(phase)
        old, new = range(sum(seen[:-1])), range(sum(seen[:-1]), sum(seen))
        exemplars, chosen = ({label: first[label] for label in group} for group in (old, new))
        for stage in made.method.stages_of(phase.index):
            found = rows.of_stage(stage, made.method, made.scenario, phase, exemplars, key=3, chosen=chosen)
            assert counting.stage_images(made, stage, phase.index) == len(found) > 0


def test_the_plan_counts_no_image_of_an_old_class_that_has_none():
    made = build("method.name=bic", "memory.fixed_per_class=25", "method.options.share=0.3").experiment
    labels, (first, *later) = made.scenario.train_labels, made.scenario.phases
    first = replace(first, train_rows=first.train_rows[labels[first.train_rows] != 0])
    made = replace(made, scenario=replace(made.scenario, phases=(first, *later)))
    exemplars = {label: torch.nonzero((labels == label) & (labels > 0)).flatten()[:25] for label in range(2)}
    for stage in made.method.stages_of(1):
        found = rows.of_stage(stage, made.method, made.scenario, later[0], exemplars, key=3)
        assert counting.stage_images(made, stage, 1) == len(found) > 0


@pytest.mark.parametrize("method", ["podnet", "lucir", "lwm", "coil"])
def test_a_method_that_needs_feature_maps_is_refused_a_backbone_without_them(method):
    with pytest.raises(ConfigError, match=f"timm:test_vit shows no feature maps, which {method} needs"):
        build(f"method.name={method}", "model.backbone=timm:test_vit", "data.image_size=16")


def test_the_weight_of_a_distillation_that_a_method_has_not_is_not_warned_of():
    weights = ("method.kd_weight=1", 'method.kd_combination="convex"')
    assert len(planning.warnings(build(*weights))) == 1
    assert planning.warnings(build("method.name=podnet", *weights)) == []


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

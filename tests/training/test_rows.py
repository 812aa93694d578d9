"""Which images a stage trains on, by brute force over small sets of rows."""

from collections import Counter

import pytest
import torch

from cil_func import methods
from cil_func.data.scenario import Phase, Scenario
from cil_func.methods import Stage
from cil_func.training import rows

OLD, NEW = range(3), range(3, 5)  # labels; phase 1 brings the new ones


def scenario(*, of_old: int = 12, of_new: tuple[int, ...] = (12, 12)) -> Scenario:
    """12 images of each class, if not said otherwise, whose rows take turns."""
    counts = {**dict.fromkeys(OLD, of_old), **dict(zip(NEW, of_new, strict=True))}
    labels = torch.tensor([label for turn in range(99) for label, count in counts.items() if turn < count])
    phases = [
        Phase(index, tuple(of_phase), torch.isin(labels, torch.tensor(list(of_phase))).nonzero().flatten(), None)
        for index, of_phase in enumerate((OLD, NEW))
    ]
    return Scenario(tuple(range(5)), tuple(phases), labels, torch.empty(0))


def exemplars(made: Scenario, kept: dict[int, int] | int) -> dict[int, torch.Tensor]:
    """Exemplars of the old classes in an order of rank that isn't that of rows."""
    counts = dict.fromkeys(OLD, kept) if isinstance(kept, int) else kept
    return {label: (made.train_labels == label).nonzero().flatten().flip(0)[:count] for label, count in counts.items()}


def of_stage(made, memory, *, stage="new", share=0.0, phase=1, key=7, chosen=None) -> list[int]:
    loss = methods.make("finetune", methods.Options()).loss
    method = methods.Method("own", loss, hold_out=share)
    found = rows.of_stage(
        Stage("", loss, rows=stage), method, made, made.phases[phase], memory, key=key, chosen=chosen
    )
    assert found.dtype == torch.int64
    return found.tolist()


def counts(made, found) -> dict[int, int]:
    return Counter(made.train_labels[found].tolist())


def test_without_a_memory_a_phase_trains_on_its_own_images():
    made = scenario()
    assert of_stage(made, {}, share=0.5) == made.phases[1].train_rows.tolist()
    assert of_stage(made, {}, share=0.5, stage="held_out") == []
    assert of_stage(made, {}, stage="all") == [*made.phases[0].train_rows.tolist(), *made.phases[1].train_rows.tolist()]


@pytest.mark.parametrize(("kept", "share", "count"), [
    (10, 0.1, 1), (10, 0.25, 3), (7, 0.2, 2), (25, 0.28, 7), (3, 0.9, 2), (2, 0.1, 1), (10, 1.0, 9),
])  # fmt: skip
def test_held_out_are_the_last_exemplars_and_as_many_images_of_each_new_class(kept, share, count):
    """The share rounded up, but one exemplar goes on being trained on; of 12 new images half at most."""
    made = scenario(of_old=30)
    memory = exemplars(made, kept)
    held, trained = (of_stage(made, memory, share=share, stage=stage) for stage in ("held_out", "new"))
    for label in OLD:
        assert memory[label][kept - count :].tolist() == [row for row in held if made.train_labels[row] == label]
    assert counts(made, held) == {**dict.fromkeys(OLD, count), **dict.fromkeys(NEW, min(count, 6))}
    assert not set(held) & set(trained)
    everything = made.phases[1].train_rows.tolist() + torch.cat(list(memory.values())).tolist()
    assert sorted(held + trained) == sorted(everything)
    assert len(memory[0]) == kept  # the memory is as it was


def test_new_rows_are_drawn_by_the_phases_key_and_not_by_how_many_there_are():
    made = scenario(of_new=(12, 9))
    of_new = {}
    for key in (7, 8):
        for share in (0.1, 0.3):
            held = of_stage(made, exemplars(made, 10), share=share, stage="held_out", key=key)
            of_new[key, share] = {label: [row for row in held if made.train_labels[row] == label] for label in NEW}
    assert of_new[7, 0.3] != of_new[8, 0.3]
    assert all(of_new[7, 0.3][label][:1] == of_new[7, 0.1][label] for label in NEW)
    places = [made.phases[1].train_rows.tolist().index(of_new[7, 0.3][label][0]) for label in NEW]
    assert len(set(places)) == 2  # each class draws for itself


def test_a_new_class_gives_half_of_its_images_at_most_and_a_single_exemplar_is_trained_on():
    made = scenario(of_new=(3, 1))
    memory = exemplars(made, {0: 10, 1: 1, 2: 4})
    held = of_stage(made, memory, share=0.5, stage="held_out")
    assert counts(made, held) == {0: 5, 2: 2, 3: 1}  # the largest, 5, is more than half of 3 or of 1
    assert counts(made, of_stage(made, memory, share=0.5)) == {0: 5, 1: 1, 2: 2, 3: 2, 4: 1}


def test_balanced_are_the_exemplars_and_what_was_chosen():
    made = scenario()
    memory = exemplars(made, 4)
    chosen = {label: (made.train_labels == label).nonzero().flatten()[2:6] for label in NEW}
    found = of_stage(made, memory, share=0.5, stage="balanced", chosen=chosen)  # held out or not
    assert found == [row for label in OLD for row in memory[label].tolist()] + [
        row for label in NEW for row in chosen[label].tolist()
    ]
    assert counts(made, found) == dict.fromkeys([*OLD, *NEW], 4)


def test_nothing_is_held_out_in_phase_0():
    made = scenario()
    assert of_stage(made, {}, share=0.5, phase=0) == made.phases[0].train_rows.tolist()

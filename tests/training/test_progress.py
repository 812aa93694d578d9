"""Where a run stands, through the bytes of a checkpoint and back."""

import torch

from cil_func import tree
from cil_func.networks.network import Model
from cil_func.runs import checkpoints
from cil_func.training.epochs import Position
from cil_func.training.progress import Progress, StageProgress, pack, unpack
from cil_func.training.step_state import Health, Measures, TrainState

CPU = torch.device("cpu")


def model(value: float):
    """Params and state whose order by name is another one."""
    return Model({"b": {"z": torch.full((2,), value), "a": torch.tensor(value)}, "a": {}}, {"n": torch.tensor(3)})


def round_trip(progress: Progress, folder) -> Progress:
    parts, record = pack(progress)
    checkpoints.save(folder, parts, record, number=0)
    found, _ = checkpoints.newest(folder)
    return unpack(found.tree, found.record, device=CPU)


def test_the_start(tmp_path):
    assert round_trip(Progress(), tmp_path) == Progress()
    assert Progress().place == (0, -1, -1, 0)


def test_the_middle_of_a_phase(tmp_path):
    params, state = model(0.1)
    health = Health(*map(torch.tensor, (7, -1, -1)))
    train_state = TrainState(params, state, {"b": {"z": torch.ones(2), "a": torch.ones(())}, "a": {}}, health)
    extra = {"fisher": {"z": torch.tensor([0.25])}}
    train_state = train_state._replace(extra=extra)
    totals = Measures(torch.tensor(2.5), torch.tensor(4), *torch.rand(3).unbind())
    chosen = {3: torch.tensor([9, 1])}
    training = StageProgress(train_state, totals, Position(3, 2), 1.25, number=1, chosen=chosen)
    exemplars = {0: torch.tensor([5, 2]), 11: torch.tensor([7])}
    rows = ({"phase": 0, "top1": 0.1 + 0.2, "gamma": None, "per_phase_top1": [1.0]},)
    progress = Progress(1, model(0.3), exemplars, rows, training, select_seconds=0.7, extra=extra)
    found = round_trip(progress, tmp_path)
    assert found.selected and found.select_seconds == 0.7
    assert str(found) == "phase 1, stage 1, epoch 3, step 2, exemplars selected"
    assert found.place == progress.place == (1, 1, 3, 2)
    assert found.rows == rows and found.training.seconds == 1.25  # to the last bit
    for mine, theirs in (
        (found.learned, progress.learned), (found.training.train_state, train_state), (found.exemplars, exemplars),
        (found.training.totals, totals), (found.training.chosen, chosen), (found.extra, extra),
    ):  # fmt: skip
        assert torch.utils._pytree.tree_structure(mine) == torch.utils._pytree.tree_structure(theirs)  # and the order
        assert all(map(torch.equal, tree.leaves(mine), tree.leaves(theirs)))
        assert [leaf.dtype for leaf in tree.leaves(mine)] == [leaf.dtype for leaf in tree.leaves(theirs)]


def test_between_two_phases(tmp_path):
    found = round_trip(Progress(2, model(0.5), {1: torch.tensor([3])}, ()), tmp_path)
    assert found.place == (2, -1, -1, 0) and found.training is None and found.learned.params["a"] == {}

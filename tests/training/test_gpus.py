"""Which GPUs torch can use, told on a machine without any."""

import pytest
import torch

from cil_func.training import gpus


@pytest.mark.parametrize(
    ("built_for", "capability", "good"),
    [(["sm_75", "sm_80", "sm_90"], (9, 0), True), (["sm_75", "sm_80"], (8, 6), True),
     (["sm_75", "sm_86"], (8, 0), False), (["sm_75", "sm_80"], (7, 0), False), (["sm_75"], (6, 1), False),
     (["sm_80", "compute_90"], (12, 0), True), (["sm_80", "sm_90a"], (12, 0), False), (["compute_90"], (8, 0), False),
     ([], (6, 0), True)],
)  # fmt: skip
def test_machine_code_runs_on_its_own_major_version(built_for, capability, good, monkeypatch):
    found = {"is_available": True, "get_device_capability": capability, "get_arch_list": built_for}
    for name, value in (found | {"get_device_name": "X100"}).items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    gpus.fault.cache_clear()
    words = "and this torch has no kernels for X100 (compute capability {}.{})".format(*capability)
    assert gpus.fault() == ("" if good else words)
    gpus.fault.cache_clear()


@pytest.mark.parametrize(
    ("given", "count", "names"),
    [(None, 2, ["0", "1"]), ("3,5", 2, ["3", "5"]), ("GPU-a, GPU-b", 2, ["GPU-a", "GPU-b"]), ("", 0, []),
     (None, 0, [])],
)  # fmt: skip
def test_gpus_are_named_as_the_environment_names_them(given, count, names, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpus.visible() == names


def test_an_optimiser_of_ones_own_may_begin_with_numbers_on_the_cpu():
    """A step on the device would else write to the host, which a captured one can't. Here that device is "meta"."""
    from cil_func import optim, tree
    from cil_func.methods import Options, make
    from cil_func.training import step_state

    own = optim.Optimiser(lambda params: {"t": torch.zeros(())}, lambda grads, state, params, rate: (grads, state))
    params = {"classifier": {"weight": torch.zeros(2, 3, device="meta"), "bias": torch.zeros(2, device="meta")}}
    begun = step_state.start(make("finetune", Options()).main, own, params, {})
    assert {leaf.device.type for leaf in tree.leaves(begun.opt_state)} == {"meta"}

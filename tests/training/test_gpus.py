"""Which GPUs torch can use, told on a machine without any."""

import pytest
import torch

from cil_func import config
from cil_func.errors import ConfigError
from cil_func.parallel.launch import Launch
from cil_func.runs import environment
from cil_func.training import gpus


@pytest.fixture
def has(monkeypatch):
    """Makes torch say that the machine has GPUs of these capabilities, and what it is built for."""

    def make(capabilities, built_for):
        said = {
            "get_device_capability": lambda number=0: capabilities[number],
            "get_device_name": lambda number=0: f"X{number}",
            "get_arch_list": lambda: built_for,
            "is_available": lambda: bool(capabilities),
            "device_count": lambda: len(capabilities),
        }
        for name, value in said.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return make


@pytest.mark.parametrize(
    ("built_for", "capability", "good"),
    [(["sm_75", "sm_80", "sm_90"], (9, 0), True), (["sm_75", "sm_80"], (8, 6), True),
     (["sm_75", "sm_86"], (8, 0), False), (["sm_75", "sm_80"], (7, 0), False), (["sm_75"], (6, 1), False),
     (["sm_80", "compute_90"], (12, 0), True), (["sm_80", "sm_90a"], (12, 0), False), (["compute_90"], (8, 0), False),
     ([], (6, 0), True), (["gfx906", "gfx90a"], (9, 0), True), (["gfx1100"], (9, 4), True)],
)  # fmt: skip
def test_machine_code_runs_on_its_own_major_version(built_for, capability, good, has):
    has([capability], built_for)
    words = "this torch has no kernels for X0 (compute capability {}.{})".format(*capability)
    assert gpus.fault() == ("" if good else words)
    warning = f"no GPU is used, since {words}; another build of torch may have some"
    assert gpus.passed_over() == ("" if good else warning)


def test_each_gpu_is_judged_by_itself_and_one_that_torch_cannot_use_is_not_handed_out(has, monkeypatch):
    has([(9, 0), (6, 1), (9, 0)], ["sm_90"])
    assert [bool(gpus.fault([number])) for number in range(4)] == [False, True, False, False]
    assert "X1" in gpus.fault([0, 1, 2]) and gpus.visible() == ["0", "2"]
    assert gpus.passed_over([1]).endswith("; CUDA_VISIBLE_DEVICES=0,2 leaves it out")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 6,7")
    assert gpus.visible() == ["5", "7"]


def test_without_a_gpu_there_is_nothing_to_pass_over(has):
    has([], [])
    assert gpus.fault() == "torch finds no CUDA device here" and gpus.passed_over() == ""


@pytest.mark.parametrize(("capabilities", "local_size", "device"), [
    ([(6, 1), (9, 0)], 1, "cpu"), ([(9, 0), (6, 1)], 1, "cuda"), ([(9, 0), (6, 1)], 2, "cpu"), ([(9, 0)], 2, "cuda"),
    ([], 2, "cpu"),
])  # fmt: skip
def test_a_run_looks_at_the_gpus_that_its_processes_take(capabilities, local_size, device, has):
    """Each process its own; of one machine, all say the same. Where a launcher shows each a single one, that one."""
    has(capabilities, ["sm_90"])
    launch, auto = Launch(0, local_size, 0, local_size), config.load("digits")
    assert environment.resolve(auto, launch).run.device == device
    assert bool(environment.unused_gpu(auto, launch)) == (device == "cpu" and bool(capabilities))
    of_cuda = config.load("digits", ["run.device=cuda"])
    assert environment.unused_gpu(of_cuda, launch) == ""
    if device == "cpu":
        with pytest.raises(ConfigError, match=r'^run\.device: "cuda", and (this )?torch .*; "auto" or "cpu" fits'):
            environment.resolve(of_cuda, launch)


@pytest.mark.parametrize(
    ("given", "count", "names"),
    [(None, 2, ["0", "1"]), ("3,5", 2, ["3", "5"]), ("GPU-a, GPU-b", 2, ["GPU-a", "GPU-b"]), ("", 0, []),
     (None, 0, [])],
)  # fmt: skip
def test_gpus_are_named_as_the_environment_names_them(given, count, names, has, monkeypatch):
    has([(9, 0)] * count, ["sm_90"])
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


def test_a_gpu_that_torch_can_not_begin_with_is_none(monkeypatch):
    """As with a driver that is too old: it is counted, and asking it anything fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *given: pytest.fail("it is asked"))
    assert gpus.visible() == [] and gpus.passed_over() == ""

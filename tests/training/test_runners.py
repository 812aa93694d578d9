"""Compilation and capture: the same numbers as eagerly, one training graph for a whole run, nothing shared outside.

The network is a ResNet-8, one block a stage: it compiles three times as fast as the smallest that a run can have.
"""

import logging
from contextlib import nullcontext
from types import SimpleNamespace

import fake_cuda
import one_conv
import pytest
import tiny
import torch
import torch._inductor.config
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.testing import CompileCounter

from benchmarks import measure
from cil_func import classifier, methods, model, optim, tree
from cil_func.config import load
from cil_func.data.batches import Batch, Chunk
from cil_func.errors import ConfigError
from cil_func.experiment import run as run_experiment
from cil_func.methods import Outputs
from cil_func.networks import resnet
from cil_func.networks.network import Model, Network
from cil_func.parallel.activity import Activity
from cil_func.parallel.processes import Processes
from cil_func.runs import setup
from cil_func.runs.environment import environment
from cil_func.training import inference, runners, step, step_state
from cil_func.training.epochs import fit
from cil_func.training.preprocess import Preprocess
from cil_func.training.runners import CapturedSteps, EagerSteps

WIDTH, BATCH = 6, 8
PHASES = [(2, 0), (4, 2), (6, 4)]  # classes seen, classes known before
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def resnet8(monkeypatch):
    """One block a stage, and two stages: the shortcut where the size halves is among them."""
    monkeypatch.setattr(resnet, "WIDTHS", (16, 64))


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def counters(monkeypatch):
    """One counter for each function that is compiled, in order; the graphs run without inductor."""
    made, original = [], torch.compile

    def counting(function, **settings):
        made.append(CompileCounter())
        return original(function, **settings, backend=made[-1])

    monkeypatch.setattr(torch, "compile", counting)
    return made


def network() -> Network:
    return Network("resnet8", WIDTH, len(PHASES), image_size=(8, 8))


def make(*, dtype=torch.float32, device="cpu", norm_batch=4, padded=False):
    """(step of WA, its start from (params, state), forward) with parameters in `dtype`."""
    stage = methods.make("wa", methods.Options()).main
    optimiser = optim.sgd(momentum=0.9, weight_decay=5e-4)
    mean, std = (torch.full((3,), value, dtype=dtype, device=device) for value in (0.5, 0.25))
    preprocess = Preprocess(mean, std)
    parts = step.make(stage, network(), optimiser, preprocess, dtype=dtype, norm_batch=norm_batch, padded=padded)
    forward = inference.forward_of(network(), preprocess, dtype=dtype)
    return step.join(parts), lambda learned: step_state.start(stage, optimiser, *learned), forward


def draw_model(key: int, num_classes: int, **cast) -> tuple[dict, dict]:
    """(params, state) at full width."""
    params, state = tree.cast(model.init(key, "resnet8", num_classes), **cast)
    return {**params, "classifier": classifier.pad(params["classifier"], WIDTH)}, state


def classes_of(seen: int, old: int, device="cpu") -> methods.Classes:
    labels = torch.arange(WIDTH, device=device)
    return methods.Classes(seen=labels < seen, old=labels < old)


def draw_batch(key: int, seen: int, size: int = BATCH) -> Batch:
    images = torch.randint(0, 256, (size, 8, 8, 3), generator=torch.Generator().manual_seed(key), dtype=torch.uint8)
    return Batch(images, torch.arange(size) % seen)


def draw_taught(key: int, size: int = BATCH, dtype=torch.float32) -> Outputs:
    generator = torch.Generator().manual_seed(100 + key)
    return Outputs(*(torch.randn(size, width, generator=generator, dtype=dtype) for width in (WIDTH, 64)))


def assert_same(mine, theirs):
    """Bit by bit."""
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(mine), tree.leaves(theirs), strict=True))


# how many graphs


@pytest.mark.parametrize("padded", [False, True])
def test_one_training_graph_and_one_forward_graph_serve_three_phases_rates_and_short_batches(
    padded, counters, fresh_dynamo
):
    """Padded, the short batches are in that graph too; else they run eagerly."""
    run, start, forward = make(padded=padded)
    sizes = []
    run = runners.compiled(run, full=lambda *args: sizes.append(len(args[2].labels)) or sizes[-1] == BATCH)
    forward = runners.compiled(forward, full=lambda *args: len(args[2]) == BATCH)
    learned = None
    for seen, old in PHASES:

        def teach(images, learned=learned):
            if learned is None:  # the first phase: a teacher of zeros, so that the graph is the later ones'
                return Outputs(torch.zeros(len(images), WIDTH), torch.zeros(len(images), 64))
            run = inference.Forward(network(), forward, BATCH, torch.device("cpu"))
            return run.teacher(Model(*learned), classes_of(WIDTH, 0))(images)

        steps = EagerSteps(run, start(draw_model(seen, seen)), classes_of(seen, old))
        fit(
            steps,
            SimpleNamespace(
                epochs=2, batch_size=BATCH, padded_to=BATCH if padded else 0, dtype=torch.float32,
                rate=lambda epoch: 0.1 / (1 + epoch),
            ),
            chunks=lambda epoch, step, seen=seen: [
                Chunk(draw_batch(epoch, seen, BATCH + 5), sizes=(BATCH, 5), totals=(BATCH, 5), done=0)
            ],
            teach=teach,
            emit=lambda event: None,
        )
        learned = steps.snapshot()[0][:2]
    assert sizes == [BATCH, BATCH if padded else 5] * 6
    assert [counter.frame_count for counter in counters] == [1, 1]


def test_a_whole_run_compiles_two_graphs(counters, fresh_dynamo, monkeypatch, tmp_path):
    """`experiment.run`: 3 phases of WA, and again with finetune, without teacher and memory."""
    measure.write_images(tmp_path, classes=10, train=18, test=8, size=8)  # 80 test images in the end
    monkeypatch.setitem(inference.FORWARD_PIXELS, "cpu", 64 * 8 * 8)  # 64 images: else none of the calls is full
    for method in ("wa", "finetune"):
        overrides = tiny.settings("data.increment=4", "optim.epochs=1", "optim.batch_size=32", "run.compile=true",
                                  f"method.name={method}", "run.device=cpu", f"data.path={tmp_path}",
                                  f"model.backbone={one_conv.NAME}")  # fmt: skip
        built = setup.build(load("digits", overrides))
        rows = []
        run_experiment(built.experiment, emit=lambda event: None, save=rows.append)
        assert len(rows) == 3
        assert [counter.frame_count for counter in counters] == [1, 1]  # the forward pass, the step
        counters.clear()


# the numbers


@pytest.mark.inductor
def test_compiled_step_computes_the_eager_step(fresh_dynamo, monkeypatch):
    """By inductor, with a teacher, two norm groups and padding, in two phases: the same numbers but for rounding."""
    monkeypatch.setattr(torch._inductor.config.aot_inductor, "debug_compile", True)  # C++ need not be optimised
    run, start, _ = make(padded=True)
    fast = runners.compiled(run, full=lambda *args: True)
    given = step_state.pad(draw_taught(0, BATCH - 3), draw_batch(1, 4, BATCH - 3), 3)
    for seen, old in PHASES[1:]:
        arguments = (start(draw_model(seen, seen)), *given, classes_of(seen, old), torch.tensor(0.1))
        expected, expected_measures = run(*arguments)
        compiled, measures = fast(*arguments)
        assert measures.loss.item() == pytest.approx(expected_measures.loss.item(), rel=1e-4)
        assert measures.correct == expected_measures.correct
        tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4), compiled, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_only_full_calls_are_compiled(counters, fresh_dynamo):
    run = runners.compiled(lambda x: x + 1, full=lambda x: len(x) == 3)
    assert torch.equal(run(torch.zeros(2)), torch.ones(2)) and counters[0].frame_count == 0
    assert torch.equal(run(torch.zeros(3)), torch.ones(3)) and counters[0].frame_count == 1


def test_each_size_is_compiled_once_and_reported_around_it(counters, fresh_dynamo):
    events, frames = [], []

    def note(event):
        events.append(event)
        frames.append(counters[0].frame_count)

    run = runners.compiled(lambda x: x + 1, full=lambda x: len(x) if len(x) > 2 else 0, name="training step")
    with runners.reported(note):
        for size in (3, 2, 3, 4, 3, 4):
            run(torch.zeros(size))
    run(torch.zeros(5))  # nobody listens any more
    assert [(event["event"], event["what"]) for event in events] == [
        ("compiling", "training step"), ("compiled", "training step"),
    ] * 2  # fmt: skip
    assert frames == [0, 1, 1, 2] and counters[0].frame_count == 3
    assert all(event["seconds"] > 0 for event in events[1::2])


def test_another_structure_of_the_first_argument_is_reported_too(monkeypatch):
    """As the step of a backbone with one more last stage in each phase, which torch compiles anew."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    events = []
    run = runners.compiled(lambda params, x: sum(params.values()) + x, full=lambda params, x: len(x))
    with runners.reported(events.append):
        for count in (1, 2, 1, 2):
            run({str(number): torch.zeros(3) for number in range(count)}, torch.zeros(3))
    assert [event["event"] for event in events] == ["compiling", "compiled"] * 2


def test_more_sizes_than_torchs_own_limit_end_no_run(counters, fresh_dynamo):
    run = runners.compiled(lambda x: x + 1, full=len)
    for size in range(2, 14):
        assert torch.equal(run(torch.zeros(size)), torch.ones(size))
    assert counters[0].frame_count == 12


@pytest.mark.parametrize(("message", "printed"), [
    ("No CUDA runtime is found, using CUDA_HOME='%s'", False), ("no compiler at %s", True),
])  # fmt: skip
def test_a_machine_without_a_gpu_is_not_told_so(message, printed, caplog):
    """torch's line is a warning of this logger, where CUDA's compiler is installed and no GPU is."""
    runners.compiled(lambda x: x, full=len)
    with caplog.at_level("WARNING", logger="torch.utils.cpp_extension"):
        logger = logging.getLogger("torch.utils.cpp_extension")
        logger.addHandler(caplog.handler)
        logger.warning(message, "/usr/local/cuda")
        logger.removeHandler(caplog.handler)
    assert bool(caplog.records) is printed


# a train state threaded through steps


def count_step(train_state, taught, batch, classes, rate):
    """Multiplies what is there by the rate and adds the sum of the labels and what the teacher says."""
    total = batch.labels.sum() + taught.logits.sum()
    measures = step_state.Measures(total * 2, (batch.labels >= 0).sum(), *torch.zeros(3))
    return train_state._replace(params={"sum": train_state.params["sum"] * rate + total}), measures


def count_state() -> step_state.TrainState:
    return step_state.TrainState({"sum": torch.tensor(1.0)}, {"kept": torch.tensor(7.0)}, {}, None)


def count_inputs(*labels: int) -> tuple[Outputs, Batch]:
    taught = Outputs(torch.full((len(labels), 1), 0.5), torch.zeros(len(labels), 1))
    return taught, Batch(torch.zeros(len(labels), 1, 1, 3, dtype=torch.uint8), torch.tensor(labels))


THREADERS = {"threaded": EagerSteps, "captured": CapturedSteps}


@pytest.fixture(params=THREADERS)
def threader(request, monkeypatch):
    fake_cuda.install(monkeypatch)
    return THREADERS[request.param]


def test_states_are_threaded_and_measures_add_up_until_they_are_read(threader):
    steps = threader(count_step, count_state(), classes_of(2, 0))
    steps(*count_inputs(1, 2), torch.tensor(3.0))  # 1 * 3 + (3 + 1) = 7
    steps(*count_inputs(4, 4), torch.tensor(10.0))  # 7 * 10 + 9 = 79
    assert steps.snapshot()[0].params["sum"] == 79 and steps.snapshot()[0].state["kept"] == 7
    measures = steps.measures()
    assert (measures.loss, measures.correct) == (2 * (4 + 9), 4)
    steps(*count_inputs(0, -1), torch.tensor(1.0))
    again = steps.measures()
    assert (again.loss, again.correct) == (0, 1)
    assert (measures.loss, measures.correct) == (26, 4)  # those read before stay as they were
    assert steps.snapshot()[0].params["sum"] == 79


def test_the_progress_that_is_set_between_steps_reaches_the_next_ones(threader):
    def step(train_state, taught, batch, classes, rate):
        return count_step(train_state, taught, batch, classes, rate + classes.progress)

    steps = threader(step, count_state(), classes_of(2, 0)._replace(progress=torch.tensor(0.0)))
    steps(*count_inputs(1, 2), torch.tensor(3.0))  # 1 * 3 + 4
    steps.classes.progress.fill_(0.5)
    steps(*count_inputs(1, 2), torch.tensor(3.0))  # 7 * 3.5 + 4
    assert steps.snapshot()[0].params["sum"] == 28.5


def test_whatever_ends_a_step_before_the_change_has_changed_nothing(threader):
    """An exception of the step itself, as a signal in its compilation, and of the last moment."""
    ends = []

    def step(*arguments):
        if ends == ["step"]:
            raise KeyboardInterrupt
        return count_step(*arguments)

    def changing():
        if ends == ["changing"]:
            raise KeyboardInterrupt

    steps = threader(step, count_state(), classes_of(2, 0), changing=changing)
    steps(*count_inputs(1, 2), torch.tensor(3.0))
    before = tree.map(torch.clone, steps.snapshot())
    for ends[:] in (["step"], ["changing"]):
        with pytest.raises(KeyboardInterrupt):  # of another shape, which isn't captured
            steps(*count_inputs(4), torch.tensor(10.0))
        assert_same(steps.snapshot(), before)
    with pytest.raises(KeyboardInterrupt):
        steps.measures()
    assert_same(steps.snapshot(), before)
    ends.clear()
    steps(*count_inputs(4), torch.tensor(10.0))  # (1 * 3 + 4) * 10 + 4.5
    assert steps.snapshot()[0].params["sum"] == 74.5


def test_a_capture_replays_what_it_can_and_steps_without_it_where_the_shape_differs(monkeypatch):
    fake_cuda.install(monkeypatch)
    calls = []

    def counted(*args):
        calls.append(len(args[2].labels))
        return count_step(*args)

    steps = CapturedSteps(counted, count_state(), classes_of(2, 0))
    for _ in range(4):
        steps(*count_inputs(1, 2), torch.tensor(1.0))  # + 4 each
    traced = len(calls)
    assert calls == [2] * traced and traced < 8
    assert steps._graph.replays == 4
    steps(*count_inputs(5), torch.tensor(2.0))  # (1 + 16) * 2 + 5.5 = 39.5
    assert calls[traced:] == [1] and steps._graph.replays == 4
    steps(*count_inputs(1, 2), torch.tensor(1.0))
    assert len(calls) == traced + 1 and steps._graph.replays == 5
    assert steps.snapshot()[0].params["sum"] == 43.5
    measures = steps.measures()
    assert (measures.loss, measures.correct) == (2 * (5 * 4 + 5.5), 11)


def test_a_training_that_goes_on_at_an_epochs_last_smaller_batch_captures_the_whole_one(monkeypatch):
    fake_cuda.install(monkeypatch)
    steps = CapturedSteps(count_step, count_state(), classes_of(2, 0))
    steps(*count_inputs(5), torch.tensor(2.0))
    small = steps._graph
    for _ in range(3):
        steps(*count_inputs(1, 2), torch.tensor(1.0))
    assert small.replays == 1 and steps._graph is not small and steps._graph.replays == 3
    plain = EagerSteps(count_step, count_state(), classes_of(2, 0))
    plain(*count_inputs(5), torch.tensor(2.0))
    for _ in range(3):
        plain(*count_inputs(1, 2), torch.tensor(1.0))
    assert_same(steps.snapshot(), plain.snapshot())


def test_a_last_batch_with_an_image_more_leaves_the_capture_as_it_is(monkeypatch):
    """Else every later batch would be smaller than what is captured, and run without it."""
    fake_cuda.install(monkeypatch)
    steps, plain = CapturedSteps(count_step, count_state(), classes_of(2, 0), most=2), None
    for labels in ((1, 2), (1, 2, 3), (1, 2), (1,)):
        steps(*count_inputs(*labels), torch.tensor(1.0))
        graph = steps._graph
    assert graph.replays == 2
    plain = EagerSteps(count_step, count_state(), classes_of(2, 0))
    for labels in ((1, 2), (1, 2, 3), (1, 2), (1,)):
        plain(*count_inputs(*labels), torch.tensor(1.0))
    assert_same(steps.snapshot(), plain.snapshot())
    alone = CapturedSteps(count_step, count_state(), classes_of(2, 0), most=2)
    alone(*count_inputs(1, 2, 3), torch.tensor(1.0))  # the only batch of a phase
    assert alone._graph is None


def test_what_a_run_keeps_of_a_step_lies_where_a_loaded_run_has_it():
    """A step returns views of vectors; a product of matrices that begin elsewhere may have other bits."""

    def views(train_state, taught, batch, classes, rate):
        halves = {"first": torch.arange(10.0)[:3], "second": torch.arange(10.0)[3:]}
        moved = train_state._replace(params=halves, state=halves, opt_state=halves)
        return moved, step_state.nothing_measured(train_state)

    leaf = torch.zeros(3)
    start = {"first": leaf, "second": torch.zeros(7)}
    steps = EagerSteps(views, step_state.TrainState(start, start, start, None, {"kept": leaf}), classes_of(2, 0))
    steps(*count_inputs(1), torch.tensor(1.0))
    found, _ = steps.snapshot()
    for kept in tree.leaves((found.params, found.state, found.opt_state)):
        assert kept.storage_offset() == 0 and kept.untyped_storage().nbytes() == 4 * kept.numel()
    assert found.params["second"].tolist() == [3, 4, 5, 6, 7, 8, 9] and found.extra["kept"] is leaf


def test_what_a_step_draws_follows_from_its_seed_whether_it_is_captured_or_not(threader):
    """Also in the step that makes the capture, which runs the step several times."""

    def draw(train_state, taught, batch, classes, rate):
        drawn = torch.empty(()).uniform_()
        moved = train_state._replace(params={"sum": train_state.params["sum"] + drawn})
        return moved, step_state.nothing_measured(train_state)

    expected = 1.0
    steps = threader(draw, count_state(), classes_of(2, 0))
    for seed in (5, 6, 5):
        torch.manual_seed(seed)
        expected += torch.rand(()).item()
    torch.manual_seed(9)
    following = torch.rand(3)
    torch.manual_seed(9)
    for seed, labels in ((5, (1, 2)), (6, (1, 2)), (5, (1,))):
        steps(*count_inputs(*labels), torch.tensor(1.0), seed)
    assert steps.snapshot()[0].params["sum"].item() == pytest.approx(expected)
    assert torch.equal(torch.rand(3), following)


def check_no_alias(steps, train_state, classes, inputs, more, rate):
    """Whatever is written into what went in or came out, the next step doesn't see; nor does it write there."""
    expected_start = tree.map(torch.clone, (train_state, classes, inputs))
    steps(*inputs, rate)
    assert_same((train_state, classes, inputs), expected_start)
    first = tree.map(torch.clone, steps.snapshot()[0])
    returned = steps.snapshot()[0], steps.measures()
    for leaf in tree.leaves((train_state, inputs, returned)):
        leaf.fill_(99)
    classes.seen.fill_(False)
    rate.fill_(50.0)
    assert_same(steps.snapshot()[0], first)
    assert not any(leaf.any() for leaf in tree.leaves(steps.measures()))
    steps(*more)
    assert all((leaf == 99).all() for leaf in tree.leaves((train_state, inputs, returned)))


def test_a_capture_shares_nothing_with_outside(monkeypatch):
    fake_cuda.install(monkeypatch)
    run, start, _ = make(norm_batch=0)
    train_state, classes = start(draw_model(4, 4)), classes_of(4, 2)
    steps = CapturedSteps(run, train_state, classes)
    plain = EagerSteps(run, *tree.map(torch.clone, (train_state, classes)))
    rate = torch.tensor(0.1)
    more = draw_taught(1), draw_batch(1, 4), torch.tensor(0.05)
    plain(draw_taught(0), draw_batch(0, 4), rate.clone())
    plain(*more)
    check_no_alias(steps, train_state, classes, (draw_taught(0), draw_batch(0, 4)), more, rate)
    assert_same(steps.snapshot()[0], plain.snapshot()[0])


def captured_and_plain(run, start, *, device, taught, dtype=torch.float32):
    """Both over 5 steps with changing rates, the third one short, read out in between: [(measures, train state)]."""
    results = []
    for threader in (CapturedSteps, EagerSteps):
        learned = draw_model(4, 4, device=device, dtype=dtype)
        steps, found = threader(run, start(learned), classes_of(4, 2, device)), []
        for index, rate in enumerate((0.1, 0.1, 0.05, 0.02, 0.01)):
            size = 5 if index == 2 else BATCH
            given = draw_taught(index, size, dtype) if taught else None, draw_batch(index, 4, size)
            steps(*tree.map(lambda leaf: leaf.to(device), given), torch.tensor(rate, device=device, dtype=dtype))
            if index in (1, 4):
                found.append((steps.measures(), steps.snapshot()[0]))
        results.append(found)
    return results


@pytest.mark.parametrize("taught", [True, False])
def test_what_is_captured_is_the_eager_step(taught, monkeypatch):
    """The real step under the fake graph: every number of it is recomputed at a replay, from what is static."""
    fake_cuda.install(monkeypatch)
    run, start, _ = make()
    captured, plain = captured_and_plain(run, start, device="cpu", taught=taught)
    assert_same(captured, plain)
    assert not torch.equal(*(t.params["classifier"]["weight"] for _, t in plain))  # the steps in between moved it


def test_the_same_bits_need_the_same_algorithms(monkeypatch):
    """The switches are torch's own, and only read where a GPU is."""
    switches = {(torch.backends.cudnn, "deterministic"): True, (torch.backends.cudnn, "benchmark"): False,
                (torch._inductor.config, "deterministic"): True}  # fmt: skip
    for (owner, name), wanted in switches.items():
        monkeypatch.setattr(owner, name, not wanted)
    runners.same_bits()
    assert {key: getattr(*key) for key in switches} == switches


@pytest.fixture
def tf32():
    """torch set to TF32 by its old interface and by its new one; afterwards as it is by default."""
    yield lambda new: TF32[new]()
    torch.backends.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.conv.fp32_precision = "none"


def _old_tf32():
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")


def _new_tf32():
    torch.backends.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "tf32"


TF32 = {"default": lambda: None, "old": _old_tf32, "new": _new_tf32}


@pytest.mark.parametrize("before", TF32)
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_float32_is_float32_whatever_was_set_before(before, device, tf32, monkeypatch):
    """By the building of a run, which a wrong backbone's name ends. torch raises where its interfaces differ."""
    tf32(before)
    monkeypatch.setattr(runners, "same_bits", lambda: None)
    monkeypatch.setattr("cil_func.runs.setup.device_of", lambda launch, device_name: torch.device(device))
    monkeypatch.setattr(Processes, "set_device", lambda processes, there: None)
    with pytest.raises(ConfigError, match="nothing"):
        setup.build(load("digits", ["model.backbone=timm:nothing", "run.device=cpu"]))
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == "highest"
    new = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul, torch.backends.mkldnn.conv
    assert {operation.fp32_precision for operation in new} == {"ieee"}
    assert runners.float32_precision(device) == {"float32_convolution": "ieee", "float32_matmul": "ieee"}


def test_results_say_how_float32_is_computed(tf32, monkeypatch):
    cpu = torch.device("cpu")
    runners.exact_float32()
    expected = {"precision": "float32", "float32_convolution": "ieee", "float32_matmul": "ieee"}
    assert expected.items() <= environment(cpu, "float32", 1).items()
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    assert environment(cpu, "float32", 1)["float32_convolution"] == "bf16"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_run_asks_for_the_same_bits_on_a_gpu(device, monkeypatch):
    """Before anything is placed there; a wrong name ends the building just behind it."""
    asked = []
    monkeypatch.setattr(runners, "same_bits", lambda: asked.append(device))
    monkeypatch.setattr("cil_func.runs.setup.device_of", lambda launch, device_name: torch.device(device))
    monkeypatch.setattr(Processes, "set_device", lambda processes, there: None)
    with pytest.raises(ConfigError, match="nothing"):
        setup.build(load("digits", ["model.backbone=timm:nothing", "run.device=cpu"]))
    assert asked == (["cuda"] if device == "cuda" else [])


def test_a_compilation_is_announced_while_it_lasts(fresh_dynamo, monkeypatch):
    """Also one that fails. The others wait for a process that compiles."""
    handler = torch._dynamo.callback.callback_handler
    for name in ("start_callbacks", "end_callbacks"):
        monkeypatch.setattr(handler, name, [])
    activity, seen = Activity(), []
    runners.around_compilations(lambda: activity.begin_work("compiling"), activity.end_work)

    def backend(graph, inputs):
        seen.append(activity.record().work)
        return graph.forward if len(seen) == 1 else 1 / 0

    fast = torch.compile(lambda x: x + 1, backend=backend, dynamic=False)
    for size in (2, 2, 3):
        with pytest.raises(BackendCompilerFailed) if size == 3 else nullcontext():
            fast(torch.ones(size))
        assert activity.record().work == ""
    assert seen == ["compiling"] * 2


# on a GPU


@cuda
@pytest.mark.parametrize("taught", [True, False])
def test_on_cuda_what_is_captured_is_the_eager_step(taught):
    run, start, _ = make(device="cuda", dtype=torch.float64)
    captured, plain = captured_and_plain(run, start, device="cuda", taught=taught, dtype=torch.float64)
    for mine, theirs in zip(captured, plain, strict=True):
        tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9), mine, theirs)


@cuda
def test_on_cuda_a_capture_shares_nothing_with_outside():
    run, start, _ = make(device="cuda", norm_batch=0)
    train_state, classes = start(draw_model(4, 4, device="cuda")), classes_of(4, 2, "cuda")
    steps = CapturedSteps(run, train_state, classes)
    more = draw_taught(1), draw_batch(1, 4), torch.tensor(0.05)
    given, more = tree.map(lambda leaf: leaf.cuda(), ((draw_taught(0), draw_batch(0, 4)), more))
    check_no_alias(steps, train_state, classes, given, more, torch.tensor(0.1, device="cuda"))


@cuda
@pytest.mark.inductor
def test_on_cuda_a_captured_compiled_padded_step_is_the_eager_one(fresh_dynamo):
    """As a run on a GPU has it: compiled, captured, the short batch padded by `pad`."""
    run, start, _ = make(device="cuda", padded=True)
    fast = runners.compiled(run, full=lambda *args: len(args[2].labels) == BATCH)
    learned, results = draw_model(4, 4, device="cuda"), []
    for threader, function in ((CapturedSteps, fast), (EagerSteps, run)):
        steps = threader(function, start(learned), classes_of(4, 2, "cuda"))
        for index, size in enumerate((BATCH, BATCH, 3)):  # the last: a whole norm group of padding
            given = step_state.pad(draw_taught(index, size), draw_batch(index, 4, size), BATCH - size)
            steps(*tree.map(lambda leaf: leaf.cuda(), given), torch.tensor(0.01, device="cuda"))
        results.append((steps.measures(), steps.snapshot()[0]))
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3), *results)

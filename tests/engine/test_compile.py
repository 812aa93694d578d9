"""Compilation: the same numbers, and two graphs for a whole run."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from cil_func import classifier, methods, model, optim, tree
from cil_func.data.resident import Batch
from cil_func.engine import compile, step

WIDTH, BATCH = 6, 8


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_step(dtype=torch.float32):
    method = methods.make("wa", methods.Options())
    optimiser = optim.sgd(momentum=0.9, weight_decay=5e-4)
    preprocess = step.Preprocess(torch.full((3,), 0.5), torch.full((3,), 0.25))
    run = step.make(method, optimiser, preprocess, dtype=dtype, norm_batch=4)
    return run, lambda params, state: step.start(method, optimiser, params, state)


def phase(seen: int, old: int):
    """(params, state) at full width, classes, batch of a phase."""
    params, state = model.init(seen, "resnet20", seen)
    params = {**params, "classifier": classifier.pad(params["classifier"], WIDTH)}
    labels = torch.arange(WIDTH)
    images = torch.randint(0, 256, (BATCH, 8, 8, 3), generator=torch.Generator().manual_seed(seen), dtype=torch.uint8)
    batch = Batch(images, torch.arange(BATCH) % seen)
    return (params, state), methods.Classes(seen=labels < seen, old=labels < old), batch


def test_two_graphs_serve_three_phases_rates_and_a_short_batch(monkeypatch, fresh_dynamo):
    counter = CompileCounter()
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **kw: original(function, **kw, backend=counter))
    run, start = make_step()
    run = compile.compiled(run, full=lambda *args: len(args[2].labels) == BATCH)
    for index, (seen, old) in enumerate([(2, 0), (4, 2), (6, 4)]):
        learned, classes, batch = phase(seen, old)
        teacher = step.Teacher(*learned) if index else None
        train_state = start(*learned)
        for rate in (0.1, 0.01):
            train_state, _ = run(train_state, teacher, batch, classes, torch.tensor(rate))
        run(train_state, teacher, Batch(batch.images[:5], batch.labels[:5]), classes, torch.tensor(0.1))
    assert counter.frame_count == 2  # without and with a teacher


def test_compiled_step_computes_the_eager_step(fresh_dynamo):
    """By inductor, with a teacher and two norm groups: float32 rounding apart, the same numbers."""
    run, start = make_step()
    learned, classes, batch = phase(4, 2)
    arguments = (start(*learned), step.Teacher(*phase(3, 2)[0]), batch, classes, torch.tensor(0.1))
    expected, expected_measures = run(*arguments)
    compiled, measures = compile.compiled(run, full=lambda *args: True)(*arguments)
    assert measures.loss.item() == pytest.approx(expected_measures.loss.item(), rel=1e-4)
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4), compiled, expected)

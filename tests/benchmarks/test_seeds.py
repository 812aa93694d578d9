"""The benchmark of two seeds with small sizes; and that the vmapped step is the step of each seed."""

import json
import signal
from types import SimpleNamespace

import launching
import pytest
import torch

from benchmarks import measure, seeds, step
from cil_func import tree

SMALL = (
    "--rounds", "1", "--steps", "1", "--threads", "2", "--backbone", "resnet8", "--image-size", "8",
    "--batch-size", "4", "--precision", "float32", "--eager",
)  # fmt: skip


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    def start(words, *, env, cwd):
        return launching.fork(words, env=env)

    monkeypatch.setattr(seeds, "subprocess", SimpleNamespace(Popen=start))


def test_figures(tmp_path, capsys):
    path = tmp_path / "seeds.json"
    assert seeds.main([*SMALL, "--json", str(path)]) == 0
    figures = json.loads(path.read_text())["figures"]
    for way in ("together", "in_turn"):
        assert figures[f"{way}_over_apart"] == figures[f"seconds_{way}"] / figures["seconds_apart"]
    assert "together_over_apart" in capsys.readouterr().out


def test_a_process_that_fails_ends_the_other_one_which_would_wait_for_it(tmp_path, monkeypatch):
    started = []

    def start(words, *, env, cwd):
        wrong = ["--set", "optim.batch_size=0"] if started else []  # for the second process alone
        started.append(launching.fork([*words, *wrong], env=env))
        return started[-1]

    monkeypatch.setattr(seeds, "subprocess", SimpleNamespace(Popen=start))
    measure.write_images(tmp_path / "images", classes=100, train=2, test=1, size=8)
    with pytest.raises(RuntimeError, match="a process of apart ended with status 1"):
        seeds.seconds_of("apart", tmp_path / "apart-0", seeds.parse([*SMALL, "--json", "unused.json"]))
    for process in started:
        process.communicate(timeout=30)
    assert [process.returncode for process in started] == [-signal.SIGKILL, 1]


def test_the_vmapped_step_is_the_step_of_each_seed(tmp_path):
    options = seeds.parse([*SMALL, "--set", "run.compile=false", "--json", "unused.json"])
    measure.write_images(tmp_path, classes=100, train=2, test=1, size=8)
    ready = step.build(tmp_path, "float32", options)
    function = ready.experiment.recipe(1, "").step
    both = [step.phase(ready, seed, old=step.OLD, seen=step.SEEN) for seed in range(2)]
    given = [(each.train_state, each.teach(each.batch.images), each.batch) for each in both]
    classes, rate = both[0].classes, both[0].rate
    stacked = tree.map(lambda *leaves: torch.stack(leaves), *given)
    together, _ = torch.vmap(function, in_dims=(0, 0, 0, None, None))(*stacked, classes, rate)
    apart = [function(*each, classes, rate)[0] for each in given]
    assert not torch.equal(*(each.params["classifier"]["weight"] for each in apart))
    for index, expected in enumerate(apart):
        tree.map(lambda a, b, index=index: torch.testing.assert_close(a[index], b), together, expected)

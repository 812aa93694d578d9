"""TensorBoard and Weights & Biases: what they get, where it can be read again, and that they never end a run."""

import json
import math
import time
from importlib.util import find_spec

import pytest
import tiny

import train
from cil_func import config
from cil_func.errors import ConfigError
from cil_func.runs import event_log, loggers

EPOCH = {"event": "epoch", "phase": 0, "epoch": 0, "loss": 0.5, "train_top1": 90.0, "learning_rate": 0.1}


def events(phases: int, epochs: int):
    """A run's events; the loss of its n-th epoch, counted from 1, is n."""
    for phase in range(phases):
        for epoch in range(epochs):
            yield EPOCH | {"phase": phase, "epoch": epoch, "loss": float(phase * epochs + epoch + 1)}
        yield {"event": "phase_end", "phase": phase, "top1": 50.0 + phase, "gamma": None, "norms": {"after_align": [1]}}


def missing(name: str) -> bool:
    spec = find_spec(name)
    return spec is None or spec.origin is None


def test_each_kind_of_event_has_its_group_and_only_finite_numbers():
    assert loggers.values_of(EPOCH) == {"train/loss": 0.5, "train/train_top1": 90.0, "train/learning_rate": 0.1}
    assert loggers.values_of(EPOCH | {"stage": "bias", "loss": math.nan}).keys() == {
        "train-bias/train_top1", "train-bias/learning_rate",
    }  # fmt: skip
    assert loggers.values_of({"event": "evaluation", "epoch": 3, "logits_top1": 70.0}) == {"test/logits_top1": 70.0}
    end = {"event": "phase_end", "phase": 1, "top1": 80.0, "gamma": None, "per_phase_top1": [80.0], "seconds": {}}
    assert loggers.values_of(end) == {"phase/top1": 80.0}
    assert loggers.values_of({"event": "run_end", "last_accuracy": 80.0, "forgetting": None}) == {
        "run/last_accuracy": 80.0
    }
    assert loggers.values_of({"event": "warning", "message": "x"}) == {}


@pytest.mark.parametrize("name", loggers.KINDS)
@pytest.mark.parametrize("spec", [None, type("Folder", (), {"origin": None})])
def test_a_missing_package_is_one_line_before_anything_is_loaded(monkeypatch, capsys, tmp_path, name, spec):
    """A folder of the package's name, as W&B leaves one in the current directory, is no package."""
    monkeypatch.setattr(loggers, "find_spec", lambda package: spec)
    with pytest.raises(ConfigError, match=f'"{name}" needs the package {name}, .*; pip install {name}'):
        loggers.check(config.load("digits", [f'run.loggers=["{name}"]']))
    loggers.check(config.load("digits"))
    flags = tiny.flags(f'run.loggers=["{name}"]', "data.path=/nowhere")
    assert train.main([*flags, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"pip install {name}" in error


class Fake:
    """A logger that takes `writes` events and then fails."""

    def __init__(self, writes: float = math.inf):
        self.left, self.seen, self.closed = writes, [], 0

    def __call__(self, opened: loggers.Opened) -> "Fake":
        self.opened = opened
        return self

    def write(self, values, epochs):
        if not self.left:
            raise ConnectionError("no\nnetwork")
        self.left -= 1
        self.seen.append((epochs, values))

    def close(self):
        self.closed += 1


def test_a_run_goes_on_without_a_logger_that_fails_and_says_so_once(tmp_path, monkeypatch, capsys):
    tiny.shallow(monkeypatch)
    good, bad = Fake(), Fake(1)
    monkeypatch.setattr(loggers, "check", lambda config: None)
    fakes = {"tensorboard": loggers.Kind("tensorboard", good), "wandb": loggers.Kind("wandb", bad)}
    monkeypatch.setattr(loggers, "KINDS", fakes)
    flags = tiny.flags("data.increment=5", "optim.epochs=2", 'run.loggers=["wandb", "tensorboard"]', "memory.size=10")
    assert train.main([*flags, "--out", str(tmp_path)]) == 0
    kinds = [(epochs, {name.partition("/")[0] for name in values}) for epochs, values in good.seen]
    assert kinds == [(1, {"train"}), (2, {"train"}), (2, {"phase"}), (3, {"train"}), (4, {"train"}), (4, {"phase"}),
                     (4, {"run"})]  # fmt: skip
    assert (len(bad.seen), good.closed, bad.closed) == (1, 1, 0)
    assert good.opened.config["method"]["name"] == "wa" and good.opened.epochs == 0
    logged = [event["message"] for event in event_log.read(tmp_path / "metrics.jsonl") if event["event"] == "warning"]
    assert logged == [r"run.loggers: wandb gets no more of this run (ConnectionError: no\nnetwork)"]
    assert capsys.readouterr().out.count("wandb gets no more") == 1


def test_a_logger_that_cannot_be_opened_or_closed_is_a_warning(tmp_path, monkeypatch):
    def refuse(opened):
        raise PermissionError("no key")

    monkeypatch.setattr(loggers, "KINDS", {"wandb": loggers.Kind("wandb", refuse)})
    made = loggers.Loggers()
    [problem] = made.open(["wandb"], tmp_path, {})
    assert "wandb gets no more of this run (PermissionError: no key)" in problem
    assert made(EPOCH) == [] and made.close() == []
    fake = Fake()
    fake.close = lambda: 1 / 0
    monkeypatch.setattr(loggers, "KINDS", {"wandb": loggers.Kind("wandb", fake)})
    assert made.open(["wandb"], tmp_path, {}) == []
    assert "ZeroDivisionError" in made.close()[0] and made.close() == []


def test_a_log_that_cannot_be_read_is_a_warning_that_names_the_line(tmp_path, monkeypatch):
    fake = Fake()
    monkeypatch.setattr(loggers, "KINDS", {"wandb": loggers.Kind("wandb", fake)})
    (tmp_path / "metrics.jsonl").write_text(f'{json.dumps(EPOCH)}\nbroken\n{json.dumps(EPOCH)}\n')
    made = loggers.Loggers()
    [problem] = made.open(["wandb"], tmp_path, {})
    assert "wandb gets no more of this run (ValueError" in problem and "line 2" in problem and "delete that" in problem
    assert made(EPOCH) == [] and fake.seen == []


def in_two_parts(directory, name):
    """Logs a run of 2 phases of 2 epochs that is killed after its third epoch and goes on from its second."""
    directory.mkdir()
    all_events = list(events(2, 2))
    parts = [all_events[:4], all_events[3:]]
    for number, part in enumerate(parts):
        made = loggers.Loggers()
        if number:
            lines = [json.dumps(event) for event in all_events[:3]]  # what the checkpoint's log had
            (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        assert made.open([name], directory, {"optim": {"epochs": 2}, "data": {"mean": [0.5]}}) == []
        assert [problem for event in part for problem in made(event)] == [] and made.close() == []


@pytest.mark.skipif(missing("tensorboard"), reason="the package tensorboard is not installed")
def test_tensorboard_reads_one_curve_of_a_run_that_went_on(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    in_two_parts(tmp_path / "run", "tensorboard")
    found = EventAccumulator(str(tmp_path / "run/tensorboard"))
    found.Reload()
    assert [(each.step, each.value) for each in found.Scalars("train/loss")] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [(each.step, each.value) for each in found.Scalars("phase/top1")] == [(2, 50), (4, 51)]


@pytest.mark.skipif(missing("wandb"), reason="the package wandb is not installed")
def test_wandb_writes_offline_and_a_run_that_went_on_has_one_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    in_two_parts(tmp_path / "run", "wandb")
    known = (tmp_path / "run/wandb/id.txt").read_text()
    first, second = sorted((tmp_path / "run/wandb").glob("offline-run-*"))
    assert first.name.endswith(known) and second.name.endswith(known)
    paths, expected = [folder / f"run-{known}.wandb" for folder in (first, second)], [[1, 2, 3], [3, 4]]
    deadline = time.monotonic() + 60
    while list(map(losses_in, paths)) != expected and time.monotonic() < deadline:
        time.sleep(0.2)  # W&B writes in a process of its own, which on a busy machine is behind
    assert list(map(losses_in, paths)) == expected


def losses_in(path) -> list[float]:
    """Returns the losses in the file that W&B writes offline, in order.

    The file has 7 bytes of its own and then records as in LevelDB's log: 4 bytes of checksum, 2 of length, 1 of type.
    """
    from wandb.proto import wandb_internal_pb2

    data, at, found = path.read_bytes(), 7, []
    assert data.startswith(b":W&B") and len(data) < 32_768, "a block, so no record is split"
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 6], "little")
        if at + 7 + size > len(data):
            break  # still being written
        record = wandb_internal_pb2.Record.FromString(data[at + 7 : at + 7 + size])
        at += 7 + size
        for item in record.history.item:
            if (item.key or "/".join(item.nested_key)) == "train/loss":
                found.append(json.loads(item.value_json))
    return found

"""The benchmark of whole runs with small sizes and without compilation: its parts, figures and failures."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import run

SMALL = (
    "--classes", "6", "--train-images", "16", "--test-images", "4", "--image-size", "8", "--workers", "1",
    *(
        flag
        for override in (
            "data.initial_increment=3", "data.increment=3", "optim.batch_size=16", "model.backbone=resnet20",
            "memory.size=30", "run.compile=false", "augment.crop_padding=1", "optim.learning_rate=0.05",
            "run.device=cpu",
        )
        for flag in ("--set", override)
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def of_part(part):
    seconds = {f"seconds_{section}_{part}" for section in ("start", "data", "train", "select", "evaluate")}
    accuracies = {f"{key}_phase_{phase}_{part}" for key in ("top1", "nme_top1") for phase in (0, 1)}
    whole = {f"{key}_{part}" for key in ("seconds", "average", "last", "peak_mib", "peak_child_mib")}
    return seconds | accuracies | whole | (set() if part == "conventional" else {f"seconds_compile_{part}"})


@pytest.fixture
def sides_here(monkeypatch):
    """Lets each side run in this process, which has all imports."""

    def start(command, **settings):
        assert command[1:3] == ["-m", "benchmarks.run"] and (settings["cwd"] / "benchmarks").is_dir()
        return SimpleNamespace(returncode=run.main(command[3:]))

    monkeypatch.setattr(run, "subprocess", SimpleNamespace(run=start))


def test_figures_of_both_sides(tmp_path, capfd, sides_here):
    path = tmp_path / "run.json"
    assert run.main([*SMALL, "--epochs", "2", "--parts", "conventional,cold", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    figures = written["figures"]
    assert written["name"] == "run-generated-epochs2"
    expected = {"speedup_cold"} | of_part("conventional") | of_part("cold")
    assert {name for name in figures if "gpu" not in name} == expected
    assert figures["speedup_cold"] == pytest.approx(figures["seconds_conventional"] / figures["seconds_cold"])
    for part in ("conventional", "cold"):
        sections = sum(figures[f"seconds_{section}_{part}"] for section in run.SECTIONS)
        assert 0 < sections < figures[f"seconds_{part}"]
        assert figures[f"average_{part}"] == pytest.approx(
            (figures[f"top1_phase_0_{part}"] + figures[f"top1_phase_1_{part}"]) / 2
        )
        assert figures[f"last_{part}"] == figures[f"top1_phase_1_{part}"]
    conditions = written["conditions"]
    assert conditions["threads"] == 1 and conditions["config"]["optim"]["epochs"] == 2
    assert conditions["config"]["data"]["path"] == "" and conditions["generated_images"] is True
    lines = capfd.readouterr().out.splitlines()
    told = [line.partition(":")[0] for line in lines if " phase " in line and line.count(":") == 1]
    assert told[:4] == ["conventional phase 0", "conventional phase 1", "cold phase 0", "cold phase 1"]


def test_a_side_that_fails_is_reported(tmp_path, capfd):
    path = tmp_path / "run.json"
    arguments = [*SMALL, "--epochs", "1", "--set", "memory.size=3", "--parts", "cold", "--json", str(path)]
    assert run.main(arguments) == 1
    captured = capfd.readouterr().err
    assert "memory.size" in captured and "the cold side ended with status 1" in captured
    assert not path.exists()


def test_recipe_is_one_for_both(tmp_path):
    """50 classes and then 10 a phase, the survey's loss, batch size 128, and what --set overrides."""
    options = run.parse(["--epochs", "3", "--data", str(tmp_path), "--set", "optim.learning_rate=0.05", "--json", "x"])
    settings = run.load(options, tmp_path, epochs=options.epochs)
    assert (settings.data.initial_increment, settings.data.increment, settings.data.path) == (50, 10, str(tmp_path))
    assert (settings.method.name, settings.method.kd_combination, settings.method.kd_weight) == ("wa", "sum", 2)
    for phase in (0, 1):
        optim = settings.optim_of_phase(phase)
        assert (optim.epochs, optim.batch_size, optim.norm_batch, optim.learning_rate) == (3, 128, 0, 0.05)


def spawned(monkeypatch, tmp_path, *arguments):
    """Returns (part, epochs, cache folder) of each process that a command starts."""
    calls = []

    def spawn(part, recipe, options, folder, cache):
        calls.append((part, recipe.optim.epochs, cache))
        (cache / "graph").touch()
        return {}

    monkeypatch.setattr(run, "spawn", spawn)
    options = run.parse(["--epochs", "5", "--data", str(tmp_path), "--json", "x", *arguments])
    run.sides(options, run.load(options, tmp_path, epochs=5), tmp_path)
    return calls


def test_warm_without_cold_fills_the_cache_first(monkeypatch, tmp_path):
    cache = tmp_path / "kept"
    flags = ("--parts", "conventional,warm", "--cache", str(cache))
    expected = [("conventional", 5, cache), ("warm", 5, cache)]
    assert spawned(monkeypatch, tmp_path, *flags) == [("warm", 1, cache), *expected]
    assert spawned(monkeypatch, tmp_path, *flags) == expected  # it is full now


def test_warm_has_what_cold_compiled(monkeypatch, tmp_path):
    calls = spawned(monkeypatch, tmp_path, "--parts", "warm,cold")
    cache = tmp_path / "inductor"
    assert calls == [("cold", 5, cache), ("warm", 5, cache)]


@pytest.mark.parametrize("arguments", [["--parts", "conventional,hot"], ["--parts", "cold", "--cache", "."]])
def test_wrong_parts_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        run.parse(arguments)
    says = "--parts 'hot'; of" if "conventional,hot" in arguments else "--cache . is not empty"
    assert ended.value.code == 2 and says in capsys.readouterr().err

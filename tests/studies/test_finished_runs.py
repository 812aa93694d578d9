"""Finished runs that a sweep or a search takes as they are: on the same images, of the same configuration."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny
from PIL import Image

from cil_func import config
from cil_func.config import names
from cil_func.data import sources
from cil_func.runs import load_data
from cil_func.studies import published_rows, reproduce, sweep, sweep_jobs


@pytest.fixture
def images(tmp_path):
    """A folder of images of its own, in which a test may change some."""
    return shutil.copytree(tiny.images(4, 6), tmp_path / "images")


def change(folder):
    file = next(folder.glob("train/*/*"))
    Image.new("RGB", (8, 8), "red").save(file)
    os.utime(file, (1, 1))


def finished(directory, settings, made=None, **more):
    """Writes a finished run as it is on the images that there are now. made: its configuration, not by settings."""
    made = made or config.load("digits", ["run.device=cpu", *settings])
    directory.mkdir(parents=True)
    (directory / "config.toml").write_text(config.to_toml(made))
    (directory / "status.json").write_text('{"state": "finished"}')
    results = {"average_incremental_accuracy": 90.0, "last_accuracy": 80.0, "forgetting": None}
    results |= {"config": config.to_dict(made), "data_fingerprint": load_data.fingerprint_of(made)}
    results |= {"data_stamp": sources.stamp(made.data.name, made.data.path), **more}
    (directory / "results.json").write_text(json.dumps(results))


def of_files(config, begun=None):
    return repr(sorted(file.read_bytes() for file in Path(config.data.path).glob("*/*/*")))


def flags(settings):
    return [word for each in settings for word in ("--set", each)]


def test_a_sweep_takes_no_run_of_other_images(tmp_path, images, capsys, monkeypatch):
    """Found in another folder; the same images may lie anywhere."""
    started = []
    monkeypatch.setattr(sweep_jobs, "train", lambda jobs, **more: started.extend(jobs) or {})
    directory, settings = tmp_path / "sweep", tiny.settings(folder=images)
    finished(directory / "seed-0", [*settings, "run.seed=0"])
    other = tiny.settings(folder=tiny.images(4, 5))
    assert sweep.main([str(directory), "--seeds", "0,1", *flags(other)]) == 2
    said = capsys.readouterr().err
    assert "seed-0 holds a run of other images: data.path is" in said and said.endswith("or another DIR\n")
    assert not started and not (directory / "table.md").exists()
    assert sweep.main([str(directory), "--seeds", "0,1", *flags(tiny.settings(folder=tiny.images(4, 6)))]) == 0
    assert [job.name for job in started] == ["seed-1"] and not capsys.readouterr().err


def test_a_sweep_says_which_runs_had_other_images_at_the_same_place(tmp_path, images, capsys, monkeypatch):
    """They are read once for all runs that had the same."""
    read = []
    whole = load_data.fingerprint_of
    monkeypatch.setattr(sweep_jobs, "train", lambda jobs, **more: {})
    directory, settings = tmp_path / "sweep", tiny.settings(folder=images)
    for seed in range(2):
        finished(directory / f"seed-{seed}", [*settings, f"run.seed={seed}"])
    change(images)
    finished(directory / "seed-2", [*settings, "run.seed=2"])
    monkeypatch.setattr(load_data, "fingerprint_of", lambda *given: read.append(given) or whole(*given))
    assert sweep.main([str(directory), "--seeds", "0,1,2", *flags(settings)]) == 0
    assert capsys.readouterr().err == (
        f"sweep: warning: seed-0, seed-1: the images in {images} have changed since this run; another DIR trains on "
        "them as they are\n"
    )
    assert len(read) == 1


def test_a_sweep_says_which_runs_an_own_file_trained_before_it_changed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep_jobs, "train", lambda jobs, **more: {})
    file, settings = tmp_path / "own.py", tiny.settings()
    file.write_text("from cil_func.methods.wa import make\n")
    for seed in range(2):
        own = {str(file): names.digest(str(file))}
        finished(tmp_path / f"seed-{seed}", [*settings, f"method.name={file}:make", f"run.seed={seed}"], own_code=own)
        file.write_text("from cil_func.methods.replay import make\n")
    names.forget()
    assert sweep.main([str(tmp_path), "--seeds", "0,1", *flags([*settings, f"method.name={file}:make"])]) == 0
    line = f"{file} has changed since this run; another DIR trains by it as it is now"
    assert capsys.readouterr().err == f"sweep: warning: seed-0: {line}\n"
    names.forget()


@pytest.mark.parametrize("recorded", [True, False])
def test_a_search_compares_no_trials_on_other_images(recorded, tmp_path, images, capsys, monkeypatch):
    """Whether the trial's result is in the journal or not."""
    pytest.importorskip("optuna")
    directory, settings = tmp_path / "search", tiny.settings(folder=images)

    def train(jobs, **more):
        for job in jobs:
            given = [job.arguments[at + 1] for at, word in enumerate(job.arguments) if word == "--set"]
            finished(job.directory, given)
        if not recorded:
            raise sweep_jobs.Interrupted(15)
        return {job.name: 0 for job in jobs}

    monkeypatch.setattr(sweep_jobs, "train", train)
    search = ["--search", "optim.learning_rate=log 0.01..0.3", "--trials", "1", "--set", "data.validation=0.2"]
    assert sweep.main([str(directory), *search, *flags(settings)]) == (0 if recorded else 143)
    capsys.readouterr()
    assert sweep.main([str(directory), *search, *flags(tiny.settings(folder=tiny.images(4, 5)))]) == 2
    assert "trial-000 holds a run of other images" in capsys.readouterr().err
    change(images)
    sweep.main([str(directory), *search, *flags(settings)])
    said = capsys.readouterr().out
    assert f"warning: trial-000: the images in {images} have changed" in said
    assert recorded is ("warning: winner-000: the images" in said)


def test_reproducing_a_row_takes_no_run_of_other_images(tmp_path, images, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(sweep_jobs, "train", lambda jobs, **more: started.extend(jobs) or {})
    monkeypatch.setattr(load_data, "fingerprint_of", of_files)  # which takes four classes
    row = published_rows.find("wa-b50-10")
    here = ["data.name=image_folder", f"data.path={images}", "run.device=cpu"]
    made = published_rows.config_of(row, [*here, "run.seed=0"])
    finished(tmp_path / "runs" / f"{row.name}_seed-0", [], made=made)
    words = [row.name, "--runs", str(tmp_path / "runs"), "--seeds", "0,1", *flags(here)]
    assert reproduce.main([*words, "--set", f"data.path={tiny.images(4, 5)}"]) == 2
    said = capsys.readouterr().err
    assert "holds a run of other images: data.path is" in said and said.endswith("or another --runs\n")
    assert not started
    change(images)
    reproduce.main(words)
    assert "reproduce: warning: wa-b50-10_seed-0: the images in" in capsys.readouterr().err
    assert [job.directory.name for job in started] == ["wa-b50-10_seed-1"]

"""The benchmark of augmentation with tiny sizes: it runs and writes its figures. Times are not judged."""

import json

import torch

from benchmarks import augment


def test_it_writes_its_figures_and_conditions(tmp_path, capsys):
    threads = torch.get_num_threads()
    path = tmp_path / "augment.json"
    assert augment.main(["--images", "20", "--repeats", "1", "--json", str(path)]) == 0
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["name"] == "augment"
    figures, conditions = written["figures"], written["conditions"]
    assert {"speedup_per_core", "pil_images_per_second", "device_images_per_second"} <= set(figures)
    assert {"speedup_per_core_pipeline", "device_pipeline_images_per_second"} <= set(figures)
    assert {f"{name}_images_per_second" for name in augment.FAMILIES} <= set(figures)
    assert all(value > 0 for value in figures.values())
    assert conditions["threads"] == 1 and conditions["device"] == "cpu" and conditions["policy"] == augment.POLICY
    assert torch.get_num_threads() == threads
    assert "speedup_per_core" in capsys.readouterr().out

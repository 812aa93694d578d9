"""The benchmark of streaming: its figures, and that both sides load all images."""

import json

import pytest
import tiny

from benchmarks import imagenet_like, streaming


def test_figures(tmp_path, capsys):
    path = tmp_path / "streaming.json"
    assert streaming.main([str(tiny.images(4, 12)), "--quick", "--workers", "1", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    rates = {f"images_per_second_{name}" for name in ("plain", "ours", "randaugment_device", "randaugment_pil")}
    assert found["figures"].keys() == rates | {"speedup_loading", "memory_files", "memory_mb_100"}  # it is one chunk
    assert min(found["figures"].values()) > 0 and found["figures"]["memory_files"] == 48
    assert "speedup_loading" in capsys.readouterr().out


def test_lost_images_are_no_speed(monkeypatch):
    monkeypatch.setattr(streaming, "DataLoader", lambda *arguments, **options: [])
    with pytest.raises(RuntimeError, match="0 of 3 images were loaded"):
        streaming.plain(["a", "b", "c"], 8, 0)


def test_a_folder_like_imagenets(tmp_path):
    from PIL import Image

    count = imagenet_like.write(tiny.images(4, 12), tmp_path / "a", train=3, val=1, sides=(10, 30))
    files = sorted((tmp_path / "a").glob("*/*/*.JPEG"))
    assert count == len(files) == 16 and {file.parts[-3] for file in files} == {"train", "val"}
    sizes = [Image.open(file).size for file in files]
    assert len(set(sizes)) > 8 and min(map(min, sizes)) >= 10 and max(map(max, sizes)) <= 30
    imagenet_like.write(tiny.images(4, 12), tmp_path / "b", train=3, val=1, sides=(10, 30))
    assert all((tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes() == file.read_bytes() for file in files)

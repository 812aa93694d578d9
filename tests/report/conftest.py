"""A small run as events and results, with simple numbers: phase p has a top-1 of 90 - 10 p, or 5."""

import pytest


@pytest.fixture
def make_run():
    """A function (num_phases, epochs, aligned) -> (events, results) of a run with 2 classes a phase."""
    return _make_run


def _make_run(num_phases=3, epochs=2, aligned=True):
    images = [200] * num_phases
    start = {"event": "run_start", "method": "wa" if aligned else "finetune", "data": "digits",
             "backbone": "resnet20", "device": "cpu", "precision": "float32", "num_classes": 2 * num_phases,
             "phases": [2] * num_phases, "epochs": [epochs] * num_phases, "train_images": images,
             "directory": "runs/digits", "something_new": 1}  # fmt: skip
    events, rows = [start], []
    for phase in range(num_phases):
        seen = 2 * (phase + 1)
        events.append({"event": "phase_start", "phase": phase, "num_new": 2, "classes_seen": seen,
                       "train_images": 200, "epochs": epochs})  # fmt: skip
        for epoch in range(epochs):
            events.append({"event": "progress", "phase": phase, "epoch": epoch, "images": 128})
            events.append({"event": "progress", "phase": phase, "epoch": epoch, "images": 72})
            events.append({"event": "epoch", "phase": phase, "epoch": epoch, "epochs": epochs,
                           "loss": 1.5 - epoch / epochs, "train_top1": 45.0, "learning_rate": 0.1,
                           "images": 200, "images_per_second": 100.0, "seconds": 2.0})  # fmt: skip
        rows.append(_row(phase, seen, aligned and phase > 0))
        norms = {"before_align": [1.0] * (seen - 2) + [2.0] * 2, "after_align": [1.0] * seen}
        by_class = {"class_top1": [80.0] * (seen - 2) + ([100.0, 90.0] if phase else [95.0, 95.0])}
        if phase == num_phases - 1:  # every old class is taken for the first new one in 20 % of 10 images
            old = [pair for c in range(seen - 2) for pair in ([c, c, 8], [c, seen - 2, 2])]
            by_class["confusion"] = [*old, [seen - 2, seen - 2, 10], [seen - 1, seen - 2, 1], [seen - 1, seen - 1, 9]]
        events.append({"event": "phase_end", **rows[-1], "norms": norms, **by_class})
    accuracies = [row["top1"] for row in rows]
    figures = {"average_incremental_accuracy": sum(accuracies) / num_phases, "last_accuracy": accuracies[-1],
               "forgetting": 12.5 if num_phases > 1 else None}  # fmt: skip
    events.append({"event": "run_end", **figures, "seconds": 75.0})
    results = {"method": start["method"], "class_order": list(range(2 * num_phases)),
               "class_names": [f"c{index}" for index in range(2 * num_phases)], "seed": 7,
               "num_classes": 2 * num_phases, "phases": rows,
               "config": {"data": {"name": "digits"}, "model": {"backbone": "resnet20"}},
               "accuracy_matrix": [row["per_phase_top1"] for row in rows], **figures,
               "environment": {"torch": "2.15.0", "device": "cpu"}}  # fmt: skip
    return events, results


def _row(phase, seen, aligned):
    return {"phase": phase, "classes_seen": seen, "num_new": 2,
            "top1": max(5.0, 90.0 - 10 * phase), "balanced_top1": 77.0, "top5": 100.0,
            "nme_top1": 88.0 if aligned else None,
            "per_phase_top1": [80.0] * phase + [95.0],
            "old_top1": 80.0 if phase else None, "new_top1": 95.0, "gamma": 0.625 if aligned else None,
            "top1_before_align": 60.0 if aligned else None, "new_share": 0.51,
            "new_share_before_align": 0.9 if aligned else None, "fair_share": 0.4, "memory_size": 100,
            "calibration": {"ece": 0.25, "temperature": 1.5, "ece_calibrated": 0.05,
                            "bins": [[0, 0.0, 0.0], [10, 0.8, 0.5], [30, 0.95, 0.7]],
                            "bins_calibrated": [[40, 0.7, 0.65], [0, 0.0, 0.0], [0, 0.0, 0.0]]},
            "seconds": {"train": 4.0, "select": 0.25, "evaluate": 0.5}}  # fmt: skip

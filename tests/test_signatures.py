"""The pure functions that others import: the names of their arguments are part of what is promised."""

import inspect

import pytest
import torch

from cil_func import classifier, herding, losses, metrics, model, rng, tree

# positional arguments first, then "*" and those that are given by name alone; further ones have defaults
PROMISED = {
    model.init: "key backbone num_classes",
    model.apply: "params state images * train",
    rng.fold_in: "key *data",
    rng.generator: "key device",
    classifier.init: "key feature_dim num_classes",
    classifier.apply: "params features",
    classifier.expand: "params key num_new",
    classifier.norms: "params",
    classifier.align: "params num_new",
    losses.cross_entropy: "logits targets * label_smoothing",
    losses.distillation: "student_logits teacher_logits * temperature",
    herding.herd: "features count * normalize",
    metrics.average_incremental_accuracy: "top1_per_phase",
    metrics.forgetting: "accuracy_matrix",
}


@pytest.mark.parametrize("function", PROMISED, ids=lambda function: f"{function.__module__}.{function.__name__}")
def test_arguments_have_the_promised_names(function):
    positional, _, by_name = PROMISED[function].partition(" * ")
    parameters = list(inspect.signature(function).parameters.values())
    shown = {inspect.Parameter.VAR_POSITIONAL: "*"}
    first = [shown.get(each.kind, "") + each.name for each in parameters if each.kind != each.KEYWORD_ONLY]
    named = [each for each in parameters if each.kind == each.KEYWORD_ONLY]
    assert first == positional.split()
    assert [each.name for each in named[: len(by_name.split())]] == by_name.split()
    assert all(each.default is not each.empty for each in named[len(by_name.split()) :])


def test_a_model_is_made_by_name():
    given = model.init(key=3, backbone="resnet8", num_classes=2)
    for ours, same in zip(given, model.init(3, "resnet8", 2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tree.leaves(ours), tree.leaves(same), strict=True))

"""A saved model is the model."""

import torch

from cil_func import checkpoint, model, tree


def test_a_model_comes_back_bit_for_bit(tmp_path):
    params, state = model.init(0, "resnet110", 3)  # more than ten blocks a stage: the file sorts its names
    checkpoint.save_model(tmp_path, params, state, {"classes": ["a", "b", "ü"]})
    loaded_params, loaded_state, description = checkpoint.load_model(tmp_path)
    assert description["classes"] == ["a", "b", "ü"]
    for ours, theirs in ((params, loaded_params), (state, loaded_state)):
        expected, found = tree.to_paths(ours), tree.to_paths(theirs)
        assert expected.keys() == found.keys()
        assert all(torch.equal(leaf, found[path]) for path, leaf in expected.items())
    images = torch.randn(2, 3, 8, 8)
    logits = model.apply(params, state, images, train=False)[0]
    assert torch.equal(logits, model.apply(loaded_params, loaded_state, images, train=False)[0])


def test_views_are_saved_as_what_they_show(tmp_path):
    """The classifier cut from its full width shares storage with it, which safetensors refuses as it is."""
    params, state = model.init(0, "resnet20", 5)
    head = {name: leaf[:2] for name, leaf in params["classifier"].items()}
    checkpoint.save_model(tmp_path, {**params, "classifier": head}, state, {})
    assert checkpoint.load_model(tmp_path)[0]["classifier"]["weight"].shape == (2, 64)

import math

import pytest
import torch
from torch.func import grad, vmap

from cil_func import classifier, losses

F64 = torch.float64


def params_of(weight, bias=None, dtype=F64):
    weight = torch.tensor(weight, dtype=dtype)
    return {"weight": weight, "bias": torch.zeros(len(weight), dtype=dtype) if bias is None else bias}


def random_params(num_classes=5, feature_dim=4, dtype=F64):
    draws = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(num_classes, feature_dim, dtype=dtype, generator=draws),
        "bias": torch.randn(num_classes, dtype=dtype, generator=draws),
    }


# init, apply


def test_init_draws_as_linear_does():
    torch.manual_seed(11)  # the same generator, seeded the same, must give the oracle's very numbers
    linear = torch.nn.Linear(7, 5)
    params = classifier.init(11, 7, 5)
    torch.testing.assert_close(params["weight"], linear.weight.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(params["bias"], linear.bias.detach(), rtol=1e-6, atol=0)


def test_init_fills_the_bounds_and_depends_on_the_key():
    params = classifier.init(1, 16, 500)
    for leaf in params.values():
        assert leaf.dtype == torch.float32
        # U(-1/4, 1/4), as 1 / sqrt(16) = 1/4; 500 draws come within 1 % of the ends, mean within 5 sigma
        assert 0.2475 < leaf.max() <= 0.25 and -0.25 <= leaf.min() < -0.2475
        assert abs(leaf.mean()) < 5 * 0.25 / math.sqrt(3 * leaf.numel())
    assert torch.equal(params["weight"], classifier.init(1, 16, 500)["weight"])
    assert not torch.equal(params["weight"], classifier.init(2, 16, 500)["weight"])
    assert not torch.equal(params["weight"][:, 0], params["bias"])


def test_init_does_not_depend_on_the_default_dtype():
    wanted = classifier.init(3, 4, 2)
    torch.set_default_dtype(F64)
    try:
        got = classifier.init(3, 4, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert got["weight"].dtype == torch.float32 and torch.equal(got["weight"], wanted["weight"])


def test_apply_is_linear():
    linear = torch.nn.Linear(4, 5)
    params = {"weight": linear.weight.detach(), "bias": linear.bias.detach()}
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(classifier.apply(params, features), linear(features))
    assert classifier.apply(params, features[:0]).shape == (0, 5)


# expand


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_expand_keeps_old_rows_and_draws_new_ones_as_linear_does(dtype):
    params = random_params(dtype=dtype)
    before = {name: leaf.clone() for name, leaf in params.items()}
    grown = classifier.expand(params, 11, 3)
    torch.manual_seed(11)
    linear = torch.nn.Linear(4, 3).to(dtype)
    for name, leaf in grown.items():
        assert leaf.dtype == dtype and len(leaf) == 8
        assert torch.equal(leaf[:5], before[name])
        torch.testing.assert_close(leaf[5:], getattr(linear, name).detach(), rtol=1e-6, atol=0)
        leaf.zero_()  # no storage is shared
        assert torch.equal(params[name], before[name])


def test_expand_goes_to_the_device_of_the_params():
    meta = {name: leaf.to("meta") for name, leaf in random_params().items()}
    assert classifier.expand(meta, 1, 2)["weight"].device.type == "meta"


# norms, align


def test_norms_are_lengths_of_rows():
    params = params_of([[3.0, 4.0], [0.0, 0.0], [-5.0, 12.0]], bias=torch.full((3,), 9.0, dtype=F64))
    assert classifier.norms(params).tolist() == [5.0, 0.0, 13.0]


def test_align_by_hand():
    bias = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
    params = params_of([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [0.0, 2.0]], bias=bias)
    aligned, gamma = classifier.align(params, 2)
    # norms 5, 1 | 10, 2: means 3 | 6: gamma 0.5
    assert gamma.ndim == 0 and gamma.item() == 0.5
    assert aligned["weight"].tolist() == [[3.0, 4.0], [0.0, 1.0], [3.0, 4.0], [0.0, 1.0]]
    assert aligned["bias"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_align_is_by_mean_norms_and_neither_by_sums_nor_by_the_norm_of_the_block():
    # norms 3 | 2, 10: means 3 | 6. Sums would give 3/12, root mean squares 3/sqrt(52)
    _, gamma = classifier.align(params_of([[3.0, 0.0], [2.0, 0.0], [0.0, 10.0]]), 2)
    assert gamma.item() == 0.5


@pytest.mark.parametrize("num_new", [1, 2, 4])
def test_align_makes_mean_norms_equal_and_touches_nothing_else(num_new):
    params = random_params()
    before = {name: leaf.clone() for name, leaf in params.items()}
    aligned, gamma = classifier.align(params, num_new)
    lengths = aligned["weight"].square().sum(1).sqrt()
    torch.testing.assert_close(lengths[:-num_new].mean(), lengths[-num_new:].mean())
    assert torch.equal(aligned["weight"][:-num_new], before["weight"][:-num_new])
    assert torch.equal(aligned["bias"], before["bias"])
    torch.testing.assert_close(aligned["weight"][-num_new:], gamma * before["weight"][-num_new:])
    for name, leaf in aligned.items():
        leaf.zero_()
        assert torch.equal(params[name], before[name])
    _, one = classifier.align(classifier.align(params, num_new)[0], num_new)  # nothing is left to align
    torch.testing.assert_close(one, torch.ones((), dtype=F64))


@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float16, 1e-7), (torch.bfloat16, 1e-3)])
def test_align_of_half_precision_has_room_for_gamma(dtype, tiny):
    """300 / 1e-7 is above the largest number of float16, the aligned row is not."""
    params = {"weight": torch.tensor([[300.0, 0.0], [tiny, 0.0]], dtype=dtype), "bias": torch.zeros(2, dtype=dtype)}
    aligned, gamma = classifier.align(params, 1)
    assert aligned["weight"].dtype == dtype and aligned["weight"].tolist() == [[300.0, 0.0], [300.0, 0.0]]
    assert gamma.dtype == torch.float32 and gamma.item() == pytest.approx(300 / params["weight"][1, 0].item())


def test_align_stays_finite_with_zero_rows():
    ones, zeros = [[1.0, 0.0]], [[0.0, 0.0]]
    for weight, expected in [(ones + zeros, 1.0), (zeros + ones, 0.0), (zeros + zeros, 1.0)]:
        aligned, gamma = classifier.align(params_of(weight), 1)
        assert gamma.item() == expected
        assert aligned["weight"].isfinite().all()
        slope = grad(lambda params: classifier.align(params, 1)[0]["weight"].sum())(params_of(weight))
        assert slope["weight"].isfinite().all(), weight


# drop


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_drop_takes_rows_and_keeps_the_bits_and_the_order_of_the_others(dtype):
    params = random_params(dtype=dtype)
    before = {name: leaf.clone() for name, leaf in params.items()}
    left = classifier.drop(params, [3, 0])
    for name, leaf in left.items():
        assert leaf.dtype == dtype and torch.equal(leaf, torch.stack([before[name][row] for row in (1, 2, 4)]))
        leaf.zero_()  # no storage is shared
        assert torch.equal(params[name], before[name])


def test_dropped_classes_leave_the_other_logits():
    weight = [[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]
    params = params_of(weight, bias=torch.tensor([0.5, 0.0, -1.0], dtype=F64))
    features = torch.tensor([[3.0, 4.0]], dtype=F64)
    # 3 + 0.5; 4; 6 + 8 - 1
    assert classifier.apply(params, features).tolist() == [[3.5, 4.0, 13.0]]
    assert classifier.apply(classifier.drop(params, [1]), features).tolist() == [[3.5, 13.0]]
    assert classifier.apply(classifier.drop(params, torch.tensor([2, 0])), features).tolist() == [[4.0]]


def test_drop_works_on_every_leaf_with_a_class_axis():
    proxies = torch.arange(12.0).reshape(3, 2, 2)  # two rows a class
    params = {"weight": proxies, "more": {"means": proxies[:, 0]}, "eta": torch.tensor(2.0)}
    left = classifier.drop(params, [1])
    assert left["weight"].tolist() == [[[0.0, 1.0], [2.0, 3.0]], [[8.0, 9.0], [10.0, 11.0]]]
    assert left["more"]["means"].tolist() == [[0.0, 1.0], [8.0, 9.0]]
    assert left["eta"].item() == 2.0 and left["eta"] is not params["eta"]


def test_dropping_the_newest_rows_undoes_expand():
    params = random_params()
    again = classifier.drop(classifier.expand(params, 11, 2), [5, 6])
    assert all(torch.equal(again[name], params[name]) for name in params)


# pad, head


def test_pad_and_head_are_inverse():
    params = random_params()
    wide = classifier.pad(params, 9)
    assert wide["weight"].shape == (9, 4) and wide["bias"].shape == (9,)
    for name, leaf in classifier.head(wide, 5).items():
        assert torch.equal(leaf, params[name]) and leaf.dtype == F64
        assert not wide[name][5:].any()
    same = classifier.pad(params, 5)
    assert torch.equal(same["weight"], params["weight"])
    same["weight"].zero_()
    assert params["weight"].any()


# errors: each names its function and what came


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: classifier.align(p, 5), r"align: 5 rows, num_new=5 leaves no old class"),
        (lambda p: classifier.align(p, 6), r"align: 5 rows, num_new=6 leaves no old class"),
        (lambda p: classifier.align(p, 0), r"align: 5 rows, num_new=0 leaves no new class"),
        (lambda p: classifier.align(p, -1), r"align: 5 rows, num_new=-1"),
        (lambda p: classifier.expand(p, 0, 0), r"expand: num_new=0"),
        (lambda p: classifier.init(0, 0, 3), r"init: feature_dim=0"),
        (lambda p: classifier.init(0, 3, 0), r"init: .*num_classes=0"),
        (lambda p: classifier.pad(p, 4), r"pad: 5 rows"),
        (lambda p: classifier.head(p, 6), r"head: num_classes=6 of 5"),
        (lambda p: classifier.head(p, 0), r"head: num_classes=0 of 5"),
        (lambda p: classifier.drop(p, []), r"drop: no row of 5; give 1 or more"),
        (lambda p: classifier.drop(p, [5]), r"drop: row 5 of 5; give indices from 0 to 4"),
        (lambda p: classifier.drop(p, [-1]), r"drop: row -1 of 5"),
        (lambda p: classifier.drop(p, [1.0]), r"drop: row 1\.0 of 5"),
        (lambda p: classifier.drop(p, torch.tensor([True, False])), r"drop: row True of 5"),
        (lambda p: classifier.drop(p, [2, 1, 2]), r"drop: row 2 comes twice"),
        (lambda p: classifier.drop(p, range(5)), r"drop: 5 of 5 rows leave no class"),
        (lambda p: classifier.drop({**p, "bias": p["bias"][1:]}, [0]), r"drop: leaves \(5, 4\), \(4,\); each needs"),
        (lambda p: classifier.drop({}, [0]), r"drop: leaves are missing"),
        (lambda p: classifier.apply(p, torch.zeros(2, 3, dtype=F64)), r"apply: features \(2, 3\)"),
        (lambda p: classifier.apply(p, torch.zeros(4, dtype=F64)), r"apply: features \(4,\).*\[None\]"),
        (lambda p: classifier.apply(p, torch.zeros(2, 2, 4, dtype=F64)), r"apply: features \(2, 2, 4\)"),
        (lambda p: classifier.norms({**p, "bias": p["bias"][1:]}), r"norms: weight \(5, 4\) and bias \(4,\)"),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_params())


# transformations


def test_grad_agrees_with_backward_of_linear():
    linear = torch.nn.Linear(4, 5).double()
    params = {name: leaf.detach().clone() for name, leaf in linear.named_parameters()}
    features = torch.randn(3, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    slopes = grad(lambda params: classifier.apply(params, features).square().sum())(params)
    linear(features).square().sum().backward()
    for name, leaf in linear.named_parameters():
        torch.testing.assert_close(slopes[name], leaf.grad)
    norm_slope = grad(lambda params: classifier.norms(params).sum())(params)["weight"]
    torch.testing.assert_close(norm_slope, params["weight"] / params["weight"].norm(dim=1, keepdim=True))


def test_vmap_over_models_is_a_loop_over_models():
    models = [random_params(), {name: 3 * leaf for name, leaf in random_params().items()}]
    models[1]["weight"][-1] *= 5
    stacked = {name: torch.stack([model[name] for model in models]) for name in models[0]}
    features = torch.randn(2, 3, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    logits = vmap(classifier.apply)(stacked, features)
    lengths = vmap(classifier.norms)(stacked)
    aligned, gammas = vmap(lambda params: classifier.align(params, 2))(stacked)
    for i, model in enumerate(models):
        torch.testing.assert_close(logits[i], classifier.apply(model, features[i]))
        torch.testing.assert_close(lengths[i], classifier.norms(model))
        one, gamma = classifier.align(model, 2)
        torch.testing.assert_close(gammas[i], gamma)
        torch.testing.assert_close(aligned["weight"][i], one["weight"])
    with pytest.raises(ValueError, match="leaves no old class"):
        vmap(lambda params: classifier.align(params, 5))(stacked)


def test_one_compiled_graph_serves_growing_phases():
    """apply, norms, align, both losses and their gradient in one graph that a new mask doesn't recompile."""
    compilations = []

    def backend(graph, example_inputs):
        compilations.append(graph)
        return graph

    def step(params, features, targets, teacher, seen, old):
        def loss(params):
            logits = classifier.apply(params, features)
            kept = losses.distillation(logits, teacher, temperature=2.0, mask=old)
            return losses.cross_entropy(logits, targets, label_smoothing=0.1, mask=seen) + kept

        aligned, gamma = classifier.align(params, 2)
        return torch.func.grad_and_value(loss)(params), classifier.norms(aligned), gamma

    params = random_params(6, 4, torch.float32)
    draws = torch.Generator().manual_seed(1)
    features, teacher = torch.randn(3, 4, generator=draws), torch.randn(3, 6, generator=draws)
    targets = torch.tensor([0, 1, 2])
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    fused = torch.compile(step, fullgraph=True, backend="aot_eager")  # by inductor: training/test_runners.py
    for num_seen, num_old in [(4, 2), (6, 4)]:
        masks = torch.arange(6) < num_seen, torch.arange(6) < num_old
        expected = step(params, features, targets, teacher, *masks)
        for candidate in (compiled, fused):
            torch.testing.assert_close(candidate(params, features, targets, teacher, *masks), expected)
    assert len(compilations) == 1

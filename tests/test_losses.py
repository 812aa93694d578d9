import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap

from cil_func import losses

F64 = torch.float64
MASK = torch.tensor([True, False, True, True, False, True])
KEPT = MASK.nonzero()[:, 0]
ROWS = torch.tensor([True, False, True, True])
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def draw(*shape, seed=0, dtype=F64):
    return 3 * torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# cross entropy


def test_cross_entropy_by_hand():
    # softmax of (ln 3, 0) is (3/4, 1/4)
    logits = torch.tensor([[LN3, 0.0], [LN3, 0.0]], dtype=F64)
    value = losses.cross_entropy(logits, torch.tensor([0, 1]))
    assert value.ndim == 0
    assert value.item() == pytest.approx((math.log(4 / 3) + LN4) / 2, rel=1e-12)
    # smoothing 0.2 over 2 classes: q = (0.9, 0.1) for target 0
    smoothed = losses.cross_entropy(logits[:1], torch.tensor([0]), label_smoothing=0.2)
    assert smoothed.item() == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * LN4, rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 0.99), st.integers(0, 99))
def test_cross_entropy_and_gradient_equal_torchs(rows, classes, smoothing, seed):
    logits = draw(rows, classes, seed=seed)
    targets = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))
    ours = grad(lambda logits: losses.cross_entropy(logits, targets, label_smoothing=smoothing))
    theirs = grad(lambda logits: F.cross_entropy(logits, targets, label_smoothing=smoothing))
    torch.testing.assert_close(
        losses.cross_entropy(logits, targets, label_smoothing=smoothing),
        F.cross_entropy(logits, targets, label_smoothing=smoothing),
    )
    torch.testing.assert_close(ours(logits), theirs(logits))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_targets_may_be_any_integers(dtype):
    logits, targets = draw(2, 3), torch.tensor([2, 0])
    assert losses.cross_entropy(logits, targets.to(dtype)) == losses.cross_entropy(logits, targets)


def test_extreme_logits_stay_finite():
    # the loss of a logit 1e4 below the best is 1e4
    value = losses.cross_entropy(torch.tensor([[1e4, 0.0]]), torch.tensor([1]))
    assert value.item() == 1e4


# distillation


def test_distillation_by_hand():
    # T = 2: teacher (2 ln 3, 0) / 2 -> (3/4, 1/4); student (0, 0) -> (1/2, 1/2)
    teacher = torch.tensor([[2 * LN3, 0.0]], dtype=F64)
    student = torch.zeros(1, 2, dtype=F64)
    assert losses.distillation(student, teacher, temperature=2.0).item() == pytest.approx(LN2, rel=1e-12)
    # the other way round it is not the same: 1/2 (ln 4/3 + ln 4)
    back = losses.distillation(teacher, student, temperature=2.0)
    assert back.item() == pytest.approx((math.log(4 / 3) + LN4) / 2, rel=1e-12)
    # the mean over the batch, not over batch x classes
    both = losses.distillation(torch.cat([student, teacher]), torch.cat([teacher, student]), temperature=2.0)
    assert both.item() == pytest.approx((LN2 + back.item()) / 2, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1, 2.0, 7.5])
def test_distillation_is_torchs_soft_cross_entropy_with_the_gradient_of_kl(temperature):
    student, teacher = draw(4, 5), draw(4, 5, seed=1)
    soft = F.softmax(teacher / temperature, dim=1)
    torch.testing.assert_close(
        losses.distillation(student, teacher, temperature=temperature),
        F.cross_entropy(student / temperature, soft),  # torch's takes probabilities as targets too
    )

    def kl(student):
        return F.kl_div(F.log_softmax(student / temperature, dim=1), soft, reduction="batchmean")

    ours = grad(lambda student: losses.distillation(student, teacher, temperature=temperature))
    torch.testing.assert_close(ours(student), grad(kl)(student))


def test_distillation_is_least_at_the_teacher():
    teacher = draw(4, 5)
    slope = grad(lambda student: losses.distillation(student, teacher, temperature=2.0))(teacher)
    torch.testing.assert_close(slope, torch.zeros_like(slope))


# PODNet's: nca, distance, cosine_distance


def nca_by_loops(logits, targets):
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        top = max(row)
        others = sum(math.exp(value - top) for place, value in enumerate(row) if place != target)
        total += -(row[target] - top) + math.log(1 + others)
    return total / len(logits)


def test_binary_cross_entropy_is_torchs_summed_over_the_classes():
    logits, wanted = draw(4, 6), torch.sigmoid(draw(4, 6, seed=1))
    expected = F.binary_cross_entropy(torch.sigmoid(logits), wanted, reduction="none")
    torch.testing.assert_close(losses.binary_cross_entropy(logits, wanted), expected.sum() / 4)
    masked = losses.binary_cross_entropy(logits, wanted, mask=MASK, rows=ROWS)
    torch.testing.assert_close(masked, expected[ROWS][:, KEPT].sum() / 3)
    far = losses.binary_cross_entropy(torch.tensor([[200.0, -200.0]]), torch.tensor([[0.0, 0.0]]))
    assert far.item() == 200


def test_distillation_by_groups_is_a_sum_of_those_of_the_groups_however_far_apart_their_logits_are():
    groups = torch.tensor([2, 0, 2, 0, 0, 5])
    student, teacher = draw(4, 6), draw(4, 6, seed=1)
    apart = 500.0 * groups  # a common softmax has nothing left of the lower ones
    parts = [groups == group for group in (0, 2, 5)]
    find = lambda student, **more: losses.distillation(student + apart, teacher, temperature=2, groups=groups, **more)  # noqa: E731
    whole = lambda student: sum(losses.distillation(student[:, own], teacher[:, own], temperature=2) for own in parts)  # noqa: E731
    torch.testing.assert_close(find(student), whole(student))
    torch.testing.assert_close(grad(find)(student), grad(whole)(student))
    two = parts[0] | parts[1]
    torch.testing.assert_close(
        find(student.masked_fill(~two, math.nan), mask=two, rows=ROWS),
        sum(losses.distillation(student[ROWS][:, own], teacher[ROWS][:, own], temperature=2) for own in parts[:2]),
    )


def test_nca_by_hand():
    # target the best: log(1 + 1/3), where cross-entropy has the same; target the other: ln 3 + log(1 + 1)
    logits = torch.tensor([[LN3, 0.0], [LN3, 0.0]], dtype=F64)
    found = losses.nca(logits, torch.tensor([0, 1]))
    assert found.item() == pytest.approx((math.log(4 / 3) + LN3 + LN2) / 2, rel=1e-12)


def test_nca_is_the_formula_and_its_gradient_the_slope_of_it():
    logits, targets = draw(5, 6), torch.tensor([0, 5, 2, 2, 3])
    assert losses.nca(logits, targets).item() == pytest.approx(nca_by_loops(logits, targets), rel=1e-12)
    slope, step = grad(lambda logits: losses.nca(logits, targets))(logits), 1e-6
    for place in [(row, column) for row in range(5) for column in range(6)]:
        moved = [logits.clone(), logits.clone()]
        moved[0][place] += step
        moved[1][place] -= step
        expected = (nca_by_loops(moved[0], targets) - nca_by_loops(moved[1], targets)) / (2 * step)
        assert slope[place].item() == pytest.approx(expected, abs=1e-8)


def test_a_margin_that_leaves_all_columns_changes_nothing_in_nca():
    logits, targets, scale = draw(5, 6), torch.tensor([0, 5, 2, 2, 3]), torch.tensor(1.7, dtype=F64)
    with_margin = grad(lambda scale: losses.nca(scale * (logits - 0.6), targets))(scale)
    torch.testing.assert_close(grad(lambda scale: losses.nca(scale * logits, targets))(scale), with_margin)


@pytest.mark.parametrize("junk", [0.0, 1e4, -1e4, math.inf, math.nan])
def test_nca_of_masked_columns_and_rows_is_that_of_the_slice(junk):
    """The best class of a row is the best of the columns that count."""
    logits, targets = draw(4, 6, seed=4), torch.tensor([0, 3, 5, 2])
    logits[:, ~MASK] = junk
    found = grad(lambda x: losses.nca(x, targets, mask=MASK, rows=ROWS))(logits)
    narrow = torch.tensor([KEPT.tolist().index(target) for target in targets[ROWS].tolist()])
    inner = logits[ROWS][:, MASK]
    torch.testing.assert_close(losses.nca(logits, targets, mask=MASK, rows=ROWS), losses.nca(inner, narrow))
    torch.testing.assert_close(found[ROWS][:, MASK], grad(lambda x: losses.nca(x, narrow))(inner))
    assert not found[~ROWS].any() and not found[:, ~MASK].any()
    assert losses.nca(logits, targets, mask=MASK, rows=ROWS & False) == 0


def test_distance_is_the_mean_length_of_the_differences():
    # 3-4-5 and 5-12-13
    first = torch.tensor([[3.0, 4.0], [5.0, 12.0]], dtype=F64)
    assert losses.distance(first, torch.zeros_like(first)).item() == 9
    assert losses.distance(first, torch.zeros_like(first), rows=torch.tensor([False, True])).item() == 13
    slope = grad(losses.distance)(first, torch.zeros_like(first))
    torch.testing.assert_close(slope, first / torch.tensor([[5.0], [13.0]]) / 2)


def test_where_two_rows_are_equal_the_gradient_of_their_distance_is_zero():
    first, second = draw(3, 4), draw(3, 4, seed=1)
    second[1] = first[1]
    slope = grad(losses.distance)(first, second)
    assert slope.isfinite().all() and not slope[1].any() and slope[[0, 2]].all()


def test_cosine_distance_is_one_minus_the_cosine():
    # angles of 0, 90 and 180 degrees whatever the lengths, and a zero row
    first = torch.tensor([[2.0, 0.0], [3.0, 0.0], [1.0, 1.0], [0.0, 0.0]], dtype=F64)
    second = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-2.0, -2.0], [1.0, 0.0]], dtype=F64)
    assert losses.cosine_distance(first, second).item() == pytest.approx((0 + 1 + 2 + 1) / 4, rel=1e-12)
    found = losses.cosine_distance(first, second, rows=torch.tensor([True, False, True, False]))
    assert found.item() == pytest.approx(1, rel=1e-12)
    slope = grad(losses.cosine_distance)(first, second)
    assert slope.isfinite().all()
    torch.testing.assert_close(slope[1], torch.tensor([0.0, -1 / 3 / 4], dtype=F64))  # only turning changes it


# masks: a full-width classifier must train as a narrow one


def narrow_targets(targets):
    """Returns targets among the kept classes, numbered by their position among them."""
    return KEPT[targets]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_masked_cross_entropy_is_that_of_the_slice(smoothing, dtype):
    logits, targets = draw(5, 6, dtype=dtype), torch.tensor([0, 1, 2, 3, 0])

    def wide(logits):
        return losses.cross_entropy(logits, narrow_targets(targets), label_smoothing=smoothing, mask=MASK)

    def narrow(cut):
        return F.cross_entropy(cut, targets, label_smoothing=smoothing)

    torch.testing.assert_close(wide(logits), narrow(logits[:, MASK]))
    slope = grad(wide)(logits)
    assert (slope[:, ~MASK] == 0).all()
    torch.testing.assert_close(slope[:, MASK], grad(narrow)(logits[:, MASK]))


@pytest.mark.parametrize("temperature", [0.01, 2.0, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_masked_distillation_is_that_of_the_slice(temperature, dtype):
    student, teacher = draw(5, 6, dtype=dtype), draw(5, 6, seed=1, dtype=dtype)

    def wide(student):
        return losses.distillation(student, teacher, temperature=temperature, mask=MASK)

    def narrow(cut):
        return F.cross_entropy(cut / temperature, F.softmax(teacher[:, MASK] / temperature, dim=1))

    torch.testing.assert_close(wide(student), narrow(student[:, MASK]))
    slope = grad(wide)(student)
    assert (slope[:, ~MASK] == 0).all()
    torch.testing.assert_close(slope[:, MASK], grad(narrow)(student[:, MASK]))


@pytest.mark.parametrize("junk", [1e30, -1e30, math.inf, -math.inf, math.nan])
def test_masked_columns_may_have_any_values(junk):
    logits = draw(4, 6, dtype=torch.float32)
    spoilt = torch.where(MASK, logits, junk)
    targets = KEPT[torch.tensor([0, 1, 2, 3])]

    def loss(student, teacher):
        return losses.distillation(student, teacher, temperature=2.0, mask=MASK) + losses.cross_entropy(
            student, targets, label_smoothing=0.1, mask=MASK
        )

    assert torch.equal(loss(spoilt, spoilt), loss(logits, logits))
    slope = grad(loss)(spoilt, spoilt)
    assert torch.equal(slope, grad(loss)(logits, logits))
    assert (slope[:, ~MASK] == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mask", [None, MASK])
def test_rows_left_out_count_nowhere(smoothing, mask):
    logits, teacher, targets = draw(4, 6, seed=1), draw(4, 6, seed=2), torch.tensor([0, 3, 5, 2])
    settings = {"label_smoothing": smoothing, "mask": mask}
    calls = [
        lambda logits, rows: losses.cross_entropy(
            logits, targets if rows is not None else targets[ROWS], rows=rows, **settings
        ),
        lambda logits, rows: losses.distillation(
            logits, teacher if rows is not None else teacher[ROWS], temperature=2.0, mask=mask, rows=rows
        ),
    ]
    for loss in calls:
        torch.testing.assert_close(loss(logits, ROWS), loss(logits[ROWS], None))
        whole = grad(loss)(logits, ROWS)
        torch.testing.assert_close(whole[ROWS], grad(loss)(logits[ROWS], None))
        assert not whole[~ROWS].any()
        assert loss(logits, ROWS & False) == 0 and not grad(loss)(logits, ROWS & False).any()


@pytest.mark.parametrize("junk", [1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("mask", [None, MASK])
def test_rows_left_out_may_have_any_values(mask, junk):
    """Value and gradients, of both arguments, are those of the loss without these rows; theirs are exactly 0."""
    first, second, targets = draw(4, 6, seed=1), draw(4, 6, seed=2), torch.tensor([0, 3, 5, 2])
    groups = torch.tensor([0, 1, 1, 0, 1, 0])

    def at(rows):
        return targets if rows is not None else targets[ROWS]

    def distilled(first, second, rows, **more):
        return losses.distillation(first, second, temperature=2.0, mask=mask, rows=rows, **more)

    calls = [
        lambda first, second, rows: losses.cross_entropy(first, at(rows), label_smoothing=0.1, mask=mask, rows=rows),
        lambda first, second, rows: losses.nca(first, at(rows), mask=mask, rows=rows),
        distilled,
        lambda first, second, rows: distilled(first, second, rows, groups=groups),
        lambda first, second, rows: losses.binary_cross_entropy(first, second.sigmoid(), mask=mask, rows=rows),
        lambda first, second, rows: losses.distance(first, second, rows=rows),
        lambda first, second, rows: losses.distance(first, second, rows=rows, order=1),
        lambda first, second, rows: losses.cosine_distance(first, second, rows=rows),
    ]
    spoilt = [torch.where(ROWS[:, None], each, junk) for each in (first, second)]
    for number, loss in enumerate(calls):
        arguments = (0,) if number in (0, 1, 4) else (0, 1)  # the others are not read, or are targets
        given = (spoilt[0], second) if len(arguments) == 1 else tuple(spoilt)
        torch.testing.assert_close(loss(*given, ROWS), loss(first[ROWS], second[ROWS], None))
        slopes = grad(loss, argnums=arguments)(*given, ROWS)
        expected = grad(loss, argnums=arguments)(first[ROWS], second[ROWS], None)
        for slope, of_slice in zip(slopes, expected, strict=True):
            torch.testing.assert_close(slope[ROWS], of_slice)
            assert (slope[~ROWS] == 0).all()


def test_a_mask_of_all_is_no_mask():
    logits, targets, everything = draw(3, 4), torch.tensor([0, 1, 2]), torch.ones(4, dtype=torch.bool)
    for smoothing in (0.0, 0.3):
        torch.testing.assert_close(
            losses.cross_entropy(logits, targets, label_smoothing=smoothing, mask=everything),
            losses.cross_entropy(logits, targets, label_smoothing=smoothing),
        )


# dtypes, transformations, errors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_answered_in_float32(dtype):
    logits, targets = draw(3, 6).to(dtype), torch.tensor([0, 2, 3])
    for mask in (None, MASK):
        half = losses.cross_entropy(logits, targets, mask=mask)
        assert half.dtype == torch.float32
        assert torch.equal(half, losses.cross_entropy(logits.float(), targets, mask=mask))
        soft = losses.distillation(logits, logits, temperature=2.0, mask=mask)
        wide = logits.float()
        assert torch.equal(soft, losses.distillation(wide, wide, temperature=2.0, mask=mask))
        assert grad(lambda x, mask=mask: losses.cross_entropy(x, targets, mask=mask))(logits).isfinite().all()


def test_vmap_is_a_loop():
    logits, teacher = draw(3, 4, 6), draw(3, 4, 6, seed=1)
    targets = KEPT[torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 1, 1]])]
    masks = torch.stack([MASK, torch.ones_like(MASK), MASK])

    def loss(logits, targets, teacher, mask):
        return losses.cross_entropy(logits, targets, label_smoothing=0.1, mask=mask) + losses.distillation(
            logits, teacher, temperature=2.0, mask=mask
        )

    for function in (loss, grad(loss)):
        looped = torch.stack([function(*row) for row in zip(logits, targets, teacher, masks, strict=True)])
        torch.testing.assert_close(vmap(function)(logits, targets, teacher, masks), looped)
    # the batch axis that vmap hides must not be mistaken for a row axis
    with pytest.raises(ValueError, match="cross_entropy"):
        vmap(losses.cross_entropy)(logits[0], targets[0])


LOGITS, TARGETS = torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: losses.cross_entropy(LOGITS[0], TARGETS), r"logits \(3,\)"),
        (lambda: losses.cross_entropy(LOGITS[:0], TARGETS[:0]), r"logits \(0, 3\)"),
        (lambda: losses.cross_entropy(LOGITS[:, :0], TARGETS), r"logits \(2, 0\)"),
        (lambda: losses.cross_entropy(LOGITS, TARGETS[:1]), r"targets \(1,\) for logits \(2, 3\)"),
        (lambda: losses.cross_entropy(LOGITS, TARGETS[None]), r"targets \(1, 2\)"),
        (lambda: losses.cross_entropy(LOGITS, TARGETS.float()), r"float32"),
        (lambda: losses.cross_entropy(LOGITS, TARGETS.bool()), r"bool"),
        (lambda: losses.cross_entropy(LOGITS.long(), TARGETS), r"logits are torch.int64"),
        (lambda: losses.cross_entropy(LOGITS, TARGETS, label_smoothing=1.0), r"label_smoothing=1.0"),
        (lambda: losses.cross_entropy(LOGITS, TARGETS, label_smoothing=-0.1), r"label_smoothing=-0.1"),
        (lambda: losses.cross_entropy(LOGITS, TARGETS, label_smoothing=math.nan), r"label_smoothing=nan"),
        (lambda: losses.cross_entropy(LOGITS, TARGETS, mask=torch.ones(2, dtype=torch.bool)), r"mask \(2,\)"),
        (lambda: losses.cross_entropy(LOGITS, TARGETS, mask=torch.ones(3)), r"mask \(3,\) torch.float32"),
        (lambda: losses.distillation(LOGITS, LOGITS[:, :2], temperature=2.0), r"\(2, 3\) and .*\(2, 2\)"),
        (lambda: losses.distillation(LOGITS, LOGITS[:1], temperature=2.0), r"\(2, 3\) and .*\(1, 3\)"),
        (lambda: losses.distillation(LOGITS[0], LOGITS[0], temperature=2.0), r"student_logits \(3,\)"),
        (lambda: losses.distillation(LOGITS, LOGITS.long(), temperature=2.0), r"teacher_logits are"),
        (lambda: losses.distillation(LOGITS, LOGITS, temperature=0), r"temperature=0"),
        (lambda: losses.distillation(LOGITS, LOGITS, temperature=-2.0), r"temperature=-2.0"),
        (lambda: losses.distillation(LOGITS, LOGITS, temperature=math.inf), r"temperature=inf"),
        (lambda: losses.distillation(LOGITS, LOGITS, temperature=math.nan), r"temperature=nan"),
        (lambda: losses.distillation(LOGITS, LOGITS, temperature=1.0, mask=MASK), r"mask \(6,\)"),
        (lambda: losses.nca(LOGITS[0], TARGETS), r"logits \(3,\)"),
        (lambda: losses.nca(LOGITS, TARGETS[:1]), r"targets \(1,\) for logits \(2, 3\)"),
        (lambda: losses.nca(LOGITS, TARGETS.float()), r"float32"),
        (lambda: losses.nca(LOGITS, TARGETS, mask=MASK), r"mask \(6,\)"),
        (lambda: losses.distance(LOGITS, LOGITS[:1]), r"\(2, 3\) and \(1, 3\)"),
        (lambda: losses.cosine_distance(LOGITS[0], LOGITS[0]), r"\(3,\) and \(3,\)"),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    functions = ("cross_entropy", "distillation", "nca", "distance", "cosine_distance")
    assert str(caught.value).partition(": ")[0] in functions


# numbers that are tensors


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="eager")])
def test_a_temperature_and_a_smoothing_may_be_tensors_that_are_mapped_over(wrap):
    student, teacher, targets = draw(4, 3), draw(4, 3, seed=1), torch.tensor([0, 2, 1, 1])
    numbers = torch.tensor([0.5, 1.0, 4.0], dtype=F64)
    mapped = wrap(vmap(lambda t: losses.distillation(student, teacher, temperature=t)))(numbers)
    alone = [losses.distillation(student, teacher, temperature=number) for number in numbers.tolist()]
    torch.testing.assert_close(mapped, torch.stack(alone))
    numbers = torch.tensor([0.0, 0.1, 0.5], dtype=F64)
    mapped = wrap(vmap(lambda s: losses.cross_entropy(student, targets, label_smoothing=s)))(numbers)
    alone = [F.cross_entropy(student, targets, label_smoothing=number) for number in numbers.tolist()]
    torch.testing.assert_close(mapped, torch.stack(alone))


def test_a_temperature_and_a_smoothing_can_be_learned():
    """Compares derivatives with central differences."""
    student, teacher, targets = draw(4, 3), draw(4, 3, seed=1), torch.tensor([0, 2, 1, 1])
    of_temperature = lambda t: losses.distillation(student, teacher, temperature=t)  # noqa: E731
    of_smoothing = lambda s: losses.cross_entropy(student, targets, label_smoothing=s)  # noqa: E731
    for function, value in ((of_temperature, 2.0), (of_smoothing, 0.3)):
        slope = (function(value + 1e-5) - function(value - 1e-5)) / 2e-5
        found = grad(function)(torch.tensor(value, dtype=F64))
        assert found.item() == pytest.approx(slope.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
def test_the_dtype_of_a_loss_is_that_of_its_logits(dtype):
    """Whatever that of a number that is a tensor."""
    logits, targets = draw(4, 3, dtype=torch.float32), torch.tensor([0, 2, 1, 1])
    found = losses.cross_entropy(logits, targets, label_smoothing=torch.tensor(0.25, dtype=dtype))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.cross_entropy(logits, targets, label_smoothing=0.25))
    taught = losses.distillation(logits, logits, temperature=torch.tensor(2.0, dtype=dtype))
    assert taught.dtype == torch.float32


def test_a_tensor_of_several_temperatures_is_refused():
    two = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=r"distillation: temperature \(2,\)"):
        losses.distillation(draw(2, 3), draw(2, 3), temperature=two)
    with pytest.raises(ValueError, match=r"cross_entropy: label_smoothing \(2,\)"):
        losses.cross_entropy(draw(2, 3), torch.tensor([0, 1]), label_smoothing=two / 4)


@pytest.mark.parametrize("rows", [torch.ones(1, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool), torch.ones(2)])
def test_rows_that_would_be_broadcast_are_refused(rows):
    for loss in (
        lambda: losses.cross_entropy(LOGITS, TARGETS, rows=rows),
        lambda: losses.distillation(LOGITS, LOGITS, temperature=2, rows=rows),
        lambda: losses.nca(LOGITS, TARGETS, rows=rows), lambda: losses.distance(LOGITS, LOGITS, rows=rows),
        lambda: losses.cosine_distance(LOGITS, LOGITS, rows=rows),
        lambda: losses.binary_cross_entropy(LOGITS, torch.zeros_like(LOGITS), rows=rows),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^losses: rows .*; it must be \(2,\) torch\.bool$"):
            loss()
    with pytest.raises(ValueError, match=r"groups \(2,\) torch\.int64; it must be \(3,\) torch\.int64"):
        losses.distillation(LOGITS, LOGITS, temperature=2, groups=torch.zeros(2, dtype=torch.int64))


def test_distances_of_half_precision_are_float32():
    first = torch.full((2, 40), 200.0, dtype=torch.float16)
    assert losses.distance(first, -first).dtype == torch.float32  # its square is above float16's largest number
    torch.testing.assert_close(losses.distance(first, -first), torch.tensor(400 * 40**0.5))
    assert losses.cosine_distance(first, -first).item() == pytest.approx(2)


def test_targets_of_binary_cross_entropy_may_be_integers():
    targets = torch.tensor([[1, 0, 1], [0, 0, 1]])
    expected = losses.binary_cross_entropy(LOGITS, targets.to(LOGITS.dtype))
    assert torch.equal(losses.binary_cross_entropy(LOGITS, targets), expected)

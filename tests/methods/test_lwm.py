"""LwM: whole runs against a conventional loop whose attention maps are Grad-CAM's, by autograd."""

import copy

import oracle
import pytest
import torch
import torch.nn.functional as F

from cil_func import methods
from cil_func.methods import lwm
from cil_func.networks.outputs import classes_of


def grad_cam(net, maps, classes, graph):
    """(logits, normalised Grad-CAM map (B, pixels) of each image for its class), of maps before their last ReLU."""
    maps = F.relu(maps)
    logits = net.classifier(maps.mean((2, 3)))
    (slopes,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps, create_graph=graph)
    found = F.relu((slopes.mean((2, 3), keepdim=True) * maps).sum(1)).flatten(1)
    return logits, found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    run = oracle.learn(
        monkeypatch, "lwm", "method.options.gamma=0.3", "method.kd_combination=sum", "method.kd_weight=1.5"
    )
    net = oracle.backbone(*run.started[0])
    for phase, old, seen in oracle.phases():
        rows = run.started[phase].params["classifier"]
        teacher = copy.deepcopy(net).eval()
        net.classifier = oracle.grown(net.classifier, rows) if phase else oracle.linear(**rows)

        def loss(images, labels, old=old, seen=seen, teacher=teacher):
            maps = net.maps(images)[-1]
            if not old:
                return F.cross_entropy(net.classifier(F.relu(maps).mean((2, 3))), labels)
            before = teacher.maps(images)[-1].detach().requires_grad_()
            top = teacher.classifier(F.relu(before).mean((2, 3))).argmax(1)
            taught, wanted = grad_cam(teacher, before, top, graph=False)
            logits, found = grad_cam(net, maps, top, graph=True)
            value = F.cross_entropy(logits[:, old:seen], labels - old)
            value = value + 1.5 * oracle.soft_cross_entropy(logits[:, :old], taught)
            return value + 0.3 * (found - wanted.detach()).abs().sum(1).mean()

        net.train()
        oracle.train(net.parameters(), run.batches[phase, ""], loss)
        net.eval()
    params, state = run.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near(params["classifier"], net.classifier.state_dict())


def test_the_attention_of_a_class_by_hand():
    """Two channels of three pixels: 2 (1, 0, 2) - (0, 1, 3) = (2, -1, 1), clipped and divided by sqrt 5."""
    maps = lwm.class_maps({"weight": torch.tensor([[2.0, -1.0], [0.0, -1.0]])}, {}, {"maps": torch.tensor([[
        [1.0, 0.0, 2.0], [0.0, 1.0, 3.0]]])})["maps"]  # fmt: skip
    found = lwm.attention(maps, torch.tensor([0]))
    assert found[0].tolist() == pytest.approx([2 / 5**0.5, 0, 1 / 5**0.5])
    assert lwm.attention(maps, torch.tensor([1])).tolist() == [[0, 0, 0]]  # it looks nowhere


def test_the_class_is_the_old_one_that_the_teacher_finds_likeliest():
    """Classes 0 and 1 are old; the teacher's highest logit, of class 2, doesn't count."""
    classes = classes_of([2, 2], 1)
    teacher_logits = torch.tensor([[0.0, 1.0, 9.0, 0.0]])
    maps = torch.zeros(1, 4, 2)
    maps[0, 1, 0] = 5.0
    other = maps.clone().roll(1, dims=2)  # at the other pixel: an L1 distance of 2
    student, teacher = (methods.Outputs(teacher_logits, None, {"maps": each}) for each in (maps, other))
    targets = methods.Targets(torch.tensor([2]))
    near, far = (methods.make("lwm", methods.Options(), {"gamma": gamma}) for gamma in (0.0, 0.5))
    gap = far.loss(student, teacher, targets, classes) - near.loss(student, teacher, targets, classes)
    assert gap.item() == pytest.approx(1.0)

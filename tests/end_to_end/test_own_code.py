"""A user's own method, backbone, data set and optimiser, in files outside the package, run by train.py."""

import hashlib
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

import train
from cil_func import config, methods
from cil_func.__main__ import main
from cil_func.config import names, siblings
from cil_func.runs import own_code
from cil_func.runs.method_of import method_of

pytestmark = pytest.mark.usefixtures("shallow")
METHOD = Path(__file__).parents[1] / "own" / "adjusted_replay.py"
CODE = """
import numpy as np
import torch

from cil_func import optim, tree
from cil_func.networks import resnet
from cil_func.networks.backbones import Backbone


def backbone(scale: float = 1.0):
    def init(key, *, image_size):
        generator = torch.Generator().manual_seed(key % 2**31)
        return {"weight": torch.randn(5, 3 * image_size[0] * image_size[1], generator=generator) * scale}, {}

    def apply(params, state, images, *, train, **_):
        return torch.relu(images.flatten(1) @ params["weight"].T), {}, state

    return Backbone(init=init, apply=apply, feature_dim=lambda: 5)


def data(path, per_class: int = 6):
    generator = np.random.default_rng(0)
    targets = np.repeat(np.arange(4), per_class)
    images = generator.integers(0, 64, (len(targets), 6, 8, 3)) + 48 * targets[:, None, None, None]
    return images.astype("uint8"), targets, images.astype("uint8"), targets, ["a", "b", "c", "d"]


def sign(momentum, weight_decay, scale: float = 1.0):
    def update(grads, opt_state, params, rate):
        return tree.map(lambda grad: -rate * scale * grad.sign(), grads), opt_state

    return optim.Optimiser(lambda params: {}, update)


def counting(momentum, weight_decay):
    return optim.Optimiser(lambda params: {"a": {"t": 0}}, sign(0.0, 0.0).update)


def broken(path):
    raise RuntimeError("no disk here")
"""


def run(directory, *settings: str) -> int:
    words = [word for setting in settings for word in ("--set", setting)]
    return train.main(["--out", str(directory), *tiny.flags("run.compile=false", "optim.epochs=2"), *words])


def results(directory) -> dict:
    return json.loads((directory / "results.json").read_text())


@pytest.fixture(autouse=True)
def forgotten():
    """Each test's own files are the first ones that are imported, as in a new process."""
    before = set(sys.modules)
    yield
    siblings._CLAIMED.clear()
    for name in set(sys.modules) - before:
        if name.startswith("cil_func_user_") or name == "helper":
            del sys.modules[name]


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "code.py"
    path.write_text(CODE)
    return path


def test_the_example_is_short():
    assert len(METHOD.read_text().splitlines()) < 40


def test_a_method_by_its_path_with_an_option(tmp_path):
    """With tau = 0 it is replay, to the bit; with 1 it is not. Its name is in the results."""
    assert run(tmp_path / "replay", "method.name=replay") == 0
    for tau in (0.0, 1.0):
        assert run(tmp_path / str(tau), f"method.name={METHOD}:make", f"method.options.tau={tau}") == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("replay", "0.0", "1.0")]
    assert weights[0] == weights[1] != weights[2]
    assert results(tmp_path / "1.0")["method"] == "adjusted-replay"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_backbone_a_data_set_and_an_optimiser_by_their_path(code, tmp_path, precision, capsys):
    """With options of each. The images are 6 high and 8 wide."""
    settings = (
        f"model.backbone={code}:backbone", "model.options.scale=0.5", f"data.name={code}:data", "data.path=x",
        "data.image_size=0", "data.options.per_class=5", "data.increment=2", f"optim.name={code}:sign",
        "optim.options.scale=2", "optim.learning_rate=0.25", "optim.schedule=constant", "augment.crop_padding=0",
        "optim.epochs=1", "optim.batch_size=32", "method.name=wa", f"run.precision={precision}", "memory.size=8",
    )  # fmt: skip
    assert train.main([*tiny.flags("run.compile=false", *settings), "--dry-run"]) == 0, capsys.readouterr().err
    assert run(tmp_path / "out", *settings) == 0
    found = results(tmp_path / "out")
    assert found["class_names"] and len(found["class_order"]) == 4 and found["phases"][-1]["classes_seen"] == 4
    from cil_func.runs import checkpoints

    saved = checkpoints.load_model(tmp_path / "out")
    assert saved.params["backbone"]["backbone"]["weight"].shape == (5, 3 * 6 * 8)
    assert saved.description["preprocessing"]["image_size"] == [6, 8]
    assert torch.isfinite(saved.params["classifier"]["weight"]).all()


@pytest.mark.parametrize(("settings", "status", "line"), [
    (("data.name={code}:broken",), 2, "no disk here"),
    (("model.backbone={code}:sign", ), 2, "momentum"),
    (("model.backbone={code}:data", "data.path=x"), 2, "path"),
    (("method.name={code}:data", "method.options.per_class=2"), 2, "path"),
    (("method.name={code}:sign2",), 2, "sign"),
])  # fmt: skip
def test_what_is_wrong_in_own_code_is_one_line(settings, status, line, code, tmp_path, capsys):
    assert run(tmp_path / "out", *(setting.format(code=code) for setting in settings)) == status
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and line in said[0] and "Traceback" not in said[0]


def test_a_finished_run_is_not_taken_for_one_on_other_images_of_the_same_function(tmp_path, capsys):
    """Whatever the function does with data.path, only its images show whether they are the run's."""
    code = tmp_path / "code.py"
    code.write_text(CODE.replace("default_rng(0)", "default_rng(int(open(path).read()))"))
    for name, seed in (("one", 0), ("other", 1), ("copy", 0)):
        (tmp_path / name).write_text(str(seed))
    settings = (
        f"model.backbone={code}:backbone", f"data.name={code}:data", "data.image_size=0", "data.increment=2",
        "augment.crop_padding=0", "optim.epochs=1", "method.name=finetune",
    )  # fmt: skip
    again = partial(run, tmp_path / "out", *settings)
    assert again(f"data.path={tmp_path / 'one'}") == again(f"data.path={tmp_path / 'one'}") == 0
    assert "warning" not in capsys.readouterr().err
    assert again(f"data.path={tmp_path / 'copy'}") == 0
    assert again(f"data.path={tmp_path / 'other'}") == 2
    assert "holds a run of other images: data.path is" in capsys.readouterr().err
    (tmp_path / "one").write_text("1")
    assert again(f"data.path={tmp_path / 'one'}") == 0
    assert "have changed since this run" in capsys.readouterr().err
    (tmp_path / "one").unlink()
    assert again(f"data.path={tmp_path / 'one'}") == 0
    assert "can't be read any more" in capsys.readouterr().err


METHODS = """
import torch
from dataclasses import dataclass
from typing import Any
from cil_func import losses
from cil_func.methods import Method
from cil_func.methods.base import Replay, Stage
from cil_func.methods.extra import Extra

def ce(student, teacher, targets, classes):
    return losses.cross_entropy(student.logits, targets.labels, mask=classes.seen, rows=targets.rows)

def double(*given): return ce(*given).double()
def plain(options, what="ce"): return Method(name="plain", loss=globals()[what])
def number(*given): return 1.5
def rows(*given): return ce(*given)[None]
def fails(student, *given): return student.logits @ torch.ones(3)
def remembers(options, **given):
    found = {"start": {"a": {"n": 1}}, "begin": {}, "after": {}} | given
    start, begin, after = (lambda *_, found=found[name]: found for name in ("start", "begin", "after"))
    return Method(name="remembers", loss=ce, extra=Extra(start, after, begin=begin))
def untraced(*given):
    torch._dynamo.graph_break()
    return ce(*given)
def leaves(options): raise SystemExit(3)
def of(options, **fields): return Method(name="of", loss=ce, **fields)
def staged(options, *, names=("a",), **fields):
    return Method(name="staged", loss=ce, stages=tuple(Stage(name, ce, **fields) for name in names))
def replayed(options, **fields): return Method(name="r", loss=ce, replay=Replay(ce, ce, **fields))
def untupled(options): return Method(name="untupled", loss=ce, stages=Stage("a", ce))
def named(options): return Method(name="named", loss="ce")
def by_helper(options):
    import helper
    return Method(name="by_helper", loss=lambda *given: helper.fails())
def listed(options):
    import numpy as np
    return Mine(name="listed", loss=ce, stages=[Stage("again_2", ce)], clamp=np.float32(1), uses_memory=np.bool_(True))
@dataclass(frozen=True)
class Mine(Method):
    note: Any = None
    pair: tuple[str, float] = ("a", 1.0)
def finished(options, what=1):
    given = {1: lambda params, num_new: (params, 0.5), 2: lambda params, num_new: params}
    given[3] = lambda params, num_new: [params, torch.ones(3)]
    return Method(name="finished", loss=ce, finish=given[what])
def holding(options, how):
    fields = {"rows": how} if how in ("arrived", "all") else {"replay": Replay(ce, ce)} if how == "replay" else {}
    stages = (Stage("a", ce, rows="balanced" if how == "balanced" else "held_out"),)
    return Method(name="holding", loss=ce, uses_memory=True, hold_out=0.2, stages=stages, **fields)
def changed(options, of, how):
    def slip(params):
        rows = params["classifier"]
        return {**params, "classifier": {
            "cut": {**rows, "weight": rows["weight"][:1]}, "less": {"weight": rows["weight"]},
            "more": {**rows, "scale": rows["bias"]}, "number": {**rows, "bias": 1},
            "double": {name: leaf.double() for name, leaf in rows.items()},
        }[how]}
    if of == "fit":
        fit = lambda params, extra, *given: (slip(params), extra) if how != "one" else params
        return Method(name="changed", loss=ce, extra=Extra(lambda params: {}, fit=fit))
    ending = lambda params, num_new: (slip(params), None)
    return Method(name="changed", loss=ce, **{of: ending if of == "finish" else lambda params, *given: slip(params)})
def stores(options, what):
    good, bad = {"past": torch.ones(1)}, {"past": torch.ones(1), "logits": torch.ones(1)}
    given = {"start": lambda params: good, "begin": lambda *given: good, "after": lambda *given: good}
    given["fit"] = lambda params, *given: (params, bad if what == "fit" else good)
    given |= {} if what == "fit" else {what: lambda *given: bad}
    return Method(name="stores", loss=ce, extra=Extra(**given))
"""


@pytest.fixture
def methods_file(tmp_path):
    path = tmp_path / "own_methods.py"
    path.write_text(METHODS)
    return path


@pytest.mark.parametrize(("name", "options", "says"), [
    ("of", ["trained=once"], 'trained is "once"; one of "always", "first", "never" fits'),
    ("of", ["predict=nearest"], 'predict is "nearest"; one of "logits", "nme" fits'),
    ("of", ["rows=everything"], 'rows is "everything"; one of "new", "all", "arrived" fits'),
    ("of", ["grow=backbones"], 'grow is "backbones"; one of "rows", "backbone", '),
    ("of", ["clamp=-1.0"], "clamp is -1.0; 0, no limit, or more fits"),
    ("of", ["views=0"], "views is 0; 1 or more fits"),
    ("of", ["hold_out=2.0"], "hold_out is 2.0; 0 to below 1 fits"),
    ("of", ["uses_memory=1"], "uses_memory is 1; true or false fits"),
    ("of", ["penalty=x"], 'penalty is "x"; a function or None fits'),
    ("staged", ['names=["a", "a"]'], "two stages are called 'a'"),
    ("staged", ['names=[""]'], "a stage has no name"),
    *(("staged", [f'names=["{name}"]'], f"stage '{name}': no table [optim.{name}] can be; lowercase letters")
      for name in ("Again", "options", "epoch", "first_phase", "2nd", "a b", "a.b")),
    ("replayed", ["groups=0"], 'replay.groups is 0; 1 or more, or "phases", fits'),
    ("replayed", ["groups=word"], 'replay.groups is "word"; '),
    ("replayed", ["images=-1"], "replay.images is -1; 0, as many as a batch, or more fits"),
    ("staged", ["clamp=-1.0"], "stage 'a': clamp is -1.0; 0"),
    ("staged", ["norm=off"], 'stage \'a\': norm is "off"; one of "train", "eval" fits'),
    ("untupled", [], "stages is a Stage; a tuple of Stages fits"), ("named", [], 'loss is "ce"; a function fits'),
    ("leaves", [], "SystemExit: 3"),
    ("of", ["predict=nme"], "nearest mean of exemplars, and keeps none; uses_memory=True fits"),
    ("plain", ["what=number"], "a loss returned 1.5; a 0-d tensor fits"),
    ("plain", ["what=rows"], "a loss returned a tensor (1,); a 0-d tensor fits"),
    ("plain", ["what=fails"], "line 17: RuntimeError: "),
    ("remembers", [], """extra's start returned 1 under "a.n"; a tensor fits"""),
    ("remembers", ["start={}", "begin=[1]"], "extra's begin returned a list; a dict of tensors fits"),
    ("remembers", ["start={}", "after={x = 'y'}"], """extra's after returned "y" under "x"; a tensor fits"""),
    ("finished", ["what=2"], "finish of finished returned a dict; (params, gamma) fits"),
    ("changed", ["of=finish", "how=cut"], 'finish of changed returned, under "classifier.weight", a tensor (1, 64); '),
    ("changed", ["of=imprint", "how=less"], 'imprint of changed returned nothing under "classifier.bias"; the given'),
    ("changed", ["of=begin", "how=more"], 'begin of changed returned something under "classifier.scale"; the given'),
    ("changed", ["of=fit", "how=number"], 'extra\'s fit returned, under "classifier.bias", 1; a tensor (2,) fits'),
    ("changed", ["of=fit", "how=one"], "extra's fit returned a dict; (params, extra) fits"),
    ("replayed", [], "replay has exemplars beside each batch, and none are kept; uses_memory=True fits"),
    *(("holding", [f"how={how}"], "hold_out keeps images from training, and " + why) for how, why in (
        ("arrived", 'rows = "arrived" has them; "new" fits'), ("all", 'rows = "all" has them; "new" fits'),
        ("balanced", """stage 'a': rows = "balanced" has them; "new" and "held_out" fit"""),
        ("replay", "replay has exemplars among them; no replay fits"),
    )),
    *(("stores", [f"what={of}"], f"""extra's {of} returned a part called "logits", the name of the stored logits of""")
      for of in ("start", "begin", "after", "fit")),
    ("finished", ["what=3"], "finish of finished returned a Tensor as gamma; a number or None fits"),
])  # fmt: skip
def test_a_slip_in_a_method_is_one_line(name, options, says, methods_file, tmp_path, capsys):
    settings = (f"method.name={methods_file}:{name}", *(f"method.options.{option}" for option in options))
    assert run(tmp_path / "out", *settings) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: ")]
    assert len(said) == 1 and says in said[0], said
    assert json.loads((tmp_path / "out/status.json").read_text())["state"] == "failed"


def test_a_plan_finds_what_a_method_remembers_at_its_start(methods_file, capsys):
    settings = (f"method.name={methods_file}:stores", "method.options.what=begin")
    assert train.main([*tiny.flags("run.compile=false", *settings), "--dry-run"]) == 2
    assert """extra's begin returned a part called "logits\"""" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "says"), [
    (["what=number"], ": a loss returned 1.5; a 0-d tensor fits"),
    (["what=rows"], ": a loss returned a tensor (1,); a 0-d tensor fits"),
    (["what=fails"], ": {file} failed; line 17: RuntimeError: "),
    (["what=untraced"], ": {file} or optim.name: {code} can't be compiled; run.compile=false trains without that: "),
])  # fmt: skip
def test_a_slip_is_the_same_line_where_the_step_is_compiled(options, says, methods_file, code, tmp_path, capsys):
    settings = (f"method.name={methods_file}:plain", *(f"method.options.{option}" for option in options))
    assert run(tmp_path / "out", *settings, "run.compile=true", f"optim.name={code}:sign") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: ")]
    assert len(said) == 1 and f"method.name{says.format(file=methods_file, code=code)}" in said[0], said


@pytest.mark.parametrize(("settings", "says"), [
    (("optim.options.nestrov=true",), "optim.options.nestrov"), (("optim.name=none.py:make",), "no file none.py"),
    (("optim.first_phase.name={code}:data", "optim.first_phase.options.path=x"), "returned tuple, no optim.Optimiser"),
    (("model.weights=none.safetensors", "model.backbone=timm:test_resnet"), "none.safetensors: can't be read"),
    (("method.name=podnet", "model.backbone={code}:backbone"), "shows no feature maps"),
    (("method.name=memo", "model.backbone={code}:backbone"), "has no last stage"),
    (("model.backbone={code}:backbone", "run.recompute=true"), "has no blocks to compute again"),
    (("method.name=bic", "optim.bias.name=none.py:make"), "optim.bias.name: no file none.py"),
])  # fmt: skip
def test_what_needs_no_images_is_found_before_they_are_read(settings, says, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cil_func.runs.load_data.load", lambda *given: pytest.fail("the images are read"))
    assert run(tmp_path / "out", *(setting.format(code=code) for setting in settings)) in (2, 3)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--dry-run"], ["--profile", "1"]])
def test_own_code_that_fails_in_a_plan_or_profile_is_a_traceback_and_a_line(flags, methods_file, tmp_path, capsys):
    """No directory is the run's then, in which the traceback could be kept."""
    settings = tiny.flags("run.compile=false", f"method.name={methods_file}:plain", "method.options.what=fails")
    assert train.main(["--out", str(tmp_path / "out"), *settings, *flags]) == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"train.py: method.name: {methods_file} failed; line 17: RuntimeError: "), last
    assert "Traceback (most recent call last):" in before and any("in fails" in line for line in before)
    assert not (tmp_path / "out/traceback.txt").exists()


def test_an_optimiser_that_begins_with_something_else_than_tensors_is_one_line(code, tmp_path, capsys):
    assert run(tmp_path / "out", "method.name=finetune", f"optim.name={code}:counting") == 2
    assert 'optim.name: init of the optimiser returned 0 under "a.t"; a tensor fits' in capsys.readouterr().err


def test_a_method_that_predicts_by_exemplars_is_not_trained_without_any(methods_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cil_func.runs.load_data.load", lambda *given: pytest.fail("the images are read"))
    settings = (f"method.name={methods_file}:of", "method.options.predict=nme", "method.options.uses_memory=true")
    says = f"{methods_file}:of predicts by the nearest mean of exemplars, and memory.size is 0; 1 or more fits"
    assert run(tmp_path / "out", *settings, "memory.size=0") == 2
    assert f"train.py: method.name: {says}" in capsys.readouterr().err
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["sweep", str(tmp_path / "sweep"), *words, "--grid", "memory.size=5,0", "--print"]) == 2
    assert f"sweep: method.name: {says} (run size-0)" in capsys.readouterr().err
    assert method_of(config.load("digits", [*settings, "memory.size=0"])).predict == "nme"


def test_a_loss_in_float64_leaves_the_weights_in_float32(methods_file, tmp_path):
    from cil_func.runs import checkpoints

    for what in ("ce", "double"):
        assert run(tmp_path / what, f"method.name={methods_file}:plain", f"method.options.what={what}") == 0
    saved = [checkpoints.load_model(tmp_path / what).params["classifier"]["weight"] for what in ("ce", "double")]
    assert saved[1].dtype == torch.float32
    torch.testing.assert_close(*saved)


@pytest.mark.parametrize("of", ["finish", "imprint", "begin", "fit"])
def test_parameters_in_float64_become_float32_again(of, methods_file, tmp_path):
    """They change nothing, to the bit."""
    changed = (f"method.name={methods_file}:changed", f"method.options.of={of}", "method.options.how=double")
    assert run(tmp_path / "changed", *changed) == run(tmp_path / "plain", f"method.name={methods_file}:plain") == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("changed", "plain")]
    assert weights[0] == weights[1]


def test_what_is_as_good_as_the_right_type_is_taken(methods_file, tmp_path):
    """A list, NumPy's numbers, a stage that is no built-in one's, and a record with fields of its own."""
    assert run(tmp_path / "out", f"method.name={methods_file}:listed") == 0


def test_images_may_be_held_out_for_a_stage(methods_file):
    """The other combinations are refused: `test_a_slip_in_a_method_is_one_line`."""
    settings = (f"method.name={methods_file}:holding", "method.options.how=new")
    assert train.main([*tiny.flags("run.compile=false", *settings), "--dry-run"]) == 0


def test_the_file_that_failed_is_named_of_several_and_below_it(code, methods_file, tmp_path, capsys):
    (tmp_path / "helper.py").write_text("def fails():\n    return {}['x']\n")
    data = (f"data.name={code}:data", "data.image_size=0", "data.increment=2", "augment.crop_padding=0")
    for name, says in (
        ("plain", f"{methods_file} failed; line 17: RuntimeError"),
        ("by_helper", f"{methods_file} failed; {tmp_path / 'helper.py'}, line 2: KeyError: 'x'"),
    ):
        options = ["method.options.what=fails"] if name == "plain" else []
        assert run(tmp_path / name, f"method.name={methods_file}:{name}", *options, *data) == 2
        assert f"train.py: method.name: {says}" in capsys.readouterr().err
        assert (tmp_path / name / "traceback.txt").exists()


def test_the_file_to_blame_has_called_what_failed_or_lies_nearest(tmp_path):
    """Whatever the order of the configuration is."""
    named = [tmp_path / name for name in ("a.py", "deep/b.py", "c.py")]
    others = [tmp_path / name for name in ("helper.py", "deep/helper.py")]
    for path in (*named, *others):
        path.parent.mkdir(exist_ok=True)
        path.write_text("def call(first, *rest): return first(*rest) if rest else first['x']\n")
    a, b, c, helper, deep = [names.find(f"{path}:call", key="x") for path in (*named, *others)]
    keys = ("data.name", "method.name", "optim.name")
    values = [f"{key}={path}:call" for key, path in zip(keys, named, strict=True)]
    resolved = config.load("digits", values)
    for functions, key, place in (
        ([a, c, helper], "optim.name", c), ([c, a, helper], "data.name", a), ([a, b], "method.name", b),
        ([helper], "data.name", a), ([deep], "method.name", b), ([c, deep], "optim.name", c),
    ):  # fmt: skip
        with pytest.raises(KeyError) as failure:
            functions[0](*functions[1:], {})
        file = functions[-1].__code__.co_filename
        where = "line 1" if functions[-1] is place else f"{file}, line 1"
        said = f"{key}: {place.__code__.co_filename} failed; {where}: KeyError: 'x'"
        assert str(own_code.explain(failure.value, resolved)) == said


def test_a_bug_of_ours_is_none_of_theirs(methods_file, tmp_path):
    """Also if the own file lies beside train.py and the package. Copies, for Python resolves links."""
    shutil.copy2(METHOD.parents[2] / "train.py", tmp_path)
    shutil.copytree(METHOD.parents[2] / "cil_func", tmp_path / "cil_func")
    breaks = "import cil_func.training.evaluation as e; e.split = lambda *given, **more: 1 / 0\n"
    methods_file.write_text(METHODS + breaks)
    words = ["train.py", "--out", "out", *tiny.flags("run.compile=false"), "--set", "method.name=own_methods.py:plain"]
    start = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True)
    done = start([sys.executable, *words])
    assert done.returncode == 2 and "own_methods.py failed; line " in done.stderr  # it is theirs: their lambda
    methods_file.write_text(METHODS + breaks.replace("lambda *given, **more: 1 / 0", "int"))
    done = start([sys.executable, *words[:2], "other", *words[3:]])
    assert done.returncode == 1 and "Traceback" in done.stderr and "failed; " not in done.stderr


def test_gamma_may_be_a_number(methods_file, tmp_path):
    assert run(tmp_path / "out", f"method.name={methods_file}:finished") == 0
    assert [row["gamma"] for row in results(tmp_path / "out")["phases"]][:2] == [None, 0.5]


def test_a_file_that_has_changed_is_told_when_a_run_goes_on_and_when_it_is_finished(methods_file, tmp_path, capsys):
    """Its content is no part of the configuration, so the same command finds the same run."""
    again = partial(run, tmp_path / "out", f"method.name={methods_file}:plain")
    assert again() == again() == 0
    assert "has changed" not in capsys.readouterr().err
    methods_file.write_text(METHODS + "# a remark\n")
    assert again() == 0
    line = f"{methods_file} has changed since this run; another --out trains by it as it is now"
    assert f"warning: {line}" in capsys.readouterr().err
    for name in ("results.json", "model.safetensors", "model.json"):
        (tmp_path / "out" / name).unlink()
    names.IMPORTED.clear()  # as in a new process
    for module in [name for name in sys.modules if name.startswith("cil_func_user_")]:
        del sys.modules[module]
    assert again() == 0
    known = results(tmp_path / "out")["own_code"]
    assert known == {str(methods_file): hashlib.sha256(METHODS.encode()).hexdigest()}  # which trained most of it
    log = (tmp_path / "out/metrics.jsonl").read_text()
    assert f"{methods_file} has changed since this run began; what is left is trained by it as it is now" in log


def test_two_runs_with_other_neighbours_of_one_name_are_loaded_and_compared(tmp_path, capsys):
    """As where a person copies the folder of a project, changes it, and compares the two."""
    import cil_func

    for name, clamp in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"clamp = {clamp}\n")
        (tmp_path / name / "own.py").write_text(
            "from dataclasses import replace\nimport helper\nfrom cil_func.methods import wa\n\n\n"
            "def make(options):\n    return replace(wa.make(options), clamp=helper.clamp)\n"
        )
        assert run(tmp_path / name / "run", f"method.name={tmp_path / name / 'own.py'}:make") == 0
        names.forget()  # the next process
    runs = [str(tmp_path / name / "run") for name in ("one", "two")]
    models = [cil_func.load(each) for each in (*runs, runs[0])]
    assert models[0].class_names == models[2].class_names
    assert main(["compare", *runs, "--json"]) == 0 and "another helper" not in capsys.readouterr().err


@pytest.mark.parametrize("own", [False, True])
def test_an_own_file_may_load_a_finished_run_while_it_is_read(own, methods_file, tmp_path):
    """As for a teacher. The run may have own files itself; one file is not taken out while it is read."""
    name = f"{methods_file}:plain" if own else "wa"
    assert run(tmp_path / "out", f"method.name={name}") == 0
    names.forget()
    code = f"from dataclasses import dataclass\nimport cil_func\nMODEL = cil_func.load({str(tmp_path / 'out')!r})\n"
    code += "import helper\nfrom cil_func.methods import wa\n@dataclass\nclass Kept:\n    number: int = 1\n"
    code += "def make(options):\n    import later\n    return wa.make(options)\n"
    folder = tmp_path / "other"
    folder.mkdir()
    for each, text in (("own", code), ("helper", "times = []\n"), ("later", "")):
        (folder / f"{each}.py").write_text(text)
    made = [names.find(f"{folder / 'own.py'}:make", key="method.name") for _ in range(2)]
    assert made[0] is made[1] and made[0](methods.Options()).name == "wa"


def test_a_run_without_own_files_leaves_those_of_others(tmp_path):
    """As in a notebook: what is imported late is found afterwards too."""
    import cil_func

    assert run(tmp_path / "out", "method.name=wa") == 0
    (tmp_path / "own.py").write_text("def make():\n    import beside_me\n    return beside_me.number\n")
    (tmp_path / "beside_me.py").write_text("number = 3\n")
    make = names.find(f"{tmp_path / 'own.py'}:make", key="method.name")
    assert cil_func.load(tmp_path / "out").class_names and make() == 3
    names.forget()


def test_a_finished_run_predicts_by_a_method_that_could_not_be_trained_now(methods_file, tmp_path):
    """As by an older version, which took a stage of any name."""
    assert run(tmp_path / "out", f"method.name={methods_file}:listed") == 0
    methods_file.write_text(METHODS.replace("again_2", "Again"))
    names.forget()
    from cil_func import load

    assert load(tmp_path / "out").class_names
    assert run(tmp_path / "new", f"method.name={methods_file}:listed") == 2

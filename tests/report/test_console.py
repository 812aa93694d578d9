"""What a person sees, as plain lines and on a terminal of 80 columns."""

import io
import re
import threading

import pytest
from rich.console import Console as Screen

from cil_func.report import console, lines
from cil_func.report.plain_console import PlainConsole
from cil_func.report.terminal_console import TerminalConsole


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def play(events, *, plain, step=0.0, stream=None, close=True):
    """Returns the text that a console prints for events. The clock moves by `step` seconds before each "epoch"."""
    clock, out = Clock(), stream or io.StringIO()
    show = console.make(out, plain, width=None if plain else 80, clock=clock)
    for event in events:
        clock.now += step if event["event"] == "epoch" else 0.0
        show(event)
    if close:
        show.close()
    return out.getvalue() if stream is None else show


def screen(text):
    """Returns terminal output without its escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_plain_lines_tell_the_run_the_phases_and_the_end(make_run):
    text = play(make_run(num_phases=3)[0], plain=True, step=2.0)
    out = text.splitlines()
    assert out[0] == "wa on digits: 6 classes in 3 phases (3 x 2), resnet20, cpu, float32"
    assert out[1] == "epochs 3 x 2, 1,200 images in all; files in runs/digits"
    assert out[3] == "phase 0 (1/3): 2 new classes, 2 seen, 200 images, 2 epochs"
    # 200 of 1200 images done, 0.01 s each
    assert out[4] == "  epoch 1/2  loss  1.5000  train  45.0 %     100 images/s   0:00:10 left"
    assert out[5] == "  epoch 2/2  loss  1.0000  train  45.0 %     100 images/s   0:00:08 left"
    assert out[6] == "  accuracy 90.0 % on all 2 classes seen"
    aligned = out.index("phase 1 (2/3): 2 new classes, 4 seen, 200 images, 2 epochs") + 3
    assert out[aligned] == "  accuracy 80.0 % on all 4 classes seen: 80.0 on old ones, 95.0 on new ones"
    assert out[aligned + 1].startswith("  aligned: gamma 0.62, share of new classes 90 -> 51 % (fair 40)")
    assert "\nphase 2 (3/3): " in text
    assert out[-4].split() == ["average", "incremental", "accuracy", "80.0", "%"]
    assert out[-1].split() == ["time", "0:01:15"]
    assert "\x1b" not in text and text.isascii() and max(map(len, out)) <= 80


@pytest.mark.parametrize("plain", [True, False])
def test_a_later_stage_of_a_phase_has_its_line(plain):
    event = {"event": "stage_start", "phase": 1, "stage": "bias", "train_images": 1_200, "epochs": 20}
    assert "  stage bias: 1,200 images, 20 epochs" in screen(play([event], plain=plain))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "2 new classes, 4 seen"),
        (["cat", "dog"], "2 new classes (cat, dog), 4 seen"),
        (["a", "b", "c", "d", "e"], "5 new classes (a, b, c and 2 more), 4 seen"),
        (["n" * 40], "1 new class (" + "n" * 21 + "...), 4 seen"),
        (["a\nb"], "1 new class (a\\nb), 4 seen"),
    ],
)
def test_a_phase_names_its_first_classes(names, text):
    event = {"num_new": len(names) or 2, "classes_seen": 4, "train_images": 200, "epochs": 2, "class_names": names}
    assert lines.phase_text(event).startswith(text)


@pytest.mark.parametrize("plain", [True, False])
def test_the_table_stands_once_under_what_its_columns_mean(make_run, plain):
    out = screen(play(make_run(num_phases=3)[0], plain=plain)).splitlines()
    [titles] = [index for index, line in enumerate(out) if line.split()[:3] == ["phase", "seen", "all"]]
    rows = [index for index, line in enumerate(out) if re.match(r" +\d +\d", line)]
    assert rows == list(range(titles + 2, titles + 5))
    meanings = [index for index, line in enumerate(out) if re.match("gamma +factor by which aligning", line)]
    assert meanings and max(meanings) < titles


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [(78.3, 84.2, "78.3 -> 84.2"), (99.3, 98.1, "99.3 -> 98.1, which hurts"), (90.04, 90.01, "90.0 -> 90.0"),
     (None, 84.2, "- -> 84.2")],
)  # fmt: skip
def test_what_aligning_did_is_told_in_words_also_when_it_hurt(before, after, end):
    row = {"top1": after, "classes_seen": 10, "gamma": 0.8, "top1_before_align": before, "new_share_before_align": 0.38,
           "new_share": 0.24, "fair_share": 0.2}  # fmt: skip
    accuracy, *aligned = lines.result_lines(row)
    assert accuracy == f"accuracy {after:.1f} % on all 10 classes seen"
    assert aligned == [
        "aligned: gamma 0.80, share of new classes 38 -> 24 % (fair 20),",
        f"         accuracy {end}",
    ]
    assert lines.result_lines({**row, "gamma": None}) == [accuracy]


@pytest.mark.parametrize(("seconds", "least", "most"), [(0.01, 2, 2), (1.0, 10, 12), (60.0, 11, 45)])
def test_a_log_of_170_epochs_stays_short_and_has_the_first_and_the_last(make_run, seconds, least, most):
    text = play(make_run(num_phases=1, epochs=170)[0], plain=True, step=seconds)
    epochs = re.findall(r"^  epoch +(\d+)/170 ", text, flags=re.M)
    assert epochs[0] == "1" and epochs[-1] == "170"
    assert least <= len(epochs) <= most


def test_plain_shows_that_a_very_long_epoch_lives():
    clock, out = Clock(), io.StringIO()
    show = console.make(out, True, clock=clock)
    show({"event": "run_start", "phases": [2], "epochs": [3], "train_images": [1000]})
    show({"event": "phase_start", "phase": 0, "epochs": 3, "train_images": 1000})
    for _ in range(5):
        clock.now += 200
        show({"event": "progress", "phase": 0, "epoch": 1, "images": 100})
    found = re.findall(r"epoch 2/3  (\d+) % of its images", out.getvalue())
    assert found == ["20", "40"]  # after 400 s and 800 s


def test_evaluation_in_the_middle_has_its_line(make_run):
    events, _ = make_run(num_phases=1, epochs=20)
    events.insert(-2, {"event": "evaluation", "phase": 0, "epoch": 9, "logits_top1": 91.25})
    assert "  epoch 10/20  test top1 by logits 91.2 %\n" in play(events, plain=True)
    assert "test by logits 91.2 %" in screen(play(events, plain=False))


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("aligned", [True, False])
def test_one_phase_nulls_and_unknown_events_do_no_harm(make_run, plain, aligned):
    events, _ = make_run(num_phases=1, aligned=aligned)
    events.insert(3, {"event": "something_new"})
    nulls = [{k: None if k in ("loss", "images_per_second", "top1", "nme_top1", "seconds", "new_share") else v
              for k, v in event.items()} for event in events]  # fmt: skip
    for variant in (events, nulls):
        text = screen(play(variant, plain=plain))
        assert "phase 0 (1/1)" in text and "average incremental accuracy   90.0 %" in text


def test_a_directory_name_that_the_stream_cannot_encode_ends_no_run(make_run):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    events, _ = make_run(num_phases=1)
    play([{**events[0], "directory": "runs/größe"}], plain=True, stream=stream)
    assert b"runs/gr\\xf6\\xdfe" in raw.getvalue()


def test_plain_is_chosen_for_files_and_dumb_terminals_even_where_colour_is_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(console.make(io.StringIO()), PlainConsole)
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(console.make(stream), TerminalConsole)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(console.make(stream), PlainConsole)


def test_terminal_has_a_bar_of_two_lines_that_fit_80_columns(make_run):
    events, _ = make_run(num_phases=3, epochs=170)
    names = [(event["event"], event.get("phase"), event.get("epoch")) for event in events]
    middle = names.index(("epoch", 1, 84))
    with play(events[: middle + 1], plain=False, stream=io.StringIO(), close=False) as show:
        drawn = io.StringIO()
        Screen(file=drawn, force_terminal=True, width=80).print(show.bar())
    out = screen(drawn.getvalue()).splitlines()
    assert len(out) == 2 and max(map(len, out)) <= 80
    assert out[0].startswith("phase 1 (2/3)  ━") and "epoch  85/170" in out[0]
    assert "run 0:08:30 left" in out[0]  # 255 of 510 epochs to go, 2 s each
    assert out[1].split("   ") == ["  loss 1.0059", "train 45.0 %", "100 images/s"]  # 1.5 - 84 / 170


def test_terminal_lines_grow_above_the_bar_and_the_end_gives_the_cursor_back(make_run):
    events, _ = make_run(num_phases=3)
    events[1]["class_names"] = ["cat", "dog"]
    raw = play(events, plain=False, close=False)  # the run's end closes the bar by itself
    text = screen(raw)
    assert raw.rfind("\x1b[?25h") > raw.rfind("\x1b[?25l") >= 0
    lasting = ("phase 0 (1/3): 2 new classes (cat, dog), 2 seen", "  accuracy 90.0 % on all 2 classes", "phase 1 (2/3)")
    places = [text.index(line) for line in lasting]
    assert places == sorted(places) and text.count("  accuracy 90.0 %") == 1
    end = text[text.index("    2    6  70.0") :]
    assert "average incremental accuracy" in end and "epoch" not in end
    assert "forgetting                     12.5 points" in end


def test_close_in_the_middle_of_a_run_shows_the_cursor_and_may_be_repeated(make_run):
    out = io.StringIO()
    show = play(make_run()[0][:6], plain=False, stream=out)
    show.close()
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l") >= 0


def test_the_bar_is_drawn_by_the_caller_and_not_more_than_four_times_a_second(make_run):
    clock, out = Clock(), io.StringIO()
    with console.make(out, False, width=80, clock=clock) as show:
        for event in make_run()[0][:2]:
            show(event)
        assert not any("rich" in type(thread).__module__ for thread in threading.enumerate())
        before = len(out.getvalue())
        for _ in range(100):
            clock.now += 0.01
            show({"event": "progress", "phase": 0, "epoch": 0, "images": 1})
        drawn = screen(out.getvalue()[before:]).count("phase 0 (1/3)")
    assert 3 <= drawn <= 5


COMPILING = {"event": "compiling", "what": "training step"}
COMPILED = {"event": "compiled", "what": "training step", "seconds": 58.4}


def test_plain_lines_say_that_it_compiles_and_then_how_long_it_took(make_run):
    events = make_run(num_phases=1)[0][:2]
    before = play([*events, COMPILING], plain=True).splitlines()
    assert before[-1] == "  compiling the training step, about a minute, once"
    assert play([*events, COMPILING, COMPILED], plain=True).splitlines() == [*before, "  compiled in 0:00:58"]
    other = play([*events, {"event": "compiling", "what": "forward pass"}], plain=True).splitlines()
    assert other[-1] == "  compiling the forward pass, up to a minute, once"


def test_a_terminal_has_a_clock_that_moves_while_it_compiles_and_no_longer(make_run):
    """A thread draws the clock, since no event comes. Afterwards the bar is as before."""
    clock, out = Clock(), io.StringIO()

    def bar() -> str:
        drawn = io.StringIO()
        Screen(file=drawn, force_terminal=True, width=80).print(show.bar())
        return screen(drawn.getvalue()).splitlines()[1]

    def drawers(*, ended: bool = False) -> int:
        found = [thread for thread in threading.enumerate() if "rich" in type(thread).__module__]
        if ended:  # rich tells its thread to end, and doesn't wait
            for thread in found:
                thread.join(10)
        return sum(thread.is_alive() for thread in found)

    with console.make(out, False, width=80, clock=clock) as show:
        for event in make_run(num_phases=1)[0][:2]:
            show(event)
        before = bar()
        show(COMPILING)
        assert drawers() == 1
        clock.now += 7
        assert bar() == "  compiling the training step, about a minute, once   0:00:07"
        assert "compiling the training step" in screen(out.getvalue())
        show(COMPILED)
        assert drawers(ended=True) == 0 and bar() == before
        show(COMPILING)
    assert drawers(ended=True) == 0
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l")


@pytest.mark.parametrize(
    ("counts", "text"), [([50, 10, 10], "50, 2 x 10"), ([2] * 5, "5 x 2"), ([3, 3, 1], "2 x 3, 1"), ([], "-")]
)
def test_repeated_counts_are_folded(counts, text):
    assert lines.fold_counts(counts) == text

"""report.html: it stands alone, holds what the run measured, and sorts its tables in a browser."""

import io
import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from functools import cache
from html.parser import HTMLParser

import pytest
from PIL import Image

from cil_func import config
from cil_func.__main__ import COMMANDS
from cil_func.report import contents, figures, page, published
from cil_func.report.axes import svg
from cil_func.report.material import Exemplars, Material
from cil_func.runs import command_line, exemplar_files, files, method_of

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The page's ids, references and text; checks that each tag is closed."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.open, self.ids, self.references, self.text = [], [], [], ""
        self.feed(content.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs, *, empty=False):
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        if tag not in VOID and not empty:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs, empty=True)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open and self.open[-1] not in ("style", "script") else ""


def material(log, results, **more) -> Material:
    return Material("runs/a b", results, log, **more)


def without_figures(run: Material) -> bytes:
    return page.make(run, {})


@cache
def full_page(make_run) -> bytes:
    """The page of a run of 3 phases, with all its figures: made once, for it takes seconds."""
    exemplars = [Exemplars("cat", 1, [("image/png", b"png")])]
    lineage = {"parent": {"run": "runs/first"}}
    return contents.make(material(*make_run(), exemplars=exemplars, lineage=lineage, state="stopped"))["report.html"]


def test_nothing_outside_the_page_is_referred_to_and_ids_are_unique(make_run):
    """Namespaces, which nobody fetches, are the only addresses in it."""
    content = full_page(make_run)
    parsed = Page(content)
    assert all(reference.startswith(("#", "data:")) for reference in parsed.references)
    inside = {reference[1:] for reference in parsed.references if reference.startswith("#")}
    inside |= {found.decode() for found in re.findall(rb"url\(#([^)]*)\)", content)}
    assert len(inside) > 20 and inside <= set(parsed.ids)
    assert [name for name, count in Counter(parsed.ids).items() if count > 1] == []
    assert set(re.findall(rb"url\(\s*(.)", content)) == {b"#"} and b"@import" not in content
    addresses = set(re.findall(rb"https?://[^\s\"'<>]*", content))
    assert addresses == {b"http://www.w3.org/2000/svg", b"http://www.w3.org/1999/xlink"}


def test_the_page_says_which_images_were_measured(make_run):
    events, results = make_run()
    results["validation"] = {"average_incremental_accuracy": 12.25, "last_accuracy": 34.75}
    text = Page(without_figures(material(events, results))).text
    assert "12.2 %average, on validation images34.8 %last, on validation images" in text and "unseen" not in text
    results = make_run()[1]
    results["config"]["data"]["tests_on"] = "validation"
    text = Page(without_figures(material(events, results))).text
    assert page.ON_VALIDATION in text and "on validation images3" not in text


def test_the_page_shows_what_was_measured(make_run):
    parsed = Page(full_page(make_run))
    for part in ("average incremental accuracy", "80.0 %", "12.5 points", "c4, c5", "named new", "data.name",
                 "resnet20", "2.15.0", "parent.run", "runs/first", "not finished: stopped", "c4 (20 %)", "gamma 0.625",
                 "0 cat (1)", "--config 'runs/a b/config.toml' --set run.seed=8"):  # fmt: skip
        assert part in parsed.text, part
    plain = Page(without_figures(material(*make_run())))  # a section without content is left out
    assert {"lineage", "exemplars", "bias"} <= set(parsed.ids) and not {"lineage", "exemplars", "bias"} & set(plain.ids)


def test_names_of_classes_and_folders_are_text_whatever_they_hold(make_run):
    log, results = make_run()
    results["class_names"] = ['<script>alert("1")</script>', "a&b", "\ud800", "c\nd", "e", "f"]
    content = without_figures(material(log, results)._replace(directory="<b>'"))
    assert b"<script>alert" not in content and b"<b>'" not in content
    assert '<script>alert("1")</script>' in Page(content).text


def test_commands_to_run_next_exist(make_run):
    for state in ("finished", "stopped"):
        text = Page(without_figures(material(*make_run(), state=state))).text
        found = re.findall(r"python -m cil_func (\w+)", text)
        assert "report" in found and set(found) <= set(COMMANDS)


@pytest.mark.parametrize("preset", ["cifar-eeil", "cifar-gem", "cifar-icarl", "cifar"])
def test_the_command_for_another_method_is_taken(make_run, tmp_path, preset):
    """Options of the run's own method would be refused by the other one."""
    log, results = make_run()
    given = config.load(preset)
    results |= {"config": config.to_dict(given), "method": given.method.name}
    (tmp_path / "config.toml").write_text(config.to_toml(given))
    run = material(log, results)._replace(directory=str(tmp_path))
    [line] = [line for line in Page(without_figures(run)).text.splitlines() if "method.name=" in line]
    flags = command_line.parse(shlex.split(line)[2:])
    assert method_of.method_of(config.load(flags.config, flags.set)).name == "replay"


def test_exemplars_of_a_folder_are_shown_by_class_without_deleted_and_damaged_ones(tmp_path, make_run):
    def image(side: int, *, kind: str) -> bytes:
        file = io.BytesIO()
        Image.effect_noise((side, side), 80).save(file, format=kind)
        return file.getvalue()

    small = image(8, kind="PNG")
    for name, content in (("a.png", small), ("b.png", b"no image"), ("large.bmp", image(300, kind="BMP"))):
        (tmp_path / name).write_bytes(content)
    listed = [{"file": name} for name in ("a.png", "deleted.png", "b.png", "large.bmp")]
    files.write_json(tmp_path / "memory.json", {"classes": [{"name": "cat", "images": listed}]})
    [cat] = exemplar_files.read(tmp_path)
    assert (cat.name, cat.kept) == ("cat", 3)
    assert cat.pictures[0] == ("image/png", small)
    [(kind, reduced)] = cat.pictures[1:]
    with Image.open(io.BytesIO(reduced)) as opened:
        assert kind == "image/jpeg" and opened.size == (96, 96)
    parsed = Page(without_figures(material(*make_run(1), exemplars=[cat])))
    assert "0 cat (3)" in parsed.text and sum(each.startswith("data:image") for each in parsed.references) >= 2


@pytest.mark.parametrize("content", [None, "{", '{"classes": [{"name": "cat"}]}', '{"classes": 3}', "[]"])
def test_a_memory_that_cannot_be_read_is_left_out(tmp_path, content):
    if content is not None:
        (tmp_path / "memory.json").write_text(content)
    assert exemplar_files.read(tmp_path) == []


def as_published(make_run, sizes, **config):
    """The results of a run of WA on CIFAR-100 with phases of these sizes."""
    log, results = make_run(len(sizes))
    for index, row in enumerate(results["phases"]):
        row |= {"num_new": sizes[index], "classes_seen": sum(sizes[: index + 1])}
    for event in log:
        event.pop("confusion", None), event.pop("class_top1", None), event.pop("norms", None)
    results["class_names"] = None
    common = {"data.name": "cifar100", "data.class_order": "canonical", "model.backbone": "resnet32",
              "memory.size": 2000, "memory.fixed_per_class": 0} | config  # fmt: skip
    results["config"] = {}
    for key, value in common.items():
        table, _, name = key.partition(".")
        results["config"].setdefault(table, {})[name] = value
    return log, results


def test_published_results_stand_beside_a_run_of_their_protocol(make_run):
    log, results = as_published(make_run, [50, 10, 10, 10, 10, 10])
    assert published.protocol_of(results) == "B50 inc 10"
    assert published.of_method("B50 inc 10", "wa")[:4] == ("wa", 64.2, 56.0, True)
    drawn = svg(figures.accuracy(results), "accuracy")
    text = Page(page.make(material(log, results), {"accuracy.svg": drawn})).text
    assert "published average: ~64.2" in text and "published last: ~56.0" in text  # in the figure
    assert "~68.2" in text and "PyCIL's published figure" in text  # of DER, in the table
    for rows in map(published.rows, ("B0 inc 5", "B0 inc 10", "B0 inc 20", "B50 inc 10")):
        assert [row.method for row in rows].count("wa") == 1
        assert all(value is None or 0 < value < 100 for row in rows for value in (row.average, row.last))


@pytest.mark.parametrize(
    ("sizes", "config"),
    [
        ([50, 10, 10, 10, 10], {}),  # not finished
        ([50, 10, 10, 10, 20], {}),
        ([20] * 5, {"data.name": "digits"}),
        ([20] * 5, {"data.class_order": "shuffled"}),
        ([20] * 5, {"model.backbone": "resnet20"}),
        ([20] * 5, {"memory.size": 1000}),
        ([20] * 5, {"memory.fixed_per_class": 20}),
        ([20] * 5, {"data.tests_on": "validation"}),
    ],
)
def test_a_run_of_another_protocol_has_no_published_results(make_run, sizes, config):
    log, results = as_published(make_run, sizes, **config)
    assert published.protocol_of(results) is None
    assert "published" not in Page(without_figures(material(log, results))).text.lower()


def test_a_method_without_memory_needs_no_exemplars_to_be_compared(make_run):
    _, results = as_published(make_run, [20] * 5, **{"memory.size": 0})
    for row in results["phases"]:
        row["memory_size"] = 0
    assert published.protocol_of(results) == "B0 inc 20"


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CLICK = b"""<script>
window.onerror = message => document.body.dataset.error = message;
addEventListener("load", () => {
  const table = document.querySelector("#classes table"), names = () => [...table.tBodies[0].rows].map(row =>
    row.cells[1].textContent).join();
  const click = at => { table.tHead.rows[0].cells[at].querySelector("button").click(); return names(); };
  document.body.dataset.sorted = [names(), click(4), click(4), click(1)].join(";");
  document.body.dataset.fetched = performance.getEntriesByType("resource").filter(each =>
    !each.name.startsWith("data:")).length;
});
</script>"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
def test_a_browser_shows_the_page_without_errors_and_sorts_its_tables(tmp_path, make_run):
    (tmp_path / "page.html").write_bytes(full_page(make_run).replace(b"<body>", b"<body>" + CLICK))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", "--dump-dom",
               (tmp_path / "page.html").as_uri()]  # fmt: skip
    home = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=home)
    assert "data-error" not in done.stdout
    by_accuracy = ["c0,c1,c2,c3,c5,c4", "c4,c5,c0,c1,c2,c3"]  # now: 80, 80, 80, 80, 100, 90
    by_name = "c0,c1,c2,c3,c4,c5"
    assert f'data-sorted="{";".join([by_name, *by_accuracy, by_name])}"' in done.stdout
    assert 'data-fetched="0"' in done.stdout

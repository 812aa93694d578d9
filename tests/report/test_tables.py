"""The table of phases in its three forms."""

import io

import pytest
from rich.console import Console

from cil_func.report import tables


def cells(row):
    return [column.cell(row) for column in tables.COLUMNS]


def test_a_row_shows_percent_shares_and_the_seconds_of_its_parts(make_run):
    _, results = make_run(num_phases=2)
    first, second = (cells(row) for row in results["phases"])
    assert first == ["0", "2", "90.0", "-", "95.0", "77.0", "100.0", "-", "-", "51.0", "40.0", "4.8"]
    assert second == ["1", "4", "80.0", "80.0", "95.0", "77.0", "100.0", "88.0", "0.625", "90.0 -> 51.0", "40.0", "4.8"]


def test_columns_that_say_nothing_are_left_out_and_all_others_but_plain_ones_are_explained(make_run):
    _, results = make_run(num_phases=2, aligned=False)
    for row in results["phases"]:
        row["balanced_top1"] = row["top1"]
    titles = [column.title for column in tables.columns_of(results)]
    assert titles == ["phase", "seen", "all", "old", "new", "top5", "named new", "fair", "sec"]
    explained = [line.split("  ")[0].strip() for line in tables.legend(tables.columns_of(results))]
    assert explained == titles[1:]
    results["phases"][1]["balanced_top1"] = 79.0
    assert "bal" in [column.title for column in tables.columns_of(results)]


@pytest.mark.parametrize("num_phases", [1, 3, 50])
def test_plain_table_is_ascii_aligned_and_at_most_80_columns_wide(make_run, num_phases):
    _, results = make_run(num_phases=num_phases)
    lines = tables.phase_table(results).splitlines()
    assert tables.phase_table(results).isascii()
    assert max(map(len, lines)) <= 80
    begin = lines.index("") + 1  # below the legend
    assert len({len(line) for line in lines[begin : begin + num_phases + 3]}) == 1  # titles, rule, rows, rule


def test_summary_has_units_and_a_dash_for_a_single_phase(make_run):
    _, results = make_run(num_phases=3)
    assert [line.split() for line in tables.summary_lines(results)] == [
        ["average", "incremental", "accuracy", "80.0", "%"],
        ["last", "accuracy", "70.0", "%"],
        ["forgetting", "12.5", "points"],
    ]
    assert tables.summary_lines(make_run(num_phases=1)[1])[2].split() == ["forgetting", "-"]


def test_a_row_that_lacks_every_field():
    assert set(cells({})) == {"-"} and tables.columns_of({"phases": [{}]}) == []


def test_rich_table_fits_a_terminal_of_80_columns_without_cutting_a_cell(make_run):
    _, results = make_run(num_phases=3)
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=80, color_system=None).print(tables.rich_table(results))
    text = out.getvalue()
    assert "90.0 -> 51.0" in text and " sec" in text and "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_markdown_has_a_cell_for_each_column_and_the_recipe(make_run):
    _, results = make_run(num_phases=3)
    text = tables.markdown(results)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3 and {row.count("|") for row in rows} == {len(tables.COLUMNS) + 1}
    assert text.startswith("# wa, resnet20, digits\n")
    for part in ("seed 7", "torch 2.15.0", "- classes of phase 1: 2 `c2`, 3 `c3`\n", "`[model]` backbone = `resnet20`"):
        assert part in text


def test_markdown_lists_class_names_with_any_characters(make_run):
    _, results = make_run(num_phases=1)
    text = tables.markdown(results | {"class_order": [1, 0], "class_names": ["a`b", "c\nd|e"]})
    assert "\n- classes of phase 0: 1 `` a`b ``, 0 `c\\nd|e`\n" in text
    del results["class_names"]  # as in results of an older version
    assert "\n- classes of phase 0: 0, 1\n" in tables.markdown(results)

"""The page of a reproduction says what the records say, and never sets a quick number beside the paper's."""

import json
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from residual.report import write_reproduction
from residual.report.reproduction import Printed, Record, number, remark, section
from residual.reproduce.overview import _verdicts as listed_verdicts

ENVIRONMENT = {"python": "3.11.7", "cpu": "AMD EPYC 7B13", "cores": 2, "commit": "1f0c9a7be2d34c11"}


def curve(level: float, slower: float = 1.0) -> list[tuple[float, float]]:
    return [(step, level + (90 - level) * math.exp(-step / (6000 * slower))) for step in range(500, 64_001, 500)]


def figure(**changes: Any) -> dict[str, Any]:
    names = {"plain-20": (1.2, 9.3), "plain-56": (4.9, 12.6)}
    return {
        "experiment": {
            "name": "figure1",
            "title": "Deeper plain networks train worse",
            "source": "figure 1",
            "claim": "A plain network of 56 layers has the higher training and test error than one of 20.",
            "x": "iterations",
            "y": "error, %",
        },
        "spent": 1180.0,
        "rows": [
            {"name": name, "unit": "% test error", "verdict": "not tested at this budget", "ours": [test, test + 0.2],
             "mean": test + 0.1, "interval": [test - 0.9, test + 1.1], "seconds": 400.0}
            for name, (_, test) in names.items()
        ],
        "claims": [
            {"text": "plain-56 has the higher training error", "verdict": "agrees", "p": 0.0004,
             "reason": "3 against 3"}
        ],
        "lines": [
            {"name": name, "panel": "", "seeds": 2,
             "curves": {"training error": curve(train), "test error": curve(test, 1.2)}}
            for name, (train, test) in names.items()
        ],
        "environment": ENVIRONMENT,
        "finished": "2026-11-22T00:00:00+00:00",
    } | changes  # fmt: skip


def table(**changes: Any) -> dict[str, Any]:
    ours = [8.51, 8.84, 8.62]
    return {
        "experiment": {
            "name": "table6",
            "title": "Test error on CIFAR-10",
            "source": "table 6",
            "claim": "Depth helps to 110 layers.",
        },
        "rows": [
            {"name": "Highway", "unit": "% test error", "verdict": "cited", "paper": {"value": 7.54}},
            {"name": "ResNet-20", "unit": "% test error", "verdict": "agrees", "paper": {"value": 8.75}, "ours": ours,
             "mean": 8.66, "interval": [8.24, 9.07], "reason": "8.75 lies within 8.66 ± 0.83", "seconds": 61.0},
            {"name": "ResNet-110", "unit": "% test error", "verdict": "differs", "ours": [7.9, 8.1], "mean": 8.0,
             "paper": {"value": 6.43, "kind": "best", "n": 5, "mean": 6.61, "std": 0.16}, "interval": [7.5, 8.5]},
        ],
        "ledger": [{"what": "devices", "paper": 2, "ours": 1, "cost": None}],
        "left_out": [{"what": "ResNet-1202", "why": "one run takes longer than the budget", "seconds": 90_000.0}],
        "environment": ENVIRONMENT,
    } | changes  # fmt: skip


def write(folder: Path, *records: dict[str, Any]) -> Path:
    for record in records:
        (folder / record["experiment"]["name"]).mkdir(parents=True)
        (folder / record["experiment"]["name"] / "record.json").write_text(json.dumps(record))
    return write_reproduction(folder)


def words(path: Path) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", path.read_text()).split())


def test_paper_ours_interval_verdict_and_reason_stand_in_one_row(tmp_path: Path):
    text = words(write(tmp_path, table()))
    assert "ResNet-20 8.75 8.66 ± 0.42 3 agrees 8.75 lies within 8.66 ± 0.83 1 min" in text
    assert "ResNet-110 6.43 best of 5, mean 6.61 ± 0.16 8.00 ± 0.50 2 differs" in text
    assert "Highway 7.54 – – cited" in text
    assert "devices 2 1 not measured" in text
    assert "1 thing left out" in text
    assert "1 agrees · 1 differs" in text


def test_a_figure_has_its_curves_and_its_claims(tmp_path: Path):
    path = write(tmp_path, figure())
    text = words(path)
    assert "plain-56 has the higher training error agrees &lt; 0.001 3 against 3" in text
    assert path.read_text().count("<svg") == 1
    assert "plain-20 9.31" in text


@pytest.mark.parametrize("changes", [{"quick": True}, {"budget": 1200.0}])
def test_without_numbers_of_the_paper_there_is_no_column_for_them(tmp_path: Path, changes: dict[str, Any]):
    short = {"iterations": 2000, "of": 64_000}
    rows = [{**row, "paper": None, "short": short, "verdict": "not tested at this budget"} for row in table()["rows"]]
    text = words(write(tmp_path, table(rows=rows, **changes)))
    assert ">Paper<" not in text
    assert "8.75 8.66" not in text
    assert ("Its numbers mean nothing" if "quick" in changes else "2,000 of 64,000 iterations") in text


def test_one_page_holds_all_experiments_in_the_order_of_the_paper(tmp_path: Path):
    second = table()
    second["experiment"] = {**second["experiment"], "name": "table10"}
    third = table()
    third["experiment"] = {**third["experiment"], "name": "table2"}
    text = write(tmp_path, second, figure(), third).read_text()
    places = [text.index(f'<section id="{name}">') for name in ("table2", "table10", "figure1")]
    assert places == sorted(places)


def test_nothing_is_fetched_and_no_record_can_add_markup(tmp_path: Path):
    hostile = table()
    hostile["experiment"]["title"] = hostile["rows"][0]["name"] = "<script>alert(1)</script>"
    text = write(tmp_path, hostile, figure()).read_text()
    assert "<script" not in text
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")


def test_a_folder_without_records_is_refused_in_words(tmp_path: Path):
    with pytest.raises(ValueError, match="Make one with: residual reproduce table1"):
        write_reproduction(tmp_path)


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [(8.75, "% test error", "8.75"), (25_557_032, "parameters", "25,557,032"), (3.857973248e9, "MACs", "3,857,973,248"),
     (1.8, "billion multiply-adds", "1.8"), (0.27, "million parameters", "0.27"), (None, "%", "–")],
)  # fmt: skip
def test_numbers_are_told_as_their_unit_deserves(value: float | None, unit: str, told: str):
    assert number(value, unit) == told


def test_a_row_planted_wrong_must_differ_and_counts_as_right_when_it_does(tmp_path: Path):
    planted = {"name": "wrong", "unit": "G", "verdict": "differs", "ours": [4.09], "mean": 4.09, "planted": True}
    text = words(write(tmp_path, table(rows=[planted])))
    assert "wrong 4.09 differs, as it must" in text
    assert "1 agrees" not in text
    assert "1 differs" not in text
    missed = {**planted, "verdict": "agrees"}
    assert "wrong 4.09 agrees, and must differ" in words(write(tmp_path / "missed", table(rows=[missed])))


def test_a_claim_of_shortened_trainings_is_counted_apart_and_says_its_length(tmp_path: Path):
    full = {"text": "in full", "verdict": "agrees", "p": 0.01}
    short = {"iterations": 2000, "of": 64_000}
    shortened = {"text": "in short", "verdict": "agrees", "p": 0.02, "short": short}
    open_one = {"text": "open", "verdict": "not tested at this budget", "p": 0.2, "short": short}
    text = words(write(tmp_path, figure(rows=[], claims=[full, shortened, open_one])))
    assert "1 agrees · 1 agrees, shortened · 1 not tested at this budget" in text
    assert "2 agrees" not in text
    assert "in short agrees 2,000 of 64,000 iterations 0.020" in text


def test_the_list_and_the_report_count_alike(tmp_path: Path):
    short = {"iterations": 2000, "of": 64_000}
    verdicts = ("agrees", "differs", "not tested at this budget", "measured", "cited")
    rows = [
        {"name": f"{verdict} {planted}", "unit": "%", "verdict": verdict, "planted": planted}
        for verdict in verdicts
        for planted in (False, True)
    ]
    claims = [
        {"text": verdict, "verdict": verdict, "short": each} for verdict in verdicts[:3] for each in (None, short)
    ]
    record = table(rows=rows, claims=claims)
    write(tmp_path, record)
    (listed,) = (counts for path, counts in listed_verdicts("table6", tmp_path).items() if str(tmp_path) in path)
    assert listed == dict(section(msgspec.convert(record, Record)).tally)
    assert listed["agrees"] == 2
    assert listed["agrees, shortened"] == 1
    assert "cited" not in listed


def test_every_section_says_with_what_its_runs_were_made(tmp_path: Path):
    rows = table()["rows"]
    rows[1] |= {"hardware": "a GPU", "torch": "2.15.0", "commit": "aaaa1111", "data": "f00d"}
    rows[2] |= {"hardware": "a core", "torch": "2.11.0", "commit": "bbbb2222", "data": "f00d"}
    other = figure(environment={"cpu": "another core", "commit": "cccc3333"})
    text = words(write(tmp_path, table(rows=rows), other))
    assert "rows ResNet-20 trained on a GPU torch 2.15.0 commit aaaa1111 training images f00d" in text
    assert "rows ResNet-110 trained on a core torch 2.11.0 commit bbbb2222 training images f00d" in text
    assert "AMD EPYC 7B13" in text
    assert "cpu another core" in text


def test_a_single_printed_number_has_no_remark():
    assert remark(Printed(value=8.75), "%") == ""

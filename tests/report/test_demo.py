import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from residual.report import write_demo

MakeDemo = Callable[..., Path]


def words(path: Path) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", path.read_text()).split())


def test_the_verdict_is_the_one_in_the_record(make_demo: MakeDemo):
    text = words(write_demo(make_demo()))
    assert "The claim shows in this run" in text
    assert "Depth hurt the plain networks (21.0 % against 9.0 %, p = 0.002)" in text
    assert "Why it may not show" not in text


def test_a_claim_that_did_not_show_is_reported_as_that(make_demo: MakeDemo):
    text = words(write_demo(make_demo(holds=False)))
    assert "The claim did not show in this run" in text
    assert "The claim shows in this run" not in text
    assert "not worse than that of 8 beyond chance (p = 0.41)" in text
    assert "Why it may not show" in text


def test_every_seed_and_every_mean_is_printed(make_demo: MakeDemo):
    folder = make_demo()
    runs = json.loads((folder / "demo.json").read_text())["runs"]
    text = words(write_demo(folder))
    for network in ("plain8", "plain50", "resnet8", "resnet50"):
        for kind in ("train_error", "test_error"):
            values = [run["final"][kind] for run in runs if run["network"] == network]
            row = " ".join(f"{value:.2f}" for value in [sum(values) / 3, *values])
            assert row in text
    assert "&lt; 0.001" in text


def test_both_panels_are_there_and_nothing_is_fetched(make_demo: MakeDemo):
    text = write_demo(make_demo()).read_text()
    assert text.count("<svg") == 2
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert "<script" not in text


def test_a_demo_that_was_cut_short_says_so(make_demo: MakeDemo):
    folder = make_demo()
    demo = json.loads((folder / "demo.json").read_text())
    demo["runs"] = [run for run in demo["runs"] if run["family"] == "plain"]
    (folder / "demo.json").write_text(json.dumps(demo))
    text = words(write_demo(folder))
    assert "No residual network was trained" in text


def test_names_in_the_record_are_text(make_demo: MakeDemo):
    folder = make_demo()
    demo = json.loads((folder / "demo.json").read_text())
    demo["verdict"]["sentence"] = demo["runs"][0]["network"] = "<script>alert(1)</script>"
    (folder / "demo.json").write_text(json.dumps(demo))
    assert "<script" not in write_demo(folder).read_text()


def test_a_folder_without_a_demo_is_refused_in_words(tmp_path: Path):
    with pytest.raises(ValueError, match="Make one with: residual demo"):
        write_demo(tmp_path)

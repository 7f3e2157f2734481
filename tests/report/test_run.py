import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from residual.report import write

MakeRun = Callable[..., Path]
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Refuses what is not well nested, and collects what would fetch, run or be doubly named."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.tags, self.ids, self.addresses = "", set[str](), list[str](), list[str]()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has a script in {name}"
            if name in ("src", "href", "data", "action", "srcset", "xlink:href"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_report_holds_all_it_shows(finished: Path):
    path = finished / "report.html"
    report = page(path)
    text = path.read_text()
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in report.addresses)
    assert not report.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert "default-src 'none'" in text


def test_no_two_parts_of_the_page_share_a_name_and_every_inner_link_arrives(finished: Path):
    report = page(finished / "report.html")
    assert len(set(report.ids)) == len(report.ids)
    assert {address[1:] for address in report.addresses if address.startswith("#")} <= set(report.ids)


def test_the_numbers_are_there(finished: Path):
    evaluation = json.loads((finished / "evaluation.json").read_text())
    text = " ".join(page(finished / "report.html").text.split())
    low, high = evaluation["interval"]
    assert f"{evaluation['top1_error']:.2f} %" in text
    assert f"95 % interval {low:.2f} to {high:.2f} %" in text
    assert "Error on 10,000 images of the test set" in text
    assert "269,722" in text  # parameters of ResNet-20, summed over its stages
    assert "40,551,040" in text
    assert "Stage Output side Blocks Channels Parameters Multiply-adds stem 32 0 16 464 442,368" in text
    assert "Top-5 error 0.41 %. Expected calibration error 4.1 %" in text
    assert "residual train --model resnet20 --data cifar10" in text
    assert "3,072 numbers from 120 to 121" in text
    assert "44 min" in text
    assert "train/cat/0331.png the file ends after 412 of 2,210 bytes" in text


def test_last_iteration_and_best_by_validation_are_told_apart(finished: Path):
    text = " ".join(page(finished / "report.html").text.split())
    assert re.search(r"last iteration 64,000 \d\.\d\d % \d+\.\d\d %", text)
    assert re.search(r"best by validation \d\d,\d00 8\.\d\d % 8\.17 %", text)


def test_a_class_named_like_a_script_does_not_run(make_run: MakeRun):
    evil = "<script>alert(1)</script>"
    run = make_run(classes=(evil, '"><img src=x onerror=alert(1)>', "a\u0000b $x^2$ \N{CAT FACE}"))
    change(run / "run.json", name=evil, seed=1, command=evil, recipe={evil: evil}, data={"origin": evil})
    path = write(run)
    report = page(path)
    assert "script" not in report.tags
    assert evil in report.text  # shown as what it is
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in report.addresses)


def test_a_picture_that_is_no_png_is_left_out(make_run: MakeRun):
    run = make_run()
    mistakes = [
        {"name": "x", "truth": "a", "predicted": "b", "probability": 1, "png": png}
        for png in ("", "%%%", "PHN2Zz48L3N2Zz4=", '" onerror="alert(1)')
    ]
    change(run / "evaluation.json", mistakes=mistakes)
    text = write(run).read_text()
    assert text.count("no picture") == 4
    assert "onerror" not in text


@pytest.mark.parametrize("classes", [2, 30, 200])
def test_every_number_of_classes_can_be_read(make_run: MakeRun, classes: int):
    names = tuple(f"kind {number}" for number in range(classes))
    text = page(write(make_run(classes=names))).text
    assert ("Confusion matrix" in text) == (classes <= 30)
    assert "Most frequent confusions" in text
    assert ("Hardest classes" in text) == (classes > 30)
    assert f"kind {classes - 1}" in text


def test_a_run_that_has_not_ended_says_what_is_missing(make_run: MakeRun):
    text = " ".join(page(write(make_run(evaluated=False))).text.split())
    assert "This is not a final number" in text
    assert "evaluation.json is not there" in text
    assert "No mistakes were recorded" in text


def test_a_run_with_nothing_but_its_name_still_has_a_report(tmp_path: Path):
    (tmp_path / "run.json").write_text('{"name": "bare"}')
    text = " ".join(page(write(tmp_path)).text.split())
    assert "Nothing has been measured yet" in text
    assert "metrics.jsonl has no measurement yet" in text
    assert "run.json does not tell the stages of the network" in text


def test_half_a_line_at_the_end_of_the_metrics_is_no_reason_to_fail(make_run: MakeRun):
    run = make_run()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 64100, "lo')
    assert "64,000 iterations" in page(write(run)).text


def test_a_folder_without_a_run_is_refused_in_words(tmp_path: Path):
    with pytest.raises(ValueError, match=r"a run folder holds run\.json"):
        write(tmp_path)


def test_a_damaged_evaluation_names_its_file_and_field(make_run: MakeRun):
    run = make_run()
    change(run / "evaluation.json", top1_error="eight")
    with pytest.raises(ValueError, match=r"evaluation\.json.*top1_error"):
        write(run)


def test_writing_again_gives_the_same_file(finished: Path):
    before = (finished / "report.html").read_bytes()
    assert write(finished).read_bytes() == before


def test_the_report_needs_no_torch():
    code = "import sys, residual.report; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "matplotlib", "jinja2"} & set(run.stdout.split())

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residual import pipeline
from residual.data.transforms import Normalize
from residual.evaluate.error import top_k_error
from residual.evaluate.look import score_views
from residual.evaluate.protocol import multi_scale, one_crop, ten_crop
from residual.pipeline import Plan, Stop, planned, read_data
from residual.recipes.demo import demo
from residual.records import RunFolder, write_json
from residual.reproduce import measures
from residual.reproduce.exam import examined, found
from residual.weights.sources import load

LINES = (  # step, epoch, training error of the iterations since the line before
    (5, 0.5, 90.0),
    (10, 1.0, 80.0),
    (15, 1.5, 50.0),
    (19, 1.9, 40.0),
    (20, 2.0, 10.0),
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A run of two passes of ten iterations, of which only the numbers are there."""
    run = RunFolder.create(tmp_path / "run", {"name": "run"})
    for step, epoch, error in LINES:
        run.append({"step": step, "epoch": epoch, "loss": 1.0, "train_error": error})
    run.append({"step": 10, "epoch": 1.0, "test_error": 70.0, "weights": "last"})
    run.append({"step": 20, "epoch": 2.0, "test_error": 30.0, "weights": "last"})
    run.append({"step": 20, "epoch": 2.0, "test_error": 29.0, "weights": "last", "final": True})
    write_json(run.path / "evaluation.json", {"top1_error": 29.0, "top5_error": 3.0})
    write_json(run.path / "evaluation-best.json", {"top1_error": 28.0})
    return run.path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network after a few iterations on drawn shapes."""
    run = tmp_path_factory.mktemp("runs") / "run"
    recipe = replace(demo(), iterations=6, epochs=None)
    changes = {"widths": (4, 4, 8), "stem_width": 4}
    plan = Plan(model="resnet8", data="shapes", recipe=recipe, size=16, device="cpu", workers=0, changes=changes)
    for _ in pipeline.train(plan, run, stop=Stop()):
        pass
    return run


def test_test_errors_are_those_of_the_last_and_of_the_chosen_weights(written):
    assert measures.test_error([written]) == 29.0
    assert measures.top5_error([written]) == 3.0
    assert measures.chosen_test_error([written]) == 28.0


def test_training_error_is_the_mean_over_the_iterations_of_the_last_pass(written):
    assert measures.training_error([written]) == pytest.approx((5 * 50 + 4 * 40 + 10) / 10)


def test_early_training_error_is_the_mean_over_the_first_fifth(written):
    assert measures.early_training_error([written]) == 90.0  # a line is not divided: the first says it all


def test_the_lowest_of_several_trainings(written, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_json(other / "evaluation.json", {"top1_error": 31.0})
    assert measures.lowest_test_error([other, written]) == 29.0


def test_curves_are_against_tens_of_thousands_of_iterations_and_leave_the_final_evaluation_out(written):
    found = measures.curves(written)
    assert list(found) == ["training error", "test error"]
    assert found["training error"] == [(pytest.approx(step / 10_000), error) for step, _, error in LINES]
    assert found["test error"] == [(pytest.approx(0.001), 70.0), (pytest.approx(0.002), 30.0)]


def test_a_run_that_has_not_begun_is_refused(tmp_path):
    RunFolder.create(tmp_path / "empty", {"name": "empty"})
    with pytest.raises(ValueError, match="has not begun"):
        measures.training_error([tmp_path / "empty"])


def test_a_top_5_error_of_few_classes_is_refused(written):
    write_json(written / "evaluation.json", {"top1_error": 29.0})
    with pytest.raises(ValueError, match="more than five classes"):
        measures.top5_error([written])


@pytest.mark.parametrize("views", [ten_crop, multi_scale])
def test_an_error_under_a_protocol_is_that_of_evaluate_and_is_measured_once(trained, views, monkeypatch):
    network = load(trained)
    preprocessing = network.card.preprocessing
    _, images = measures.held_out(read_data(planned(trained)))
    scores = score_views(network, images, preprocessing, views(one_crop(preprocessing)))
    name = views(one_crop(preprocessing)).name
    assert measures.error_under(name)([trained]) == top_k_error(scores)
    monkeypatch.setattr(measures, "_seen", None)  # a second look would fail
    assert measures.error_under(name, top=5)([trained]) == top_k_error(scores, 5)


def test_a_kept_error_of_another_protocol_is_measured_again(trained, monkeypatch):
    """Its name was all that was looked at."""
    error = measures.error_under("ten-crop")([trained])
    ((path, kept),) = [
        (path, kept)
        for path in trained.glob("exam-*.json")
        if (kept := json.loads(path.read_bytes()))["way"].get("protocol") == "ten-crop" and len(kept["weights"]) == 1
    ]
    changed = kept | {"found": kept["found"] | {"top1_error": 0.0}, "rules": [kept["rules"][0] | {"pad": 1}]}
    write_json(path, changed)
    assert measures.error_under("ten-crop")([trained]) == error
    write_json(path, kept)
    way = measures.Views(protocol="ten-crop")
    assert found(way, [trained])
    monkeypatch.setitem(measures.PROTOCOLS, "ten-crop", lambda once: replace(ten_crop(once), pad=1))
    assert found(way, [trained]) is None


def layer_responses(run):
    """Standard deviations, in the order of the layers."""
    return examined(measures.Responses(), [run])["std"]


def test_responses_to_another_number_of_images_are_measured_again(trained, monkeypatch):
    layer_responses(trained)
    assert found(measures.Responses(), [trained])
    monkeypatch.setattr(measures, "ANALYZED", 100)
    assert found(measures.Responses(), [trained]) is None


def test_an_ensemble_of_one_network_with_itself_is_that_network_and_is_measured_once(trained, monkeypatch):
    alone = measures.error_under("ten-crop")([trained])
    assert measures.error_under("ten-crop")([trained, trained]) == alone
    monkeypatch.setattr(measures, "_seen", None)
    assert measures.error_under("ten-crop")([trained, trained]) == alone


def test_responses_are_kept_in_order_and_sorted(trained):
    found = layer_responses(trained)
    assert len(found) == 7
    (kept,) = [
        read for path in trained.glob("exam-*.json") if "std" in (read := json.loads(path.read_bytes())["found"])
    ]
    assert kept == {"images": 500, "std": found}
    assert measures.responses_in_order(trained)["response"] == list(enumerate(found, start=1))
    ordered = [std for _, std in measures.responses_sorted(trained)["response"]]
    assert ordered == sorted(found, reverse=True)
    assert measures.mean_response([trained]) == pytest.approx(sum(found) / 7)


def test_the_first_response_is_that_of_the_stem(trained):
    network, (_, images) = load(trained), measures.held_out(read_data(planned(trained)))
    pixels = torch.cat(list(images.stream([torch.arange(len(images))])))
    with torch.inference_mode():
        normalized = Normalize(network.card.preprocessing)(pixels)
        expected = network.stem.norm(network.stem.conv(normalized)).std(correction=0).item()
    assert layer_responses(trained)[0] == pytest.approx(expected, rel=1e-5)

"""The page says what the run's files say."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bt_plugin.cli import main
from bt_plugin.report.charts import baselines, thinned
from bt_plugin.report.embedding_map import COLUMNS, THUMBNAIL_PX, EmbeddingMap, embedding_map, in_two_dimensions
from bt_plugin.report.page import page
from bt_plugin.report.palette import class_colors
from bt_plugin.report.record import read_runs
from bt_plugin.report.tables import differing_keys, summary_rows
from bt_plugin.report.write import write_report
from tests.bt_plugin.report.conftest import NAMES, recipe_of


class Tags(HTMLParser):
    """Start tags with their attributes, and which ones were not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def texts_of_charts(page: Path) -> list[str]:
    return [str(image["alt"]) for image in Tags(page.read_text()).of("img")]


def test_the_page_is_whole_and_escaped(page_of_two: Path) -> None:
    text = page_of_two.read_text()
    tags = Tags(text)
    assert tags.open == []
    assert not tags.of("i"), "a run's name is no markup"
    assert "a&amp;b &lt;i&gt;two" in text
    identifiers = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {anchor["href"] for anchor in tags.of("a")} <= {f"#{name}" for name in identifiers}


def test_each_picture_is_told_in_words_of_its_numbers(page_of_one: Path, runs: list[Path]) -> None:
    metrics = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    evaluations = [json.loads(line) for line in (runs[0] / "evaluations.jsonl").read_text().splitlines()]
    texts = texts_of_charts(page_of_one)
    assert all(texts)
    for name, title, lines in (("loss", "loss", metrics), ("rankme", "RankMe of embeddings", evaluations)):
        values = [line[name] for line in lines]
        (told,) = (text for text in texts if text.startswith(f"Line chart of {title} by step."))
        assert f"one: {values[0]:.4g} at step {lines[0]['step']}, {values[-1]:.4g} at step 12" in told
        assert f"between {min(values):.4g} and {max(values):.4g}" in told
    assert len([text for text in texts if "at step 12" in text and text.startswith("Heatmap")]) == 2


def test_a_curve_goes_through_its_points(page_of_one: Path, runs: list[Path]) -> None:
    """Read back out of the figure: heights are in the order of the values."""
    tags = Tags(page_of_one.read_text())
    (source,) = (str(i["src"]) for i in tags.of("img") if str(i["alt"]).startswith("Line chart of mean of C"))
    svg = base64.b64decode(source.partition(",")[2]).decode()
    (line,) = (path for path in re.findall(r'<path d="(M [^"]+)"[^>]*stroke: #0072b2', svg) if path.count("L") == 11)
    heights = [-float(point.split()[1]) for point in re.split("[ML]", line)[1:]]
    values = [json.loads(text)["diagonal_mean"] for text in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(np.corrcoef(heights, values)[0, 1], 1, atol=1e-4)


def test_the_summary_is_the_runs(runs: list[Path]) -> None:
    rows = dict(summary_rows(read_runs(runs)))
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    for metric, name in (("knn_top1", "kNN"), ("linear_top1", "linear"), ("view_retrieval_top1", "view retrieval")):
        for network in ("raw pixels", "untrained network", "calibrated network", "pretrained network"):
            cells = rows[f"{name} top-1, {network}"]
            shares = [f"{each[metric][network.split()[0]]:.1%} (" for each in summaries]
            assert all(cell.startswith(share) for cell, share in zip(cells, shares, strict=True))
            images = [each["view_retrieval_images" if name == "view retrieval" else "val_images"] for each in summaries]
            assert all(cell.endswith(f"%) of {count} images") for cell, count in zip(cells, images, strict=True))
    assert rows["steps"] == ["12", "12"]


@pytest.mark.parametrize(
    ("metric", "title", "networks"),
    [
        ("knn_top1", "kNN", ["raw", "untrained", "calibrated"]),
        ("linear_top1", "online linear probe", ["raw", "untrained", "calibrated", "pretrained"]),
        ("view_retrieval_top1", "view retrieval, top-1 of 36 images", ["raw", "untrained", "calibrated"]),
        ("lidar", "LiDAR", ["untrained", "calibrated"]),
        ("rankme", "RankMe", ["untrained", "calibrated"]),
        ("effective_rank", "effective rank", ["untrained", "calibrated"]),
    ],
)
def test_a_chart_has_the_baselines_of_the_summary(
    trained_run: Path, page_of_one: Path, metric: str, title: str, networks: list[str]
) -> None:
    """Each has a dashed line, a label and a text."""
    scores = json.loads((trained_run / "summary.json").read_text())[metric]
    images = Tags(page_of_one.read_text()).of("img")
    (image,) = (each for each in images if str(each["alt"]).startswith(f"Line chart of {title}"))
    labels = {name: name for name in networks} | {"raw": "raw pixels"}
    said = ", ".join(f"{labels[name]} {scores[name]:.4g}" for name in networks)
    assert str(image["alt"]).endswith(f"Baselines: {said}.")
    svg = base64.b64decode(str(image["src"]).partition(",")[2]).decode()
    assert all(re.search(rf"<text[^>]*>{labels[name]}</text>", svg) for name in networks)
    assert svg.count("stroke-dasharray") == len(networks)


def test_a_run_without_a_summary_has_no_baselines(copied: Path, page_of_one: Path) -> None:
    assert page_of_one.read_text().count("Baselines:") == 6, "no other metric has baselines"
    (copied / "summary.json").unlink()
    write_report([copied], copied / "page.html", map_images=0)
    text = (copied / "page.html").read_text()
    assert "Line chart of kNN top-1" in text
    assert "Baselines:" not in text
    assert "Dashed lines" not in text


def test_a_run_from_before_view_retrieval_has_a_page(copied: Path) -> None:
    new = ("view_retrieval_top1", "view_retrieval_images", "lidar")
    for name in ("evaluations.jsonl", "summary.json"):
        text = (copied / name).read_text()
        contents = [json.loads(part) for part in (text.splitlines() if name.endswith("l") else [text])]
        kept = [{key: value for key, value in content.items() if key not in new} for content in contents]
        (copied / name).write_text("".join(f"{json.dumps(content)}\n" for content in kept))
    assert not any("retrieval" in name or "LiDAR" in name for name, _ in summary_rows(read_runs([copied])))
    write_report([copied], copied / "page.html", map_images=0)
    texts = texts_of_charts(copied / "page.html")
    assert any(text.startswith("Line chart of RankMe") for text in texts)
    assert not any("retrieval" in text or "LiDAR" in text for text in texts)


def test_a_baseline_that_runs_share_is_drawn_once(runs: list[Path]) -> None:
    one, two = read_runs(runs)
    scores = {"raw": 0.2, "untrained": 0.3, "calibrated": 0.4}
    one = one._replace(summary={"knn_top1": scores})
    two = two._replace(summary={"knn_top1": {**scores, "calibrated": 0.5}})
    found = [(level.label, level.value) for level in baselines([one, two], "knn_top1")]
    assert found == [("raw pixels", 0.2), ("untrained", 0.3), ("calibrated", 0.4), ("calibrated", 0.5)]
    many = [one._replace(summary={"knn_top1": {"raw": n / 9, "calibrated": n / 10}}) for n in range(5)]
    assert {level.label for level in baselines(many, "knn_top1")} == {"calibrated"}, "the labels of ten do not fit"


def test_two_runs_differ_where_their_recipes_do(runs: list[Path], trained_run: Path) -> None:
    """The first is a copy of the shared run."""
    differing = dict(differing_keys(read_runs(runs)))
    assert differing == {"loss.lambda_param": ["0.0051", "0.05"], "run.output_dir": [str(trained_run), str(runs[1])]}


def test_a_run_that_goes_on_has_a_page(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From its newest checkpoint; a line that is being written is left for the next time."""
    shutil.rmtree(copied / "export")
    (copied / "summary.json").unlink()
    with open(copied / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "lo')
    assert main(["report", str(copied)]) == 0
    assert capsys.readouterr().out.strip() == str(copied / "report.html")
    text = (copied / "report.html").read_text()
    assert "12, unfinished" in text
    assert text.count("<circle") == 12


def test_a_run_that_diverged_has_a_page(copied: Path) -> None:
    lines = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    for line, loss in zip(lines[8:], (1e30, math.inf, math.nan, math.nan)):
        line["loss"] = loss
    for line in lines:
        line["redundancy"] = math.nan
    (copied / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report([copied], copied / "page.html", map_images=0)
    texts = texts_of_charts(copied / "page.html")
    assert any("nan at step 12, between" in text and "and 1e+30, 3 times not finite" in text for text in texts)
    assert any("redundancy term" in text and "never finite" in text for text in texts)


def test_without_its_images_all_the_rest_is_there(copied: Path, tmp_path: Path) -> None:
    recipe = (copied / "recipe.yaml").read_text()
    (copied / "recipe.yaml").write_text(re.sub(r"val: [^,}]*/val", f"val: {tmp_path}/gone", recipe))
    assert main(["report", str(copied)]) == 0
    text = (copied / "report.html").read_text()
    assert f"There is no map: data.val: {tmp_path}/gone" in text
    assert "Line chart of loss" in text


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path, small_data: Path) -> None:
    recipe = recipe_of(tmp_path / "run", small_data)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.to_yaml())
    assert main(["report", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert "There are no metrics yet" in text
    assert "neither an export nor a checkpoint" in text
    assert Tags(text).open == []


def test_images_without_classes_have_a_map(copied: Path, small_data: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (small_data / "train").glob("*/*"):
        (flat / f"{path.parent.name}-{path.name}").symlink_to(path.resolve())
    recipe = (copied / "recipe.yaml").read_text()
    changed = re.sub(r"train: [^,}]*/train", f"train: {flat}", re.sub(r"val: [^,}]*/val", "val: null", recipe))
    (copied / "recipe.yaml").write_text(changed)
    write_report([copied], tmp_path / "page.html", 100)
    text = (tmp_path / "page.html").read_text()
    assert text.count("<circle") == 36
    assert "36 images of data.train" in text
    assert "legend" not in text.split("</style>")[1].split("<script>")[0]


def test_the_map_shows_each_image_where_it_says(runs: list[Path], small_data: Path) -> None:
    (run,) = read_runs(runs[:1])
    found = embedding_map(run, 100)
    assert len(found.names) == len(found.points) == 12
    assert [found.classes[label] for label in found.labels] == [name.split("/")[0] for name in found.names]
    sheet = Image.open(BytesIO(found.sprite)).convert("RGB")
    number = 7
    row, column = divmod(number, COLUMNS)
    box = [THUMBNAIL_PX * part for part in (column, row, column + 1, row + 1)]
    thumbnail = np.asarray(sheet.crop((box[0], box[1], box[2], box[3])), float)
    errors = []
    for name in found.names:
        image = Image.open(small_data / "val" / name).convert("RGB").resize((64, 64)).crop((4, 4, 60, 60))
        errors.append(np.abs(np.asarray(image.resize((THUMBNAIL_PX,) * 2), float) - thumbnail).mean())
    assert int(np.argmin(errors)) == number
    assert np.array_equal(found.points, embedding_map(run, 100).points), "the same each time"
    assert len(embedding_map(run, 9).names) == 9


def test_a_thousand_classes_have_no_thousand_buttons(runs: list[Path]) -> None:
    (run,) = read_runs(runs[:1])
    labels = list(range(0, 1000, 10))
    classes = tuple(f"class {number}" for number in range(1000))
    found = EmbeddingMap("data.val", [str(label) for label in labels], labels, classes, np.zeros((100, 2)), b"")
    text = page([run], {run.name: found})
    assert "1000 classes, each in its own color" in text
    assert not Tags(text).of("button")
    assert "990, class 990" in text


def test_a_long_run_has_a_short_page(runs: list[Path]) -> None:
    (run,) = read_runs(runs[:1])
    long = run._replace(metrics=[{"step": step, "loss": 2.0 + step % 2} for step in range(1, 30_002)])
    steps, values = thinned(long.metric("loss"))
    assert (steps[0], steps[-1], len(steps)) == (31, 30_001, 968)
    assert max(values) - min(values) < 0.05, "means of neighbours"
    text = page([long], {run.name: "the report was made with --map-images 0."})
    assert len(text) < 600_000
    assert "each point is the mean of several lines" in text
    assert "30001, between 2 and 3" in text, "in words, all of them"
    short = run.metric("loss")
    assert thinned(short) == short


def test_near_ones_stay_near() -> None:
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(3, 100)) * 5
    labels = np.arange(90) % 3
    points = in_two_dimensions(centers[labels] + generator.normal(size=(90, 100)), seed=0)
    assert points.min() == 0
    assert points.max() == 1
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(90)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.95


def test_classes_have_colors_of_their_own() -> None:
    colors = class_colors(100)
    assert len(set(colors)) == 100
    assert all(re.fullmatch("#[0-9a-fA-F]{6}", color) for color in colors)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{empty}"], r"{empty}: has no recipe\.yaml\. Give the directory of a run"),
        (["{run}", "{run}/", "-o", "{empty}/x.html"], "is given twice"),
        (["{run}", "{other}"], "--output: a page about several runs needs a name"),
        (["{run}", "-o", "{empty}/x.pdf"], r"must end in \.html"),
        (["{run}", "-o", "{there}"], "already exists"),
        (["{run}", "--map-images", "-1"], "--map-images: -1 is not allowed"),
    ],
)
def test_what_is_refused(
    arguments: list[str], said: str, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    there = tmp_path / "there.html"
    there.write_text("mine")
    places = {"run": runs[0], "other": runs[1], "empty": tmp_path / "empty", "there": there}
    assert main(["report", *(argument.format(**places) for argument in arguments)]) == 2
    assert re.search(said.format(**places), capsys.readouterr().err)
    assert there.read_text() == "mine"
    assert not list((tmp_path / "empty").iterdir())


def test_runs_of_one_name_are_told_apart(runs: list[Path], tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(run, tmp_path / parent / "run")) for run, parent in zip(runs, "xy")]
    assert [run.name for run in read_runs(folders)] == [str(folder) for folder in folders]
    assert [run.name for run in read_runs(runs)] == list(NAMES)

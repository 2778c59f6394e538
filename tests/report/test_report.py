"""The report as its readers get it: files by name, a page that needs nothing else, in a real browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from configs.errors import UserError
from report.__main__ import main

REFERENCE = ("training_curves", "target_distribution", "metadata_analysis", "feature_correlation", "error_analysis")
REFERENCE += ("false_negatives", "false_positives", "test_predictions_distribution", "sample_images")
REFERENCE += ("image_properties",)


def words(runs: Path, shards: Path, out: Path, *more: str) -> list[str]:
    few = ["--pictures", "100", "--stressed", "20", "--draws", "100"]
    return ["--runs", str(runs), "--shards", str(shards), "--out", str(out), *few, *more]


@pytest.fixture(scope="module")
def report(trained: Path, synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    main(words(trained, synthetic_shards, out))
    return out


def test_every_figure_of_the_reference_is_there_under_its_name(report: Path) -> None:
    for name in REFERENCE:
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


def test_the_markdown_links_to_files_that_exist_and_tables_are_read_back(report: Path) -> None:
    text = (report / "report.md").read_text()
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert len(linked) > 10
    assert all((report / name).is_file() for name in linked)
    for path in report.glob("*.csv"):
        assert len(pd.read_csv(path).columns) > 1, path.name


def test_the_page_holds_everything_itself(report: Path) -> None:
    text = (report / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", text)
    assert text.count("<img") == len(list(report.glob("*.png")))


def test_the_same_members_give_the_same_files(
    report: Path, trained: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    main(words(trained, synthetic_shards, tmp_path))
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (report, tmp_path))
    assert first == second


def test_members_without_an_ensemble_are_judged_on_their_own_predictions(
    trained: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "tiny", tmp_path / "runs" / "tiny")
    main(words(tmp_path / "runs", synthetic_shards, tmp_path / "out", "--pictures", "0", "--stressed", "0"))
    text = (tmp_path / "out" / "report.md").read_text()
    assert "infer.py --ensemble makes them" in text
    assert not (tmp_path / "out" / "test_predictions_distribution.png").exists()


def test_predictions_of_other_members_are_refused(trained: Path, synthetic_shards: Path, tmp_path: Path) -> None:
    for fold in (0, 1):
        shutil.copytree(trained / "tiny" / f"fold{fold}", tmp_path / "runs" / "tiny" / f"fold{fold}")
    with pytest.raises(UserError, match=r"outputs.*infer\.py --ensemble"):
        main(words(tmp_path / "runs", synthetic_shards, tmp_path, "--predictions", str(trained / "outputs")))


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for found in map(shutil.which, names) if found), None)
    if path is None:
        pytest.skip("no browser: install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_whole_page_without_asking_for_anything(
    browser: object, report: Path, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[attr-defined]
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = (report / "report.html").as_uri()
    page.goto(address)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.images.length") > 9
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"
    page.close()

"""The page in a real browser: nothing fails, everything is drawn, on a phone and in the dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comparison_factory import make_comparison
from report_factory import make_exhibits, make_summary

from elbowroom.report import render
from elbowroom.report.comparison_page import render_comparison

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
CHROMIUM, DRIVER = shutil.which("chromium"), Path("/usr/bin/chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or not DRIVER.exists(),
    reason="needs the packages chromium and chromium-driver",
)

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LONG = "a-model-with-a-very-long-name-" * 5
POINTS = """
return [...document.querySelectorAll(".chart")].map((chart) =>
  chart.querySelectorAll(".scatterlayer .js-line").length == chart.data.length &&
  Math.min(...chart.data.map((trace) => trace.x.length)))
"""
CELLS = """
const rgb = (colour) => {
  const parts = colour.match(/[0-9.]+/g).map(Number);
  return (colour.startsWith("color(") ? parts : parts.map((v) => v / 255)).slice(0, 3);
};
return [...document.querySelectorAll(".heat tbody td")].map((td) => ({
  pair: td.textContent.trim() !== "",
  ink: rgb(getComputedStyle(td).color),
  paper: rgb(getComputedStyle(td).backgroundColor),
}));
"""
WIDTHS = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
DIFFERENCES = """
const charts = ["chart-certified", "chart-attacked"].map((id) => document.getElementById(id));
const count = (what) => charts.map((chart) => chart.querySelectorAll(what).length);
const curves = document.getElementById("chart-curves");
const ink = (element) => getComputedStyle(element).stroke;
const probe = document.body.appendChild(document.createElement("i"));
const named = (name) => {
  probe.style.stroke = `var(--${name})`;
  return getComputedStyle(probe).stroke;
};
return [
  curves.querySelectorAll(".scatterlayer .js-line").length,
  count(".point"), count(".errorbar"), count(".ytick text"),
  [...curves.querySelectorAll(".scatterlayer .js-line")].map(ink),
  [1, 1, 2, 2, 3, 3, 4, 4].map((k) => named(`model-${k}`)),
];
"""
LOOK = """
const rgb = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
const ink = (text) => rgb(getComputedStyle(text).fill);
return {
  paper: rgb(getComputedStyle(document.body).backgroundColor),
  ink: rgb(getComputedStyle(document.body).color),
  chart: [...document.querySelectorAll(".chart")].map((c) => ink(c.querySelector(".xtick text"))),
}
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=str(DRIVER))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The usual page; one of long names and many classes; one of features without pictures; a
    comparison of classifiers, one of them with a long name.
    """
    folder = tmp_path_factory.mktemp("pages")
    usual, tabular = make_exhibits(), make_exhibits(shape=(30,))
    classes = [f"{LONG}{k}" for k in range(100)]
    long = make_exhibits(classes=classes)
    long_summary = make_summary(long, classes=classes, failing=2)
    named = {"model": long_summary.model.model_copy(update={"name": LONG})}
    html = {
        "usual": render(make_summary(usual, failing=2), usual),
        "long": render(long_summary.model_copy(update=named), long),
        "tabular": render(make_summary(tabular, shape=(30,), norm="Linf"), tabular),
        "comparison": render_comparison(
            make_comparison([LONG, "b", "c", "d"]), "fonts/test", [("model", LONG)]
        ),
    }
    written = {}
    for name, text in html.items():
        written[name] = folder / f"{name}.html"
        written[name].write_text(text, encoding="utf-8")
    return written


def show(browser: Any, page: Path, *, width: int = 1280, scheme: str = "light") -> None:
    emulate(browser, scheme)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get(page.as_uri())


def emulate(browser: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def severe(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("name", ["usual", "long", "tabular"])
def test_everything_is_drawn_without_an_error(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    show(browser, pages[name])
    assert severe(browser) == []
    pictures = browser.execute_script("return [...document.images].map((i) => i.naturalWidth)")
    assert len(pictures) == (0 if name == "tabular" else 18 + 2 * 4)
    assert all(width > 0 for width in pictures)
    points = browser.execute_script(POINTS)
    assert len(points) == 2
    assert all(count > 10 for count in points)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_comparison_is_drawn_in_the_colours_of_its_theme(
    browser: Any, pages: dict[str, Path], scheme: str
) -> None:
    show(browser, pages["comparison"], scheme=scheme)
    assert severe(browser) == []
    lines, dots, bars, labels, colours, models = browser.execute_script(DIFFERENCES)
    assert lines == 2 * 4
    assert dots == bars == [6, 6]
    assert labels == [6, 6]
    assert colours == models


@pytest.mark.parametrize("name", ["usual", "long", "tabular", "comparison"])
def test_a_phone_never_scrolls_sideways(browser: Any, pages: dict[str, Path], name: str) -> None:
    show(browser, pages[name], width=360)
    scrolled, shown = browser.execute_script(WIDTHS)
    assert shown == 360
    assert scrolled <= shown
    assert severe(browser) == []


def test_charts_follow_the_theme(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["usual"])
    light = browser.execute_script(LOOK)
    emulate(browser, "dark")
    # The change is announced with the next frame.
    WebDriverWait(browser, 5).until(
        lambda driver: driver.execute_script(LOOK)["chart"] != light["chart"]
    )
    dark = browser.execute_script(LOOK)
    assert min(light["paper"]) > 200
    assert max(light["ink"]) < 80
    assert max(dark["paper"]) < 60
    assert min(dark["ink"]) > 180
    assert light["chart"] == [light["ink"]] * 2
    assert dark["chart"] == [dark["ink"]] * 2
    assert severe(browser) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_are_readable_on_every_colour_of_the_matrix(
    browser: Any, pages: dict[str, Path], scheme: str
) -> None:
    show(browser, pages["usual"], scheme=scheme)
    cells = browser.execute_script(CELLS)
    coloured = [cell for cell in cells if cell["pair"]]
    assert len({tuple(cell["paper"]) for cell in coloured}) > 10
    for cell in coloured:
        light, dark = sorted((luminance(cell["ink"]), luminance(cell["paper"])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG 2.1, 1.4.3
    empty = {tuple(cell["paper"]) for cell in cells if not cell["pair"]}
    assert len(empty) == 1
    assert not empty & {tuple(cell["paper"]) for cell in coloured}


def luminance(colour: list[float]) -> float:
    """Relative luminance by WCAG of red, green and blue from 0 to 1."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("width", "columns"), [(1280, 6), (360, 3)])
def test_strips_of_images_fit_the_window(
    browser: Any, pages: dict[str, Path], width: int, columns: int
) -> None:
    show(browser, pages["usual"], width=width)
    rows = browser.execute_script(
        "return [...document.querySelectorAll('.path ol')].map("
        "(o) => getComputedStyle(o).gridTemplateColumns.split(' ').length)"
    )
    assert rows == [columns, columns]


def test_a_page_opened_in_the_dark_is_dark(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["usual"], scheme="dark")
    look = browser.execute_script(LOOK)
    assert max(look["paper"]) < 60
    assert look["chart"] == [look["ink"]] * 2


def test_charts_fit_the_paper_and_return(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["usual"])
    width = "return document.querySelector('.chart .main-svg').getBoundingClientRect().width"
    before = browser.execute_script(width)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(width) == 640
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(width) == before > 640

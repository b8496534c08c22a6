"""The report in a browser: controls by mouse and keyboard; no foreign script or request."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.reports import EVIL, evil_tasks, make_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync".split()
SHOWN = "#gallery figure:not([hidden])"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return make_report(tmp_path_factory.mktemp("page"), evil_tasks(3), drawn=True)


@pytest.fixture(scope="module")
def entries(report) -> list[dict]:
    """The images in the order of the page, worst first."""
    html = (report / "index.html").read_text()
    return json.loads(re.search(r'id="gallery-data">(.*?)</script>', html, re.DOTALL)[1])["images"]


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "no chromium, chromium-browser or google-chrome on PATH: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(request, browser, report):
    """The open report. Checks after every test: no console message, no alert, no request except for its own files."""
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1280, "height": 900}}))
    page = context.new_page()
    page.set_default_timeout(5000)
    faults = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(f"alert: {dialog.message}"), dialog.dismiss()))
    page.on("requestfailed", lambda sent: faults.append(f"failed: {sent.url}"))
    page.on("request", lambda sent: sent.url.startswith(report.as_uri()) or faults.append(f"request: {sent.url}"))
    page.goto((report / "index.html").as_uri())
    yield page
    context.close()
    assert faults == []


def ids(page: Page) -> list[int]:
    found = page.eval_on_selector_all(SHOWN, "figures => figures.map((figure) => figure.id)")
    return [int(name.removeprefix("image-")) for name in found]


def paths(page: Page, entry: dict) -> int:
    page.locator(f"#image-{entry['id']}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#image-{entry['id']} svg", state="attached")
    return page.locator(f"#image-{entry['id']} path").count()


def test_the_slider_moves_the_raw_overlays_and_the_counts(page, entries):
    entry = next(entry for entry in entries if len(entry["raw"]) > 5)
    page.get_by_label("Raw", exact=True).check(force=True)
    slider = page.locator("#controls [name=score]")
    for least in (0.1, 0.5, 0.8, 1.0):
        slider.fill(str(least))
        loud = [item for item in entry["raw"] if item["score"] >= least]
        assert paths(page, entry) == len(loud)
        right = sum(item["kind"] == "right" for other in entries for item in other["raw"] if item["score"] >= least)
        summary = page.locator("#summary").inner_text()
        assert f"from score {least:.2f}" in summary
        assert (f" {right} correct" in summary) == (right > 0)


def test_keys_move_the_slider_and_so_show_what_it_moves(page):
    expect(page.get_by_label("Difference")).to_be_checked()
    page.locator("#controls [name=score]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Raw", exact=True)).to_be_checked()
    expect(page.locator("#threshold")).to_have_text("0.11")
    page.keyboard.press("End")
    expect(page.locator("#threshold")).to_have_text("1.00")


def test_each_view_draws_its_own(page, entries):
    entry = next(entry for entry in entries if len(entry["raw"]) > len(entry["filtered"]) and entry["filtered"])
    taken = {item["truth"] for item in entry["filtered"]}
    missed = sum(place not in taken for place in range(len(entry["truth"])))
    views = {"truth": entry["truth"], "raw": entry["raw"], "filtered": entry["filtered"]}
    for view, drawn in views.items():
        page.locator(f"[name=view][value={view}]").check(force=True)
        assert paths(page, entry) == len(drawn)
    page.locator("[name=view][value=difference]").check(force=True)
    assert paths(page, entry) == len(entry["filtered"]) + missed
    assert page.locator(f"#image-{entry['id']} path.missed").count() == missed


def test_filters_keep_the_images_that_match(page, entries):
    everything = ids(page)
    kinds = ("background", "class", "localisation")
    for kind in kinds:
        page.locator("[name=error]").select_option(kind)
        kept = [entry["id"] for entry in entries if any(item["kind"] == kind for item in entry["filtered"])]
        assert ids(page) == kept and 0 < len(kept) < len(everything)
    page.locator("[name=error]").select_option("missed")
    assert ids(page) == [
        entry["id"]
        for entry in entries
        if {*range(len(entry["truth"]))} - {item["truth"] for item in entry["filtered"]}
    ]
    page.get_by_text("reset").click()
    expect(page.locator(SHOWN)).to_have_count(len(everything))
    page.locator("[name=task]").select_option("2")
    assert ids(page) == [entry["id"] for entry in entries if any(2 in item["wrong"] for item in entry["filtered"])]
    page.locator("[name=class]").select_option(label=EVIL)
    assert 0 < len(ids(page)) <= 2
    page.locator("[name=task]").select_option("0")
    expect(page.get_by_text("No image matches")).to_be_visible()
    assert "0 of" in page.locator("#summary").inner_text()


def test_sorting_orders_the_images(page, entries):
    assert ids(page) == [entry["id"] for entry in entries]
    scores = {entry["id"]: entry["joint_f1"] for entry in entries}
    page.locator("[name=sort]").select_option("best")
    best = [scores[key] for key in ids(page)]
    assert best[-1] is None and best[:-1] == sorted(best[:-1], reverse=True)
    page.locator("[name=sort]").select_option("objects")
    assert ids(page)[-1] == 1, "the empty one"


def test_the_table_sorts_by_click_and_by_key(page):
    header = page.locator("#classes th", has_text="instances").first
    column = "#classes tbody tr td:nth-child(3)"
    first = page.locator(column).all_inner_texts()
    header.get_by_role("button").click()
    down = [int(text) for text in page.locator(column).all_inner_texts()]
    assert header.get_attribute("aria-sort") == "descending" and down == sorted(map(int, first), reverse=True)
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert [int(text) for text in page.locator(column).all_inner_texts()] == down[::-1]
    page.locator("#classes th").first.get_by_role("button").click()
    assert header.get_attribute("aria-sort") is None
    names = page.locator("#classes tbody th").all_inner_texts()
    assert names == sorted(names, key=str.casefold)


def test_an_image_opens_by_key_turns_by_arrow_and_returns_the_focus(page, entries):
    page.locator("#gallery figure button").first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.locator("h3")).to_have_text(entries[0]["name"])
    expect(dialog.locator(".panels svg")).to_have_count(4)
    page.keyboard.press("ArrowRight")
    expect(dialog.locator("h3")).to_have_text(entries[1]["name"])
    removed = [item for item in entries[1]["raw"] if item["removed"]]
    expect(dialog.locator("td", has_text="removed by low score")).to_have_count(len(removed))
    dialog.locator("tbody tr").first.focus()
    assert page.locator("dialog path.lit").count() >= 2, "in more than one panel"
    dialog.locator(".panels button").first.click()
    expect(dialog.locator(".panels figure:visible")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(f"#image-{entries[1]['id']} button")).to_be_focused()


def test_a_suspected_label_error_leads_to_its_image(page):
    link = page.locator("#suspects a").first
    name = link.inner_text()
    link.click()
    expect(page.locator("dialog h3")).to_have_text(name)


def test_nothing_below_an_image_moves_when_it_is_painted(page):
    figure = page.locator(SHOWN).first
    figure.scroll_into_view_if_needed()
    expect(figure.locator(".counts")).not_to_be_empty()
    height = "figure => figure.querySelector('figcaption').offsetHeight"
    painted = figure.evaluate(height)
    figure.locator(".counts").evaluate("counts => counts.replaceChildren()")  # as before it comes near
    assert figure.evaluate(height) == painted


def test_names_are_text(page, entries):
    assert any("<img" in entry["name"] for entry in entries)
    assert EVIL in page.locator("#classes tbody th").all_inner_texts()
    assert page.locator("img[src=x]").count() == 0
    for view in ("raw", "truth"):
        page.locator(f"[name=view][value={view}]").check(force=True)
    bad = next(entry for entry in entries if "<img" in entry["name"])
    page.locator(f"#image-{bad['id']} button").click()
    expect(page.locator("dialog h3")).to_have_text(bad["name"])
    assert EVIL in page.locator("#legend").inner_text()


SCREENS = [{"viewport": {"width": w, "height": 800}, "color_scheme": s} for w in (390, 1280) for s in ("light", "dark")]


@pytest.mark.parametrize("page", SCREENS, indirect=True)
def test_nothing_sticks_out_in_dark_or_light_on_a_phone_or_a_screen(page, request):
    screen = request.node.callspec.params["page"]
    wide = "document.documentElement.scrollWidth <= innerWidth && document.body.scrollWidth <= innerWidth"
    assert page.evaluate(wide)
    page.locator("#gallery figure button").first.click()
    assert page.evaluate("(d => d.scrollWidth <= d.clientWidth)(document.querySelector('dialog'))")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
    assert brightness < 60 if screen["color_scheme"] == "dark" else brightness > 200

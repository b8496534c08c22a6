"""README and docs: links lead somewhere, the site builds offline, the tables of whole runs are those of their files."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from mtseg.core.files import read_json
from mtseg.core.params import Ranking
from mtseg.evaluation.filter import RULES

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
RUNS = {"Embedded data set": ("embedded", "shape"), "Car parts": ("carparts", "main")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", prose(ROOT / "README.md")))
    assert {page.name for page in DOCS} <= linked


def test_the_site_builds_without_a_warning_and_loads_nothing_from_the_network(tmp_path):
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", ROOT / "docs", tmp_path]
    built = subprocess.run(command, text=True, capture_output=True)
    assert built.returncode == 0, built.stderr
    loads = r"<(?:script|img|iframe)\b[^>]*\bsrc=\"([^\"]+)\"|<link\b[^>]*\bhref=\"([^\"]+)\""
    for page in tmp_path.rglob("*.html"):
        urls = [script or link for script, link in re.findall(loads, page.read_text(encoding="utf-8"))]
        assert urls and not [url for url in urls if re.match("(https?:)?//", url)], page.name
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(@import|url\()\W*(https?:)?//", style.read_text(encoding="utf-8")), style.name


@pytest.mark.parametrize("heading", RUNS)
def test_tables_of_whole_runs_are_of_their_files(heading):
    folder, main = RUNS[heading]
    files = ROOT / "docs" / folder
    scores, kept, diagnosis = (read_json(files / f"{name}.json") for name in ("evaluate", "filter", "diagnosis"))
    tasks, joint = scores["tasks"], scores["joint"]
    sizes = [key for key in ("APs", "APm", "APl") if key in scores["segm"]]
    rows = [
        [name, *(scores[kind][key] for key in ("AP", "AP50", "AP75", *sizes))]
        for kind, name in (("segm", f"{main}, masks"), ("bbox", f"{main}, boxes"))
    ]
    rows.append(["joint", joint["AP"], joint["AP50"]])
    rows += [[name, *(task[key] for key in ("AP", "accuracy", "f1"))] for name, task in tasks.items()]
    rows += [[kept[kind][key] for key in ("precision", "recall", "f1", "joint_f1")] for kind in ("raw", "filtered")]
    rows += [[value - joint["AP"]] for value in diagnosis["oracles"].values()]
    intervals = pd.read_csv(files / "intervals.csv").set_index("metric").loc[["segm.AP", "joint.AP"]]
    rows += [[row.value, f"{row.low:.1f} to {row.high:.1f}"] for row in intervals.itertuples()]
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    section = results.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert not [row for row in map(cells, rows) if row not in section]
    accuracies = ", ".join(f"{task['accuracy']:.1f}" for name, task in tasks.items() if name != main)
    assert cells([scores["segm"]["AP"], joint["AP"], accuracies]) in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("head", "names"), [("`test.ranking`", get_args(Ranking)), ("rule, in this order", [one.__name__ for one in RULES])]
)
def test_the_tables_of_metrics_have_every_ranking_and_every_rule(head, names):
    table = (ROOT / "docs/metrics.md").read_text(encoding="utf-8").partition(f"\n| {head} |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*names]


def cells(values: list) -> str:
    return "|" + "".join(f" {value if isinstance(value, str) else f'{value:.1f}'} |" for value in values)


@cache
def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


@cache
def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

"""Sphinx builds the documentation site from these pages: `make docs`. Nothing is loaded from the network."""

project = html_title = "mtseg"
extensions = ["myst_parser"]
myst_heading_anchors = 3  # headings are link targets, named as GitHub names them
highlight_language = "text"
html_theme = "furo"
html_copy_source = False

CONTENTS = {
    "Start": ["install"],
    "Train": [
        "own-data",
        "formats",
        "experiments",
        "metrics",
        "report",
        "backbones-and-weights",
        "gpu",
        "distributed",
        "memory",
    ],
    "Use a model": ["downstream", "serve", "relabel"],
    "When it fails": ["diagnosis", "failures", "troubleshooting"],
    "Evidence": ["results", "reproducibility", "robustness"],
}


def setup(app) -> None:
    app.connect("source-read", add_contents)


def add_contents(app, page: str, source: list[str]) -> None:
    """Add the site's navigation to the overview, which would show as code where the page is read without Sphinx."""
    if page == "index":
        for caption, pages in CONTENTS.items():
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```\n"])

"""`python -m ablations.tables`: tables and plots of the studies, anew.

Seconds. From ablations/results/STUDY_SCALE.csv alone come the tables of docs/results.md, between `<!-- STUDY SCALE -->`
and `<!-- /STUDY SCALE -->`, and docs/figures/STUDY_SCALE.svg; so do those of ablations.cost and ablations.saturation,
from what they last measured. Rows of runs that a study no longer has, or has with other params, are removed.

A table gives the mean over seeds and half the 95 % interval of that mean, by Student's t. A difference is taken seed by
seed, then treated in the same way: runs with the same seed see the same data. Where fewer seeds than the row's have a
value, their number follows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ablations import cost, experiments, page, plots, rows, studies
from ablations.means import groups, mean_and_half
from ablations.rows import Row
from ablations.studies import SCALES, Study
from mtseg.core.errors import run_stage
from mtseg.core.files import replace_file


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ablations.tables", description=__doc__.partition("\n")[0])
    parser.parse_args()
    from ablations import saturation  # imports torch, whose warnings are silenced by now

    blocks = {}
    for study in map(studies.read, studies.names()):
        for scale in SCALES:
            runs = studies.runs(study, scale, params=Path("params.yaml"))
            file, name = rows.path(study, scale), f"{study.name} {scale}"
            before = len(rows.read(file))
            rows.update(study, runs, file, {})
            found = rows.read(file)
            if before:
                print(f"{file}: {len(found)} of {len(runs)} runs{_remarks(study, before, found)}")
            if found:
                blocks[name] = block(study, scale, found, page.FIGURES)
            elif f"<!-- {name} -->" in page.PAGE.read_text(encoding="utf-8"):
                blocks[name] = ""
                (page.FIGURES / f"{study.name}_{scale}.svg").unlink(missing_ok=True)
    page.write(page.PAGE, blocks)
    for other in (cost, saturation):
        other.publish()


def _remarks(study: Study, before: int, found: Sequence[Row]) -> str:
    old = experiments.other_code([row["commit"] for row in found])
    empty = [column for column in study.metrics if not any(row[column] for row in found)]
    remarks = [
        f"; {before - len(found)} rows fewer than before" * (len(found) < before),
        f"; {old} by other code than the last commit's" * bool(old),
        f"; no value of {', '.join(empty)}" * bool(found and empty),
    ]
    return "".join(remarks)


def block(study: Study, scale: str, found: Sequence[Row], figures: Path) -> str:
    """A study's part of the page: its table, the commits that its runs started from and, written into `figures`, its
    plot."""
    text = table(study, scale, found)
    file = figures / f"{study.name}_{scale}.svg"
    figures.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as temporary:
        temporary.write_text(plots.plot(study, scale, groups(study, scale, found)), encoding="utf-8")
    commits = page.commits(row["commit"] for row in found)
    return f"{text}\n\n{commits}\n\n![{plots.title(study)}]({figures.name}/{file.name})"


def table(study: Study, scale: str, found: Sequence[Row]) -> str:
    """Markdown: a row for each combination of levels; the first metric's differences last, where the study compares."""
    by_levels = groups(study, scale, found)
    metrics = [name for name in study.metrics if any(columns[name] for columns in by_levels.values())]
    headline = next(iter(metrics), None)
    references = study.references(scale)
    against = [f"Δ {headline} vs {factor} {level}".replace("_", " ") for factor, level in references]
    head = [*study.vary, "seeds", *metrics, *against]
    lines = []
    for levels, columns in by_levels.items():
        seeds = len({seed for values in columns.values() for seed in values})
        cells = [level.replace("_", " ") for level in levels]
        cells += [str(seeds), *(_of(seeds, [*columns[name].values()]) for name in metrics)]
        for factor, level in references:
            reference = tuple(level if name == factor else own for name, own in zip(study.vary, levels, strict=True))
            other = by_levels.get(reference, {}).get(headline, {})
            own = columns[headline]
            apart = [own[seed] - other[seed] for seed in own if seed in other]
            cells.append("" if reference == levels else _of(seeds, apart, signed=True))
        lines.append(cells)
    return page.table(head, lines)


def _of(seeds: int, values: Sequence[float], *, signed: bool = False) -> str:
    text = mean_and_half(values, signed=signed)
    return f"{text} ({len(values)})" if 0 < len(values) < seeds else text


if __name__ == "__main__":
    run_stage(main)

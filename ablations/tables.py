"""`python -m ablations.tables`: write the tables and plots of all studies.

Takes seconds. ablations/results/STUDY_SCALE.csv gives the table between `<!-- STUDY SCALE -->` and `<!-- /STUDY SCALE
-->` in docs/results.md, and docs/figures/STUDY_SCALE.svg. The tables of ablations.cost and ablations.saturation are
written too. Rows of runs that a study no longer has, or has with other params, are removed.

A table gives the mean over seeds and half its 95 % interval, by Student's t. Differences are taken between runs of the
same seed, which see the same data, and then averaged. The number of seeds is added in brackets if a value has fewer
than its row.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ablations import cost, experiments, page, plots, rows, studies
from ablations.rows import Row, groups, mean_and_half
from ablations.studies import SCALES, Study
from mtseg.core.files import replace_file
from mtseg.core.signals import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ablations.tables", description=__doc__.partition("\n")[0])
    parser.parse_args()
    from ablations import saturation  # imports torch, whose warnings run_stage has silenced

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
        f"; {old} with other code than the last commit's" * bool(old),
        f"; no value of {', '.join(empty)}" * bool(found and empty),
    ]
    return "".join(remarks)


def block(study: Study, scale: str, found: Sequence[Row], figures: Path) -> str:
    """The table of a study, the commits of its runs, and a link to its plot, which is written into `figures`."""
    text = table(study, scale, found)
    file = figures / f"{study.name}_{scale}.svg"
    figures.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as temporary:
        temporary.write_text(plots.plot(study, scale, groups(study, scale, found)), encoding="utf-8")
    commits = page.commits(row["commit"] for row in found)
    return f"{text}\n\n{commits}\n\n![{plots.title(study)}]({figures.name}/{file.name})"


def table(study: Study, scale: str, found: Sequence[Row]) -> str:
    """Markdown: a row for each combination of levels; differences of the first metric are the last columns."""
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
            differences = [own[seed] - other[seed] for seed in own if seed in other]
            cells.append("" if reference == levels else _of(seeds, differences, signed=True))
        lines.append(cells)
    return page.table(head, lines)


def _of(seeds: int, values: Sequence[float], *, signed: bool = False) -> str:
    text = mean_and_half(values, signed=signed)
    return f"{text} ({len(values)})" if 0 < len(values) < seeds else text


if __name__ == "__main__":
    run_stage(main)

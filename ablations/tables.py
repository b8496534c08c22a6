"""`python -m ablations.tables`: the studies' numbers, tables and plots, anew.

Seconds. What the experiments here say goes into ablations/results/STUDY_SCALE.csv, and from these files alone come the
tables of docs/results.md, between `<!-- STUDY SCALE -->` and `<!-- /STUDY SCALE -->`, and docs/figures/STUDY_SCALE.svg;
so do those of ablations.cost and ablations.saturation, from what they last measured. Without experiments, such as in a
fresh clone, the csv files stay as they are, but for rows of other params.

A table gives the mean over seeds and half the 95 % interval of that mean, by Student's t. A difference is taken seed by
seed, then treated in the same way: runs with the same seed see the same data. Where fewer seeds than the row's have a
value, their number follows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ablations import collect, cost, experiments, page, plots, studies
from ablations.collect import Row
from ablations.means import groups, mean_and_half
from ablations.studies import SCALES, Study
from mtseg.core.errors import run_stage
from mtseg.core.files import replace_file


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ablations.tables", description=__doc__.partition("\n")[0])
    parser.parse_args()
    from ablations import saturation  # imports torch, whose warnings are silenced by now

    refs = experiments.finished()
    blocks = {}
    for name in studies.names():
        study = studies.read(name)
        for scale in SCALES:
            runs = studies.runs(study, scale, params=Path("params.yaml"))
            file = collect.path(study, scale)
            before = len(collect.read(file))
            found = collect.collect(study, runs, refs, file)
            rows = collect.read(file)
            if before or rows:
                gone = f"; {before - len(rows)} rows fewer than before" if len(rows) < before else ""
                old = experiments.other_code([row["commit"] for row in rows])
                gone += f"; {old} by code that is not the last commit's" if old else ""
                empty = [column for column in study.metrics if not any(row[column] for row in rows)]
                gone += f"; no figure of {', '.join(empty)}" if rows and empty else ""
                print(f"{file}: {len(rows)} of {len(runs)} runs, {found} from experiments here{gone}")
            if rows:
                blocks[f"{name} {scale}"] = block(study, scale, rows, page.FIGURES)
            elif f"<!-- {name} {scale} -->" in page.PAGE.read_text(encoding="utf-8"):
                blocks[f"{name} {scale}"] = ""
                (page.FIGURES / f"{name}_{scale}.svg").unlink(missing_ok=True)
    page.write(page.PAGE, blocks)
    for other in (cost, saturation):
        other.publish()


def block(study: Study, scale: str, rows: Sequence[Row], figures: Path) -> str:
    """A study's part of the page: its table, the commits that its runs started from and, written into `figures`, its
    plot."""
    text = table(study, scale, rows)
    file = figures / f"{study.name}_{scale}.svg"
    figures.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as temporary:
        temporary.write_text(plots.plot(study, scale, groups(study, scale, rows)), encoding="utf-8")
    commits = page.commits(row["commit"] for row in rows)
    return f"{text}\n\n{commits}\n\n![{plots.title(study)}]({figures.name}/{file.name})"


def table(study: Study, scale: str, rows: Sequence[Row]) -> str:
    """Markdown: a row for each combination of levels; the first metric's differences last, where the study compares."""
    found = groups(study, scale, rows)
    metrics = [name for name in study.metrics if any(columns[name] for columns in found.values())]
    headline = next(iter(metrics), None)
    references = study.references(scale)
    against = [f"Δ {headline} vs {factor} {level}".replace("_", " ") for factor, level in references]
    head = [*study.vary, "seeds", *metrics, *against]
    lines = []
    for levels, columns in found.items():
        seeds = len({seed for values in columns.values() for seed in values})
        cells = [level.replace("_", " ") for level in levels]
        cells += [str(seeds), *(_of(seeds, [*columns[name].values()]) for name in metrics)]
        for factor, level in references:
            reference = tuple(level if name == factor else own for name, own in zip(study.vary, levels, strict=True))
            other = found.get(reference, {}).get(headline, {})
            own = columns[headline]
            apart = [own[seed] - other[seed] for seed in own if seed in other]
            cells.append("" if reference == levels else _of(seeds, apart, signed=True))
        lines.append(cells)
    return page.table(head, lines)


def _of(seeds: int, values: Sequence[float], *, signed: bool = False) -> str:
    told = mean_and_half(values, signed=signed)
    return f"{told} ({len(values)})" if 0 < len(values) < seeds else told


if __name__ == "__main__":
    run_stage(main)

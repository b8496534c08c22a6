"""`python -m stages.check`: check data, settings and the network's code before training. An error stops the pipeline.

About 20 s for the embedded data on two cores. Expect one line per finding, data/check/findings.json (the same with all
fields), data/check/verdict.json (errors only; training depends on it) and metrics/check.json (counts).
"""

from pathlib import Path

from mtseg.core.errors import UserError
from mtseg.core.files import replace_folder, write_json
from mtseg.core.params import load
from mtseg.core.signals import run_stage


def main() -> None:
    params = load()
    from mtseg.checks import run as checks
    from mtseg.checks.findings import SEVERITIES, of_severity

    folder = Path("data/check")
    (folder / "verdict.json").unlink(missing_ok=True)  # a check that cannot finish leaves none
    findings = checks.run(
        Path("data/manifest.json"), root=params.data.raw, tasks=params.tasks, model=params.model, input=params.input,
        solver=params.solver, loss=params.loss, detections=params.test.detections,
        max_dets=params.test.max_dets, device=params.device, seed=params.seed,
    )  # fmt: skip
    with replace_folder(folder) as temporary:
        write_json(temporary / "verdict.json", checks.verdict(findings))
        write_json(temporary / "findings.json", [finding.as_record() for finding in findings])
    counts = {f"{severity}s": len(of_severity(findings, severity)) for severity in SEVERITIES}
    write_json(Path("metrics/check.json"), counts)
    for finding in findings:
        if finding.severity != "error":
            print(finding.line())
    if errors := of_severity(findings, "error"):
        raise UserError.many("fix these before training:", [finding.text() for finding in errors])
    warnings = f", {n} warning{'s' * (n > 1)}" if (n := counts["warnings"]) else ""
    print(f"No errors{warnings}: training can start.")


if __name__ == "__main__":
    run_stage(main, help=__doc__)

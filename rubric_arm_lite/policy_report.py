from pathlib import Path


def write_policy_report(run: Path) -> tuple[Path, Path]:
    (run / "report.md").write_text("x")
    return run / "report.html", run / "report.md"

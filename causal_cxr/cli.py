"""The command line: thin."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Causal discovery and bias audit of chest X-ray data and models."
)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"causal-cxr {version('causal_cxr')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Causal discovery and bias audit of chest X-ray data and models."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder; a killed run goes on.")] = Path("runs/demo"),
    editor: Annotated[
        list[str] | None,
        typer.Option(help="diffusion, scm or oracle; may be given several times. Both shipped ones unless given."),
    ] = None,
    images: Annotated[int, typer.Option(min=32, help="Images to edit.")] = 256,
) -> None:
    """Audit editors on a phantom whose truth is known."""
    from rich.console import Console
    from rich.table import Table

    from causal_cxr.audits.demo import DEFAULT_EDITORS, run_demo
    from causal_cxr.audits.report import Report

    summary = run_demo(out, editor or DEFAULT_EDITORS, images)
    report = Report.load(out)
    truth = {(t["attribute"], t["concept"]): t for t in report.provenance["truth"]}
    table = Table("editor", "intervention", "concept", "verdict", "effect", "truth")
    for row in report.edges.to_dict("records"):
        true = truth[row["attribute"], row["concept"]]
        if row["verdict"] != "none" or true["relation"] == "hidden":
            table.add_row(row["editor"], row["contrast"], row["concept"], row["verdict"], f"{row['editor_effect']:+.2f}",
                          f"{true['relation']} {true['total']:+.2f}")  # fmt: skip
    console = Console()
    console.width = max(console.width, 100)  # a narrower table would cut the names
    console.print(table)
    console.print({k: v for k, v in summary.items() if k != "editors"})
    console.print(f"report: {out / 'report.html'}")


@app.command()
def audit(spec: Annotated[Path, typer.Argument(help="A specification, see examples/folder_audit.yaml.")]) -> None:
    """Audit what a YAML file describes; a killed run goes on."""
    from causal_cxr.audits.spec import AuditSpec, SpecError

    try:
        made = AuditSpec.from_yaml(spec)
        sys.path.insert(0, str(spec.parent.resolve()))  # the user's own editors and readers may lie beside it
        done = made.run()
    except SpecError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    for verdict, count in done.edges["verdict"].value_counts().items():
        typer.echo(f"{count} {verdict}")
    for sentence in done.revealed()["sentence"]:
        typer.echo(sentence)
    typer.echo(f"report: {made.out / 'report.html'}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write the report of a finished run again, and show its findings."""
    from causal_cxr.audits.report import Report

    try:
        loaded = Report.load(run)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from None
    loaded.save(run)
    for sentence in loaded.revealed()["sentence"]:
        typer.echo(sentence)
    typer.echo(f"report: {run / 'report.html'}")


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()

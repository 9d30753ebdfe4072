"""The command line: thin."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from causal_cxr.fitting.precision import Precision

if TYPE_CHECKING:
    import pandas as pd

What = Literal["lora", "denoiser", "joint", "tokens"]
CaptionKind = Literal["full", "own"]

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
    from causal_cxr.audits.spec import AuditSpec

    with _errors_in_a_line():
        made = AuditSpec.from_yaml(spec)
        sys.path.insert(0, str(spec.parent.resolve()))  # the user's own editors and readers may lie beside it
        done = made.run()
    _tell(done.edges["verdict"], done.revealed()["sentence"], made.out / "report.html")


@app.command()
def shortcuts(
    spec: Annotated[Path, typer.Argument(help="A specification, see examples/folder_shortcuts.yaml.")],
) -> None:
    """Tell what the classifiers of a YAML file rely on; a killed run goes on."""
    from causal_cxr.audits.shortcuts.spec import ShortcutSpec

    with _errors_in_a_line():
        made = ShortcutSpec.from_yaml(spec)
        sys.path.insert(0, str(spec.parent.resolve()))  # the user's own models may lie beside it
        done = made.run()
    _tell(done.reliance["verdict"], done.relied_on()["sentence"], made.out / "shortcuts.html")


@app.command()
def finetune(
    out: Annotated[Path, typer.Option(help="Folder for weights, card and logs; a killed fit goes on.")],
    world: Annotated[str | None, typer.Option(help="A phantom world to fit on; or --spec.")] = None,
    spec: Annotated[Path | None, typer.Option(help="An audit's specification, whose dataset is fitted on.")] = None,
    base: Annotated[str, typer.Option(help="Folder of the editor to start from, or 'shipped'.")] = "shipped",
    what: Annotated[What, typer.Option(help="What is fitted.")] = "lora",
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA.")] = 8,
    attribute: Annotated[str | None, typer.Option(help="Of balancing, own captions and tokens.")] = None,
    balanced: Annotated[bool, typer.Option(help="Weigh rows by P(A) / P(A | Z(A)).")] = False,
    captions: Annotated[CaptionKind, typer.Option(help="Captions name all attributes, or their own one.")] = "full",
    template: Annotated[
        str | None,
        typer.Option(
            help="Of captions, such as 'Chest X-ray[ of a {sex} subject][ with {findings}].'; the base's unless given."
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=8, help="Of a phantom world.")] = 20_000,
    size: Annotated[int, typer.Option(min=16, help="Pixels a side of a phantom.")] = 64,
    steps: Annotated[int, typer.Option(min=1)] = 1_500,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 64,
    learning_rate: Annotated[float | None, typer.Option(help="What is customary unless given.")] = None,
    validate_every: Annotated[
        int, typer.Option(min=0, help="Steps between looks at held-out patients; 0: none.")
    ] = 500,
    patience: Annotated[int | None, typer.Option(min=1, help="Looks without a better one before it stops.")] = None,
    mixed_precision: Annotated[Precision, typer.Option(help="Of the network's computations.")] = "bf16",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    graphs: Annotated[bool, typer.Option(help="On CUDA, launch kernels as one graph: faster.")] = False,
    calibrate: Annotated[
        bool, typer.Option(help="Then guide each attribute as much as held-out patients show that it needs.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0)] = 7_002,
) -> None:
    """Fine-tune a diffusion editor, judged by effectiveness and leak on held-out patients."""
    if (world is None) == (spec is None):
        raise typer.BadParameter("Give either --world or --spec.")
    from causal_cxr.audits.finetuning import from_spec, from_world, run_finetune

    with _errors_in_a_line():
        if spec is not None:
            sys.path.insert(0, str(spec.parent.resolve()))  # the user's own readers may lie beside it
        material = from_world(world, images, size=size, seed=seed) if world else from_spec(Path(spec or ""), seed=seed)
        run_finetune(
            material, out, base=base, what=what, rank=rank, attribute=attribute, balanced=balanced,
            own_captions=captions == "own", template=template, steps=steps, batch_size=batch, learning_rate=learning_rate,
            validate_every=validate_every or None, patience=patience, mixed_precision=mixed_precision, device=device,
            graphs=graphs, calibrate=calibrate, seed=seed,
        )  # fmt: skip
    typer.echo((out / "card.md").read_text())


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write the reports of a finished run again, and show their findings."""
    from causal_cxr.audits.report import Report
    from causal_cxr.audits.shortcuts import ShortcutReport

    of_shortcuts = (run / "shortcuts.json").is_file()
    try:
        if (run / "report.json").is_file() or not of_shortcuts:
            loaded = Report.load(run)
            loaded.save(run)
            for sentence in loaded.revealed()["sentence"]:
                typer.echo(sentence)
            typer.echo(f"report: {run / 'report.html'}")
        if of_shortcuts:
            relied = ShortcutReport.load(run)
            relied.save(run)
            for sentence in relied.relied_on()["sentence"]:
                typer.echo(sentence)
            typer.echo(f"report: {run / 'shortcuts.html'}")
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from None


@contextmanager
def _errors_in_a_line() -> Iterator[None]:
    """What the user can mend is told without a traceback."""
    from causal_cxr.audits.store import ManifestMismatch

    try:
        yield
    except (ValueError, FileNotFoundError, ManifestMismatch) as error:  # SpecError and WorldError are ValueErrors
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _tell(verdicts: "pd.Series", sentences: Iterable[str], page: Path) -> None:
    """How often each verdict was given, the findings, and where all of it stands."""
    for verdict, count in verdicts.value_counts().items():
        typer.echo(f"{count} {verdict}")
    for sentence in sentences:
        typer.echo(sentence)
    typer.echo(f"report: {page}")


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()

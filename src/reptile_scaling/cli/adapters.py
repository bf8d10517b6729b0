"""Commands for a trained adapter at work: adapted to one's own labels, labelling texts."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from reptile_scaling.cli.options import ModelOption, console, errors
from reptile_scaling.errors import InputError
from reptile_scaling.storage import csv_text, write_bytes

if TYPE_CHECKING:
    from reptile_scaling.use.labeller import Evaluation

app = typer.Typer()


@app.command()
def adapt(
    adapter: Annotated[Path, typer.Option("--adapter", metavar="DIR", help="The adapter/ folder of a finished cell.")],
    support: Annotated[Path, typer.Option("--support", metavar="FILE", help="Labelled texts: csv, jsonl or parquet.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the adapted model goes; a new folder.")],
    evaluate: Annotated[
        Path | None, typer.Option("--evaluate", metavar="FILE", help="Labelled texts to measure it on.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Inner steps; by default as evaluated.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", min=1e-9, help="Inner learning rate; as evaluated.")] = None,
    model: ModelOption = None,
) -> None:
    """Adapt a meta-trained initialisation to labels of one's own: any number of classes and shots."""
    from reptile_scaling.data.files import read_file
    from reptile_scaling.use.labeller import adapt_to_labels, check_truth

    labelled = read_file(support)
    held_out = _labelled_texts(evaluate) if evaluate else None
    if held_out:
        check_truth(held_out[1], labelled.class_names)
    for note in labelled.notes:
        errors.print(f"note: {note}", markup=False)
    with errors.status("loading the model and adapting"):
        began = time.perf_counter()
        labeller, done = adapt_to_labels(adapter, labelled, out, steps=steps, learning_rate=lr, model=model)
    console.print(
        f"{done.n_support} utterances of {len(labeller.labels)} labels, {done.steps} inner steps: support loss "
        f"{done.first_loss:.3f} → {done.last_loss:.3f} nats; {time.perf_counter() - began:.1f} s with loading.",
        soft_wrap=True,
    )
    console.print(
        f"Written to {out}/: label texts with `reptile-scaling predict --adapter {out}`.", soft_wrap=True, markup=False
    )
    if held_out:
        _print_evaluation(labeller.evaluate(*held_out), console)


@app.command()
def predict(
    adapter: Annotated[Path, typer.Option("--adapter", metavar="DIR", help="What `adapt` wrote.")],
    source: Annotated[
        str, typer.Option("--input", metavar="FILE|-", help="csv, jsonl or parquet with a text column; - reads lines.")
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write here, not to the screen.")] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="The input has labels too: say how many agree.")] = False,
    model: ModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, with all probabilities.")] = False,
) -> None:
    """Label texts, with probabilities: CSV with text, label, probability."""
    from reptile_scaling.use.labeller import LabelledText, check_truth, open_labeller

    texts, truth = _texts_to_label(source, evaluate)
    with errors.status("loading the model and labelling"):
        labeller = open_labeller(adapter, model=model)
        if truth is not None:
            check_truth(truth, labeller.labels)
        probabilities = labeller.predict(texts)
    labelled = [
        LabelledText(text, labeller.labels[p.argmax()], round(float(p.max()), 6))
        for text, p in zip(texts, probabilities, strict=True)
    ]
    if as_json:
        all_of = [dict(zip(labeller.labels, p.tolist(), strict=True)) for p in probabilities]
        lines = [{**asdict(row), "probabilities": each} for row, each in zip(labelled, all_of, strict=True)]
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    else:
        content = csv_text(LabelledText, labelled)
    if out is not None:
        write_bytes(out, content.encode())
    else:
        sys.stdout.write(content)
    if truth is not None:
        _print_evaluation(labeller.compare(probabilities, truth), errors)


def _labelled_texts(path: Path) -> tuple[list[str], list[str]]:
    from reptile_scaling.data.files import labels_of, read_table, texts_of

    table = read_table(path)
    return texts_of(table, str(path)), [label.strip() for label in labels_of(table, str(path))]


def _texts_to_label(source: str, with_labels: bool) -> tuple[list[str], list[str] | None]:
    from reptile_scaling.data.files import read_table, texts_of

    if source == "-":
        if with_labels:
            raise InputError("--evaluate needs labels, and --input - reads texts alone: give a table with both")
        try:
            content = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"--input - is not UTF-8 ({error.reason}): convert it, as with iconv") from error
        texts = [line for line in content.splitlines() if line.strip()]
        if not texts:
            raise InputError("--input - found no text on standard input: pipe in one text a line")
        return texts, None
    if with_labels:
        return _labelled_texts(Path(source))
    texts = texts_of(read_table(Path(source)), source)
    if not texts:
        raise InputError(f"{source} has no row: give at least one text")
    return texts, None


def _print_evaluation(found: "Evaluation", where: Console) -> None:
    low, high = found.accuracy_ci95
    where.print(
        f"accuracy {found.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}) on {found.n} texts, "
        f"loss {found.loss:.3f} nats",
        soft_wrap=True,
    )
    for label, recall in found.recall.items():
        where.print(f"  {label}: recall {recall:.1%}", soft_wrap=True, markup=False)

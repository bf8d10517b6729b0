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
    from reptile_scaling.use.agreement import Evaluation

app = typer.Typer()


@app.command()
def adapt(
    adapter: Annotated[
        Path,
        typer.Option("--adapter", metavar="DIR", help="The adapter/ folder of a finished cell, or what `adapt` wrote."),
    ],
    support: Annotated[Path, typer.Option("--support", metavar="FILE", help="Labelled texts: csv, jsonl or parquet.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the adapted model goes; a new folder.")],
    evaluate: Annotated[
        Path | None, typer.Option("--evaluate", metavar="FILE", help="Labelled texts to measure it on.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=0, help="Inner steps; else chosen on the support set.")
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", min=1e-9, help="Inner learning rate; as evaluated.")] = None,
    model: ModelOption = None,
) -> None:
    """Adapt a meta-trained initialisation to labels of one's own: any number of classes and shots.

    Given what `adapt` wrote, adds to its labels and forgets none.
    """
    from reptile_scaling.data.files import read_file
    from reptile_scaling.use.agreement import check_truth
    from reptile_scaling.use.kept_support import SUPPORT, begin_again
    from reptile_scaling.use.labeller import adapt_to_labels

    given = read_file(support)
    _, labelled = begin_again(adapter, given)
    held_out = _labelled_texts(evaluate) if evaluate else None
    if held_out:
        check_truth(held_out[1], labelled.class_names)
    for note in labelled.notes:
        errors.print(f"note: {note}", markup=False)
    with errors.status("loading the model and adapting"):
        began = time.perf_counter()
        labeller, done = adapt_to_labels(adapter, given, out, steps=steps, learning_rate=lr, model=model)
    console.print(
        f"{done.n_support} utterances of {len(labeller.labels)} labels{done.names}, {done.steps} inner steps, "
        f"{done.how}: "
        f"support loss {done.first_loss:.3f} → {done.last_loss:.3f} nats, temperature {done.temperature:.2f}; "
        f"{time.perf_counter() - began:.1f} s with loading.",
        soft_wrap=True,
    )
    console.print(
        f"Written to {out}/: label texts with `reptile-scaling predict --adapter {out}`. Its {SUPPORT} keeps the "
        "utterances, so that labels can be added: delete it where they must not stay.",
        soft_wrap=True,
        markup=False,
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
    abstain_below: Annotated[
        float | None,
        typer.Option("--abstain-below", metavar="P", min=0, max=1, help="No label below this probability."),
    ] = None,
    model: ModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, with all probabilities.")] = False,
) -> None:
    """Label texts, with probabilities: CSV with text, label, probability."""
    from reptile_scaling.use.agreement import check_truth
    from reptile_scaling.use.labeller import LabelledText, label_texts, open_labeller

    texts, truth = _texts_to_label(source, evaluate)
    with errors.status("loading the model and labelling"):
        labeller = open_labeller(adapter, model=model)
        if truth is not None:
            check_truth(truth, labeller.labels)
        probabilities = labeller.predict(texts)
    labelled = label_texts(labeller.labels, texts, probabilities, abstain_below or 0.0)
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
        answered = probabilities.max(1) >= (abstain_below or 0.0)
        if abstain_below is not None:
            errors.print(f"answered {answered.sum()} of {len(texts)} texts ({answered.mean():.1%})", soft_wrap=True)
        if answered.any():
            kept = [label for label, is_answered in zip(truth, answered, strict=True) if is_answered]
            _print_evaluation(labeller.compare(probabilities[answered], kept), errors)


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
        f"loss {found.loss:.3f} nats, expected calibration error {found.calibration_error:.3f}",
        soft_wrap=True,
    )
    for label, recall in found.recall.items():
        where.print(f"  {label}: recall {recall:.1%}", soft_wrap=True, markup=False)


@app.command()
def export(
    adapter: Annotated[Path, typer.Option("--adapter", metavar="DIR", help="What `adapt` wrote.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the export goes; a new folder.")],
    model: ModelOption = None,
) -> None:
    """A folder that labels texts with transformers and PEFT alone: adapter, head, labels and a script."""
    from reptile_scaling.use.export import SCRIPT, export_labeller

    for path in export_labeller(adapter, out, model=model):
        console.print(f"  {path}", soft_wrap=True, markup=False)
    console.print(f"Label texts without this package: python {out / SCRIPT} < texts.txt", soft_wrap=True, markup=False)


@app.command()
def push(
    adapter: Annotated[Path, typer.Option("--adapter", metavar="DIR", help="Of a cell, or what `adapt` wrote.")],
    to: Annotated[str, typer.Option("--to", metavar="USER/NAME", help="Repository on the Hub; made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Make it a private one.")] = False,
) -> None:
    """Upload an adapter to the Hub, its card filled with base, data set, metrics and law."""
    from huggingface_hub import HfApi

    from reptile_scaling.use.publish import push_adapter

    console.print(push_adapter(adapter, to, private=private, api=HfApi()), soft_wrap=True, markup=False)

"""Runs beside each other as tables: settings, levels, laws, standing, differences."""

from reptile_scaling.analysis.beside import Beside
from reptile_scaling.report.plain_table import PlainTable

NONE = "–"


def beside_tables(found: Beside) -> list[PlainTable]:
    """Every table that has a row."""
    tables = [_settings(found), _levels(found), _laws(found), _standing(found), *_differences(found)]
    return [table for table in tables if table.rows]


def _settings(found: Beside) -> PlainTable:
    rows = tuple((key, *map(str, values)) for key, values in found.settings.items())
    return PlainTable("settings", "Keys of the configuration that differ.", ("key", *found.names), rows)


def _levels(found: Beside) -> PlainTable:
    by_x = [{level.x: level for level in of_run} for of_run in found.levels]
    rows = [
        (
            f"{found.laws[0].table.x_symbol} = {x:g}",
            *(f"{at[x].loss:.3f}, {at[x].accuracy:.1%} ({at[x].n_seeds})" if x in at else NONE for at in by_x),
        )
        for x in sorted({x for at in by_x for x in at})
    ]
    caption = "Meta-test loss in nats per query utterance and accuracy, means over (so many) seeds and the test tasks."
    return PlainTable("levels", caption, ("level", *found.names), tuple(rows))


def _laws(found: Beside) -> PlainTable:
    laws = [law.as_json() for law in found.laws]
    verdicts = ("verdict", *(law["verdict"]["form"] for law in laws))
    rows = [verdicts, ("scaling detected", *("yes" if law["verdict"]["scaling_detected"] else "no" for law in laws))]
    for form, parameter in (("power", "beta"), ("power_floor", "beta"), ("power_floor", "floor")):
        fits = [law["forms"].get(form, {"identified": False}) for law in laws]
        rows.append((f"{form}: {parameter}", *(_parameter(fit, parameter) for fit in fits)))
    caption = "Laws of meta-test loss; brackets: 95 % intervals by bootstrap over levels, seeds and test tasks."
    return PlainTable("laws", caption, ("law", *found.names), tuple(rows))


def _parameter(form: dict[str, object], name: str) -> str:
    if not form["identified"]:
        return "not identified"
    intervals = form["ci95"]
    assert isinstance(intervals, dict)
    interval = intervals.get(name)
    return f"{form[name]:.3g}" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")


def _standing(found: Beside) -> PlainTable:
    by_name = [{s.name: s for s in of_run} for of_run in found.standings]
    labels = {s.name: s.label for of_run in found.standings for s in of_run}
    rows = [
        (label, *(f"{at[name].gain:+.1f} ± {at[name].error:.1f}" if name in at else NONE for at in by_name))
        for name, label in labels.items()
    ]
    caption = (
        "Points of accuracy that the best level on validation tasks has beyond each baseline; 95 % intervals of paired "
        "differences over test classes, tasks and seeds."
    )
    return PlainTable("standing", caption, ("baseline", *found.names), tuple(rows))


def _differences(found: Beside) -> list[PlainTable]:
    return [_difference(found, place) for place in range(len(found.differences))]


def _difference(found: Beside, place: int) -> PlainTable:
    """Of one later run from the first: loss and accuracy at each shared level, then the exponent."""
    difference, symbol = found.differences[place], found.laws[0].table.x_symbol
    losses = difference.losses.as_json()
    gaps = {gap.x: gap for gap in difference.accuracies}
    rows = [
        (
            f"{symbol} = {level['x']:g}",
            _signed(level["difference"], level["ci95"]),
            f"{gaps[level['x']].points:+.1f} ± {gaps[level['x']].half_width:.1f}" if gaps else NONE,
        )
        for level in losses["levels"]
    ]
    exponent = losses["exponent"]
    rows.append((f"{exponent['name']} of {exponent['form']}", _signed(exponent["difference"], exponent["ci95"]), NONE))
    paired = "paired by seed and test task" if gaps else "not on the same test tasks: paired by seed alone"
    warnings = "".join(f" {warning}." for warning in losses["warnings"])
    caption = (
        f"{found.names[place + 1]} minus {found.names[0]}: loss in nats per query utterance with 95 % interval, "
        f"accuracy in points; {paired}, {losses['n_pairs']} pairs of cells.{warnings}"
    )
    return PlainTable(f"difference-{place + 1}", caption, ("level", "loss", "accuracy"), tuple(rows))


def _signed(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "not identified"
    return f"{value:+.3g}" + (f" [{interval[0]:+.3g}, {interval[1]:+.3g}]" if interval else "")

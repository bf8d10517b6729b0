"""A table of words and numbers that leaves as Markdown, as LaTeX, or on a terminal."""

from dataclasses import dataclass

from rich.table import Table

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "→": r"$\to$",
    "×": r"$\times$", "²": "$^2$", "β": r"$\beta$", "<": "$<$", ">": "$>$", "\n": "; ",
}  # fmt: skip


@dataclass(frozen=True)
class PlainTable:
    """Rows of text under `columns`; the first column is words, the others are set flush right."""

    name: str
    caption: str
    """What the numbers are: of how many, and what an interval says."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As GitHub reads it, the caption below in italics."""
        lines = [self.columns, ("---", *("---:" for _ in self.columns[1:])), *self.rows]
        table = "\n".join(f"| {' | '.join(map(_for_markdown, line))} |" for line in lines)
        return f"{table}\n\n*{self.caption}*\n"

    def latex(self) -> str:
        """A `table` with the rules of booktabs, which has to be loaded; every text escaped."""
        head, *body = (" & ".join(map(for_latex, line)) + r" \\" for line in (self.columns, *self.rows))
        return "\n".join(
            [
                r"\begin{table}",
                rf"  \caption{{{for_latex(self.caption)}}}",
                rf"  \label{{tab:{self.name}}}",
                rf"  \begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
                *(f"    {line}" for line in (r"\toprule", head, r"\midrule", *body, r"\bottomrule")),
                r"  \end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def on_screen(self) -> Table:
        """For a terminal; the name is its title."""
        table = Table(title=self.name, title_justify="left", caption=self.caption, caption_justify="left")
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def for_latex(text: str) -> str:
    """A text with every character that LaTeX would take for its own written out."""
    return "".join(LATEX.get(character, character) for character in text)


def _for_markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", "<br>")

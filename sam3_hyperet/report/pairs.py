"""Adapted models tested against each other: a row a metric, a column a pair."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sam3_hyperet.report.tables import METRICS, Cell, Row, is_kept, main_rows, rows, tested_cell

_TESTED = ("segm/AP", "bbox/AP", "mIoU", "presence/accuracy_absent", "presence/accuracy_present")


@dataclass(frozen=True)
class PairTable:
    """Differences between adapted models: of each pair the later less the earlier."""

    pairs: tuple[tuple[str, str], ...]  # later and earlier
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]  # metric and data, and a cell a pair
    main: tuple[tuple[str, tuple[Cell, ...]], ...]  # those of all concepts, and AP of the data's own groups

    @property
    def tests(self) -> int:
        """How many differences have an interval."""
        return sum(cell.interval is not None for _, cells in self.rows for cell in cells)

    @property
    def found(self) -> int:
        """How many of them exclude 0."""
        return sum(cell.supported for _, cells in self.rows for cell in cells)

    @property
    def sentences(self) -> list[str]:
        """In how many metrics the later model of each pair is better and worse, where anything was tested."""
        found = []
        for k, (later, earlier) in enumerate(self.pairs):
            verdicts = [cells[k].verdict for _, cells in self.rows if cells[k].interval]
            if verdicts:
                better, worse = verdicts.count("better"), verdicts.count("worse")
                found.append(f"{later} than {earlier}: better in {better}, worse in {worse}")
        return found


def pair_table(metrics: Mapping[str, float], models: Sequence[str], label: Callable[[Row], str]) -> PairTable | None:
    """The differences under `between/<later>/<earlier>/…` in what models are judged by; None without any.

    label: what a row is of.
    """
    pairs = [(later, earlier) for k, later in enumerate(models) for earlier in models[:k]]
    names = {metric.key: metric.name for metric in METRICS if metric.key in _TESTED}
    found, main, table = [], [], rows(metrics, models)
    judging = set(map(id, main_rows(table)))
    for row in table:
        if row.metric.key not in names or is_kept(row):
            continue
        key = "/".join((*row.scope, row.metric.key))
        of_pairs = [f"between/{later}/{earlier}/{key}" for later, earlier in pairs]
        if any(name in metrics for name in of_pairs):
            cells = tuple(tested_cell(metrics, of, None, metrics.get(of), row.metric, None) for of in of_pairs)
            found.append((f"{names[row.metric.key]} · {label(row)}", cells))
            main += [found[-1]] * (id(row) in judging)
    return PairTable(tuple(pairs), tuple(found), tuple(main or found)) if found else None

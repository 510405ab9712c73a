"""The result of an audit in one object: print it, query it, open its page."""

from __future__ import annotations

from dataclasses import dataclass

from elbowroom.audit.summary import Summary


@dataclass(frozen=True)
class Card:
    """A finished audit.

    summary: the content of `summary.json`.
    folder:  where everything is stored; `page` and `summary_file` lie in it.
    """

    summary: Summary
    folder: str

    @property
    def page(self) -> str:
        return f"{self.folder}/report.html"

    @property
    def summary_file(self) -> str:
        return f"{self.folder}/summary.json"

    def __str__(self) -> str:
        return "\n".join(f"{name:<22}{value}" for name, value in self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """The lines of the card: a name and a value each."""
        s = self.summary
        lines = [
            ("model", f"{s.model.name} ({s.model.parameters:,} parameters, {s.model.dtype})"),
            ("data", f"{s.data.name}/{s.data.split}, {s.samples} samples"),
            ("clean accuracy", self._accuracy()),
            ("too sensitive", self._sensitive()),
            ("guaranteed", self._guaranteed()),
            ("too invariant", self._invariant()),
            *([("on the manifold", self._on_manifold())] if s.on_manifold else []),
            ("measurement", self._trust()),
            ("time", f"{sum(c.seconds for c in s.cost.values()) * s.samples:.1f} s"),
        ]
        return lines

    def _accuracy(self) -> str:
        s = self.summary
        whole = s.whole_split
        if whole is None:
            return f"{s.clean_accuracy:.2%}"
        return f"{s.clean_accuracy:.2%} ({whole.accuracy:.2%} of the split's {whole.samples:,})"

    def _sensitive(self) -> str:
        s = self.summary.sensitivity
        if not s.attacks:
            return "not measured: no attack was run"
        if self.summary.clean_accuracy == 0:
            return "not measured: no sample is classified as labelled"
        if s.median_attacked is None:
            return "no attack changes the decision of half of the samples"
        return f"decision changes within {number(s.median_attacked)} {s.norm} (median, upper bound)"

    def _guaranteed(self) -> str:
        s = self.summary.sensitivity
        if s.median_certified is None:
            return "no certificate: none was run, or none covers this network"
        return f"nothing happens within {number(s.median_certified)} {s.norm} (median, lower bound)"

    def _invariant(self) -> str:
        i = self.summary.invariance
        if i is None:
            return "not measured: not asked for, or the samples have one class only"
        if i.median_distance is None or i.nearer_rate < 0.5:
            return f"logits of another image reached on {i.nearer_rate:.0%} of the pairs"
        return (
            f"logits of another image reached within {number(i.median_distance)} L2 (median; "
            f"the images are {number(i.median_between_images)} apart)"
        )

    def _on_manifold(self) -> str:
        found = self.summary.on_manifold
        assert found is not None
        if found.success_rate is None:
            return "not measured: no sample is classified as labelled"
        said = f"{found.success_rate:.0%} of the samples have an example on the manifold"
        if found.median_ratio is None:
            return said
        return f"{said}; the nearest ones lie off it by {found.median_ratio:.0%} of their move"

    def _trust(self) -> str:
        failed = [check.check for check in self.summary.trust if not check.passed]
        return f"doubtful: {'; '.join(failed)}" if failed else "all checks passed"


def number(value: float) -> str:
    """Three significant digits, as on the page."""
    return f"{value:.3g}"

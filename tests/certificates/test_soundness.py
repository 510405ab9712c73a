"""Random networks of every layer: no sound certificate is beyond what refutes it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from elbowroom import L1, L2, Linf
from elbowroom.certificates import CERTIFICATES, GlobalLipschitz
from random_nets import INPUTS, random_net
from soundness import check, main, sound_certificates

NETS = 500 // INPUTS + 1
PARTS = 3


@pytest.mark.parametrize("part", range(PARTS))
def test_five_hundred_cases(part):
    certified = exact = 0
    for seed in range(part, NETS, PARTS):
        # The other norms take turns.
        for outcome in check(random_net(seed), (L2, (L1, Linf)[seed % 2]) if seed % 3 else (L2,)):
            assert outcome.violations == 0, outcome
            certified += outcome.certified
            exact += outcome.exact
    assert certified > 100
    assert exact > 10


@dataclass(frozen=True, kw_only=True)
class Boastful(GlobalLipschitz):
    """Claims three times what is proved."""

    def bound(self, clf, x, y):
        return 3 * super().bound(clf, x, y)


def test_what_is_not_sound_is_found_out(monkeypatch):
    monkeypatch.setitem(CERTIFICATES, "boastful", Boastful)
    for norm in (L1, L2, Linf):
        found = [
            outcome
            for seed in range(4)
            for outcome in check(random_net(seed), (norm,))
            if outcome.certificate == "boastful"
        ]
        assert sum(outcome.violations for outcome in found) > 0
        assert max(outcome.ratio for outcome in found) > 1


def test_only_sound_certificates_are_asked():
    in_l2 = dict(sound_certificates(L2))
    assert set(in_l2) == {name for name, kind in CERTIFICATES.items() if kind.sound}
    assert "published-layer-wise" not in in_l2
    assert "layer-wise" not in dict(sound_certificates(L1))


def test_the_same_number_is_the_same_network():
    first, again, other = random_net(5), random_net(5), random_net(6)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.clf.logits(first.x), again.clf.logits(first.x))
    assert first.words != other.words


def test_the_benchmark_resumes_by_chunks(tmp_path, monkeypatch, capsys):
    args = ["soundness.py", "--cases", "32", "--chunk", "16", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", args)
    main()
    first = capsys.readouterr().out
    assert "| layer-wise" in first
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(written) == 2
    main()
    assert capsys.readouterr().out == first
    assert written == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

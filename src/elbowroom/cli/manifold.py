"""On and off the data manifold: `manifold attack`, `distance`, `train` and `samples`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from elbowroom.attacks import PGD
from elbowroom.classifier import Classifier
from elbowroom.cli.options import (
    Output,
    SeedOption,
    Subject,
    checked_samples,
    command,
    load_data,
    settings,
)
from elbowroom.cli.single import SetOption, cost_text, save_arrays
from elbowroom.data import Dataset, fonts
from elbowroom.files import write_atomically
from elbowroom.manifold import (
    LATENT_ATTACKS,
    Codes,
    LatentAttack,
    Neighbours,
    OnManifoldResult,
    project,
)
from elbowroom.manifold.rates import Rate, rate
from elbowroom.manifold.registry import DECODERS, decoder
from elbowroom.manifold.vae_gan import CLASS_FOLDER
from elbowroom.norms import L2, Linf, Norm
from elbowroom.papers.manifold_example_pages import Moved, manifold_page, samples_page
from elbowroom.papers.manifold_samples import random_samples
from elbowroom.papers.page import About, grey_scale
from elbowroom.report.figures import number, percent
from elbowroom.training.vae_gan import VaeGanReport, VaeGanTraining, train_vae_gan
from elbowroom.training.vae_gan_recipes import VAE_GANS, VaeGanRecipe
from elbowroom.version import __version__

BATCH = 500  # samples whose distances are computed at a time

app = typer.Typer(
    name="manifold",
    help="Move along the data manifold, and measure how far from it examples lie.",
    no_args_is_help=True,
)


@app.command("attack")
@command
def attack(
    subject: Subject,
    output: Output,
    method: Annotated[str, typer.Argument(help=f"One of {', '.join(LATENT_ATTACKS)}.")] = "pgd",
    decoder_: Annotated[
        str,
        typer.Option(
            "--decoder",
            help=f"One of {', '.join(DECODERS)}, a folder of manifold train, or "
            "package.module:callable, which is called with the split.",
        ),
    ] = "fonts",
    norm: Annotated[str | None, typer.Option(help="Of the latent code: L2 or Linf.")] = None,
    set_: SetOption = None,
    out: Annotated[
        str | None, typer.Option(help="A page (.html) of the examples, or arrays (.npz).")
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Attack samples along the manifold: examples that are inputs as the data have them.

    [bold]Examples[/bold]

      elbowroom manifold attack --samples 200 --out examples.html

      elbowroom manifold attack carlini-wagner --decoder transformations --data mnist
      --model my.models:net --out examples.npz
    """
    built = _latent_attack(method, {**settings(set_), "seed": seed}, norm)
    data = subject.load_data(output)
    clf = subject.load_classifier(data)
    x, y = checked_samples(clf, data)
    manifold = decoder(decoder_, subject.split)
    codes = manifold.encode(x, y)
    with clf.session():
        right = clf.logits(x).argmax(dim=1) == y
    found = built(clf, manifold, codes, y)
    on, error = rate(found.success, right & found.correct), rate(~right)
    changed = found.success & right
    lines = [
        ("attack", f"{method} in {built.norm} on codes of {decoder_}, {len(x)} samples"),
        ("test error", _rate_text(error)),
        ("success", f"{_rate_text(on)} of the rightly classified"),
        ("median change", _changes(found, changed)),
        ("cost", cost_text(found.cost, len(x))),
    ]
    values: dict[str, Any] = {
        "method": method,
        "norm": str(built.norm),
        "decoder": decoder_,
        "samples": len(x),
        "test_error": _rate_values(error),
        "success_rate": _rate_values(on),
        "median_latent_distance": _median(found.latent_distance[changed]),
        "median_distance": _median(found.distance[changed]),
        "cost": asdict(found.cost),
    }
    if out is not None and out.lower().endswith((".html", ".htm")):
        page = _page(clf, data, decoder_, x, y, codes, found, right, method, (on, error))
        write_atomically(out, page.encode())
        lines.append(("page", out))
        values["page"] = out
    else:
        save_arrays(
            out, lines, adversarial=found.adversarial, codes=found.codes.z, original_codes=codes.z,
            success=found.success, right=right, distance=found.distance,
            latent_distance=found.latent_distance, label=y,
        )  # fmt: skip
    output.result(values, lines)


@app.command("distance")
@command
def distance(
    subject: Subject,
    output: Output,
    decoder_: Annotated[
        str | None,
        typer.Option("--decoder", help="Project through this decoder, too."),
    ] = None,
    neighbours: Annotated[int, typer.Option(min=1, help="That span the plane.")] = 50,
    train_split: Annotated[str, typer.Option(help="Where neighbours are taken from.")] = "train",
    train_count: Annotated[int, typer.Option(min=1, help="How many samples of it.")] = 10_000,
    eps: Annotated[float, typer.Option(help="Of the regular attack, in Linf.")] = 0.3,
    out: Annotated[str | None, typer.Option(help="Arrays (.npz).")] = None,
    seed: SeedOption = 0,
) -> None:
    """Measure how far from the manifold regular adversarial examples lie.

    The attack is that of the Manifold paper: PGD in Linf by Adam. Distances are to planes through
    the 50 nearest training samples and, with --decoder, to the nearest sample that it decodes. A
    ratio of 1 to the length of the perturbation means that it leaves the manifold at right angles.

    [bold]Examples[/bold]

      elbowroom manifold distance --decoder fonts --samples 200

      elbowroom manifold distance --data mnist --model my.models:net --out distances.npz
    """
    data = subject.load_data(output)
    clf = subject.load_classifier(data)
    x, y = checked_samples(clf, data)
    # Before anything long: whether there are a decoder, codes and neighbours.
    manifold = None if decoder_ is None else decoder(decoder_, subject.split)
    codes = None if manifold is None else manifold.encode(x, y)
    near = Neighbours(load_data(output, subject.data, train_split, train_count).x, neighbours)
    regular = replace(PGD.published_manifold(Linf, seed=seed), eps=eps)
    with clf.session():
        right = clf.logits(x).argmax(dim=1) == y
    found = regular(clf, x, y)
    rows = (found.success & right).nonzero().flatten()
    examples, origin = found.adversarial[rows], x[rows]
    moved = L2.length(examples.double() - origin.double())
    off = {
        "neighbours, through their mean": near.distance(examples, origin, centre="mean"),
        "neighbours, through the sample": near.distance(examples, origin, centre="sample"),
    }
    arrays = {"neighbours_mean": off["neighbours, through their mean"]}
    arrays |= {"neighbours_sample": off["neighbours, through the sample"]}
    if manifold is not None and codes is not None:
        parts = [
            project(manifold, examples[some], codes.take(rows[some])).distance
            for some in torch.split(torch.arange(len(rows)), BATCH)
        ]
        off[f"projection by {decoder_}"] = torch.cat(parts) if parts else moved
        arrays["projection"] = off[f"projection by {decoder_}"]
    hits = rate(found.success, right)
    lines = [
        ("attack", f"PGD by Adam in Linf within {eps:g}, {len(x)} samples"),
        ("success", f"{_rate_text(hits)} of the rightly classified"),
        ("median perturbation", f"{number(_median(moved))} L2"),
    ]
    values: dict[str, Any] = {
        "eps": eps,
        "samples": len(x),
        "success_rate": _rate_values(hits),
        "median_perturbation": _median(moved),
        "distances": {},
    }
    for name, away in off.items():
        ratio = _median(away / moved)
        lines.append((name, f"{number(_median(away))} L2, {number(ratio)} of the perturbation"))
        values["distances"][name] = {"median": _median(away), "median_ratio": ratio}
    save_arrays(out, lines, perturbation=moved, rows=rows, adversarial=examples, **arrays)
    output.result(values, lines)


@app.command("train")
@command
def train(
    output: Output,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and weights.")],
    recipe: Annotated[
        str | None,
        typer.Option(help=f"Data and settings: one of {', '.join(VAE_GANS)}. --set changes them."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set of images, as for audit; by default fonts.")
    ] = None,
    split: Annotated[str, typer.Option(help="The split to train on.")] = "train",
    count: Annotated[int | None, typer.Option(min=2, help="How many samples of it.")] = None,
    all_classes: Annotated[
        bool,
        typer.Option("--all-classes", help="One VAE-GAN for all classes, not one for each."),
    ] = False,
    label: Annotated[
        list[int] | None, typer.Option(help="Only these classes, by number; repeatable.")
    ] = None,
    set_: SetOption = None,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda:0.")] = "cpu",
    seed: SeedOption = 0,
) -> None:
    """Learn a manifold: a VAE-GAN for each class; the same command resumes an interrupted run.

    Without a recipe the settings are those of the Manifold paper for FONTS. The recipes that are
    named after data take less than an hour on one core; the published ones take days.

    [bold]Examples[/bold]

      elbowroom manifold train --recipe mnist --out runs/vae-mnist

      elbowroom manifold train --data my.module:faces --set epochs=20 --out runs/vae-faces
    """
    options = settings(set_)
    _check_names("training", VaeGanTraining, options)
    if "widths" in options:
        options["widths"] = tuple(options["widths"])
    plan = _vae_gan_recipe(recipe, data, split, count)
    found = load_data(output, plan.data, plan.split, plan.count)
    labels = sorted(set(label or found.y.tolist()))
    wrong = [k for k in labels if k not in set(found.y.tolist())]
    if wrong:
        raise ValueError(f"{found.name} ({found.split}) has no sample of class {wrong[0]}")
    every: list[int | None] = [None] if all_classes else [*labels]
    for k in every:
        folder = out if k is None else out / CLASS_FOLDER.format(k)
        rows = torch.isin(found.y, torch.tensor(labels if k is None else [k]))
        some = replace(found, x=found.x[rows], y=found.y[rows])
        output.say(f"{folder.name}: {len(some)} images")

        def advance(report: VaeGanReport) -> None:
            output.say(
                f"epoch {report.epoch}/{report.epochs}: encoder {report.encoder:.2f}, decoder "
                f"{report.decoder:.2f}, discriminator {report.discriminator:.3f} "
                f"({report.seconds:.1f} s)"
            )

        chosen = replace(plan.of(k), **options, seed=seed)
        train_vae_gan(some, chosen, folder=folder, progress=advance, device=device)
    output.result({"folder": str(out), "classes": labels}, [("folder", str(out))])


@app.command("samples")
@command
def samples(
    output: Output,
    decoder_: Annotated[str, typer.Option("--decoder", help="A folder of manifold train.")],
    count: Annotated[int, typer.Option(min=1, help="Of each class.")] = 10,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("samples.html"),
    seed: SeedOption = 0,
) -> None:
    """Look at random samples of a learned manifold: what it takes for real.

    [bold]Example[/bold]

      elbowroom manifold samples --decoder runs/vae-fonts --out samples.html
    """
    strips = random_samples(decoder(decoder_), count, seed)
    facts = [
        ("command", shlex.join(["elbowroom", *sys.argv[1:]])),
        ("decoder", decoder_),
        ("elbowroom", __version__),
        ("torch", torch.__version__),
    ]
    write_atomically(out, samples_page(strips, About(decoder_, "samples", (), facts)).encode())
    labels = [label for label, _ in strips]
    output.result({"page": str(out), "classes": labels}, [("page", str(out))])


def _vae_gan_recipe(
    name: str | None, data: str | None, split: str, count: int | None
) -> VaeGanRecipe:
    if name is None:
        return VaeGanRecipe(data=data or "fonts", split=split, count=count)
    if name not in VAE_GANS:
        raise ValueError(f"unknown recipe {name!r}; choose {', '.join(VAE_GANS)}")
    if data is not None:
        raise ValueError(f"the recipe {name!r} has data of its own; leave out --data")
    recipe = VAE_GANS[name]
    return replace(recipe, split=split, count=recipe.count if count is None else count)


def _latent_attack(method: str, options: dict[str, Any], norm: str | None) -> LatentAttack:
    if method not in LATENT_ATTACKS:
        raise ValueError(f"unknown attack {method!r}; choose {', '.join(LATENT_ATTACKS)}")
    kind = LATENT_ATTACKS[method]
    if norm is not None:
        options["norm"] = Norm.parse(norm)
    _check_names(f"the attack {method!r}", kind, options)
    return kind(**options)


def _check_names(what: str, kind: type, options: dict[str, Any]) -> None:
    known = [f.name for f in fields(kind)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"{what} has no option {unknown[0]!r}; it has {', '.join(known)}")


def _page(
    clf: Classifier,
    data: Dataset,
    decoder_name: str,
    x: Tensor,
    y: Tensor,
    codes: Codes,
    found: OnManifoldResult,
    right: Tensor,
    method: str,
    rates: tuple[Rate, Rate],
) -> str:
    with clf.session():
        before, after = clf.logits(x), clf.logits(found.adversarial.to(x))
    good = found.success & right
    moved = [
        Moved(
            number=row,
            label=int(y[row]),
            sample=x[row],
            example=found.adversarial[row] if good[row] else None,
            logits=(before[row], after[row]),
            change=found.codes.z[row] - codes.z[row],
            latent_distance=float(found.latent_distance[row]),
            distance=float(found.distance[row]),
        )
        for row in range(len(x))
    ]
    on, error = rates
    facts = [
        ("command", shlex.join(["elbowroom", *sys.argv[1:]])),
        ("data", f"{data.name}, {data.split} split, {len(data)} samples"),
        ("source of the data", data.source),
        ("decoder", decoder_name),
        ("elbowroom", __version__),
        ("torch", torch.__version__),
    ]
    about = About(clf.name, f"{data.name}/{data.split}", data.classes, facts)
    captions = [
        f"On-manifold examples were found for {_rate_text(on)} of the rightly classified samples; "
        f"the test error is {_rate_text(error)}.",
        "Distances of codes are in the units of the latent parameters, those of images L2.",
    ]
    six = codes.z.shape[1] == len(fonts.PARAMETERS)
    names = fonts.PARAMETERS if decoder_name in DECODERS and six else ()
    scale = grey_scale(clf, x)
    return manifold_page(
        moved, about, method=method, norm=str(found.norm), captions=captions, names=names,
        scale=scale,
    )  # fmt: skip


def _rate_text(found: Rate) -> str:
    if not found.count:
        return "none"
    within = f"{percent(found.lower)} to {percent(found.upper)}"
    return f"{percent(found.value)} ({percent(found.confidence)} interval {within})"


def _rate_values(found: Rate) -> dict[str, Any] | None:
    return asdict(found) if found.count else None


def _changes(found: OnManifoldResult, rows: Tensor) -> str:
    latent, image = (_median(d[rows]) for d in (found.latent_distance, found.distance))
    return f"{number(latent)} {found.norm} of the code, {number(image)} L2 of the image"


def _median(values: Tensor) -> float | None:
    return float(values.double().quantile(0.5)) if len(values) else None

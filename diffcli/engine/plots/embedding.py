"""`eval --plot embedding`: real and generated images as points of one plane."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from diffcli.engine import images
from diffcli.engine.draw import facts as cost
from diffcli.engine.plots import scatter
from diffcli.engine.plots.drawn import Drawn
from diffcli.engine.plots.sheet import said, sheet
from diffcli.engine.report import STYLE
from diffcli.errors import UsageError
from diffcli.metrics.projection import principal

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench
    from diffcli.sections import EvalOptions

UMAP_NEIGHBORS, PERPLEXITY = 15, 30.0  # McInnes et al. 2018; van der Maaten and Hinton 2008
SHOWN = 64  # generated images in the grid beside it
SIZE = 6  # of a point
OURS, REAL = "#cc3311", "#4477aa"  # Paul Tol's vibrant scheme


class Plane(NamedTuple):
    """Points (n, 2), what the axes are called, what the projection was and kept, and whether its numbers mean anything."""

    points: Tensor
    axes: tuple[str, str]
    title: str
    facts: dict[str, Any]
    scaled: bool = False


def refuse(bench: Bench) -> None:
    """UsageError for texts, and where what the projection needs is not installed."""
    if bench.model.facts.alphabet:
        raise UsageError(f"--plot embedding is of pictures, but {bench.model.where} is of text; leave it out")
    needed(bench.options.projection)


def embedding(bench: Bench) -> Drawn:
    """--real held-out images and --samples generated ones, flattened in [0, 1], in one joint --projection onto a plane.

    Two panels: by source; real images by class, with the generated ones grey behind them. Both are of the classes that
    --label asks for. Where the model reconstructs, the generated images are its reconstructions.
    """
    refuse(bench)
    real, label = bench.real(bench.test, bench.options.real, bench.classes)
    drawn = bench.samples.x.clamp(-1, 1)
    both = (torch.cat([real, drawn]).flatten(1).double() + 1) / 2
    plane = project(bench.options)(both, bench.options)
    ours, theirs = plane.points[len(real) :], plane.points[: len(real)]
    names = bench.model.facts.class_names
    facts = {
        **cost(bench.samples),
        **plane.facts,
        "split": bench.test.split,
        "real": len(real),
        "generated": len(ours),
        "real_points": scatter.rounded(theirs),
        "real_label": None if label is None else label.tolist(),
        "generated_points": scatter.rounded(ours),
    }
    title = said(facts)
    what = "reconstructed" if bench.model.method.reconstructs else "generated"
    figure = panels(theirs, ours, label, names, plane, title, what)
    glance = images.grid(images.to_pictures(drawn[:SHOWN]))
    return Drawn({"embedding": figure, "embedding-generated": sheet([[glance]], title=[title])}, facts)


embedding.refuse = refuse  # type: ignore[attr-defined]


def panels(
    real: Tensor, ours: Tensor, label: Tensor | None, names: Sequence[str], plane: Plane, title: str, what: str
) -> Any:
    """The figure: the same plane twice. what: the samples are called."""
    import matplotlib
    from matplotlib.figure import Figure

    points, colors = torch.cat([real, ours]), [REAL] * len(real) + [OURS] * len(ours)
    mixed = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))  # so that neither hides the other
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.7), layout="compressed")
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        left.scatter(*points[mixed].T, s=SIZE, c=[colors[k] for k in mixed], lw=0, alpha=0.7)
        for color, text in ((REAL, f"{len(real)} real"), (OURS, f"{len(ours)} {what}")):
            left.scatter([], [], s=12, color=color, lw=0, label=text)
        left.legend(loc="best", handletextpad=0.1)
        left.set_title("by source", fontsize=8)
        scatter.by_class(right, real, label, names, ours, what, size=SIZE)
        right.set_title(f"real by class, {what} in grey", fontsize=8)
        scatter.legend(figure, right)
        for panel in (left, right):
            panel.set_xlabel(plane.axes[0])
            panel.tick_params(**({} if plane.scaled else {"length": 0, "labelleft": False, "labelbottom": False}))
        left.set_ylabel(plane.axes[1])
        square(left, points)
        figure.suptitle(f"{plane.title}\n{title}", fontsize=8)
    return figure


def square(panel: Any, points: Tensor) -> None:
    """Both axes to one scale, around all points."""
    low, high = points.min(0).values, points.max(0).values
    middle, half = (low + high) / 2, float((high - low).max()) * 0.53 + 1e-9
    for limit, at in zip((panel.set_xlim, panel.set_ylim), middle.tolist(), strict=True):
        limit(at - half, at + half)
    for one in panel.figure.axes:
        one.set_box_aspect(1)


def pca(x: Tensor, o: EvalOptions) -> Plane:
    """The first two principal components; what they keep is a share of the variance of real and generated points together."""
    found = principal(x)
    axes = (percent("component 1", found.share[0]), percent("component 2", found.share[1]))
    title = f"PCA of pixels, one fit of both, {100 * sum(found.share):.1f} % of the variance"
    return Plane(found(x), axes, title, {"projection": "pca", "explained_variance": list(found.share)}, True)


def percent(name: str, share: float) -> str:
    """What an axis is called."""
    return f"{name} ({100 * share:.1f} %)"


def umap(x: Tensor, o: EvalOptions) -> Plane:
    """UMAP (McInnes et al. 2018) with --neighbors and --min-dist, its random state the seed."""
    k = min(o.neighbors or UMAP_NEIGHBORS, len(x) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a fixed random state takes one thread
        fit = needed("umap")(n_components=2, n_neighbors=k, min_dist=o.min_dist, random_state=o.seed)
        points = torch.from_numpy(fit.fit_transform(x.float().numpy())).double()
    facts = {"projection": "umap", "neighbors": k, "min_dist": o.min_dist}
    return Plane(
        points,
        ("UMAP 1", "UMAP 2"),
        f"UMAP of pixels, one fit of both: {k} neighbors, least distance {o.min_dist:g}",
        facts,
    )


def tsne(x: Tensor, o: EvalOptions) -> Plane:
    """t-SNE (van der Maaten and Hinton 2008) from the principal components, its random state the seed."""
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    fit = needed("tsne")(n_components=2, init="pca", perplexity=perplexity, random_state=o.seed)
    points = torch.from_numpy(fit.fit_transform(x.float().numpy())).double()
    facts = {"projection": "tsne", "perplexity": perplexity}
    return Plane(points, ("t-SNE 1", "t-SNE 2"), f"t-SNE of pixels, one fit of both: perplexity {perplexity:g}", facts)


EXTRAS = {"umap": ("umap", "UMAP"), "tsne": ("sklearn.manifold", "TSNE")}


def needed(projection: str) -> Any:
    """What a projection is imported from. UsageError where it is not installed."""
    if projection not in EXTRAS:
        return None
    module, name = EXTRAS[projection]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(__import__(module, fromlist=[name]), name)
    except ImportError as error:
        raise UsageError(
            f"--projection {projection} needs {module.partition('.')[0]}, which is not installed here ({error}); "
            "pip install 'diffcli[plots]', or take --projection pca"
        ) from None


def project(o: EvalOptions) -> Callable[[Tensor, EvalOptions], Plane]:
    """The projection that is asked for."""
    return {"pca": pca, "umap": umap, "tsne": tsne}[o.projection]

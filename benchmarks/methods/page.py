"""Write docs/benchmarks.md, and its plots, from the results of `run.py` alone.

    python benchmarks/methods/page.py

Also fills the tables in docs/methods that are marked

    <!-- measured: SERIES ARM ARM ... -->
    <!-- end -->
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import re
import statistics
import textwrap
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import claims

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent.parent / "docs" / "benchmarks.md"
METHODS = PAGE.parent / "methods"
MARKED = re.compile(r"(?s)(<!-- measured: (\S+) (.+?) -->\n).*?(<!-- end -->)")
OPTIONS = (
    ("depth", "scope", "epochs", "images", "batch_size"),
    ("learning_rate", "momentum", "weight_decay", "calibration"),
)
"""Fields of a setting that are options of run.py, as lines of a command."""
MISSED = 0.005
"""How far, as a share, a run may be from its target."""

INTRODUCTION = """\
# Pruning systems compared

Pruning methods are compared on CIFAR-10. Within each series, all of them start from the
same pretrained ResNet and have the same budget. For each seed they see the same images
in the same order with the same augmentation, for the same number of training steps,
with the same optimizer and learning rates. The last epoch counts, not the best. Choices
were made on `test[:5000]`, so only the figures on `test[5000:]` are independent of
them; those on all of `test` are for comparison with papers. The pretrained network was
trained on all training images.

Accuracies are top-1 in percent, measured on the compact model that `kprune.rebuild`
returns. ± is the standard deviation over seeds. "Right after" is the accuracy on
`test[:5000]` immediately after the last filters were removed, before any further
training. A method that removes filters gradually, or drives them towards 0 first, pays
part of the loss earlier, so its figure is not the cost of removing all filters at once.
Memory is that of the weights in float32, except for binary kernels, which need only
signs and a few scales (`kprune.binary.figures`).

Each series has its command below; without `--arms NAME ...` it runs all methods. Each
method is defined in `benchmarks/methods/arms.py`, and every epoch of every run is in
`benchmarks/methods/results/`. `benchmarks/methods/page.py` writes this page from these
results; no number in it is written by hand.

**The two ResNet-20 series were run with earlier versions of the recipes.** Since then:

- In runs as short as these, `attenuation`, `similarity`, `similarity-soft`, `hgs` and
  the arm `soft` have removed all filters after a third of the training.
- Soft pruning sets the scale of a BatchNormalization to 0 instead of the kernel in
  front of it.
- Similarity is a distance instead of a cosine.
- Attenuated filters are scored without their attenuation.
- MSVFP prunes in at most a third of the epochs.

The result file of each run lists its parts. The controls that remove filters at the
same time (`later-...` in `arms.py`) have not been run in these series, so the claims
that need them are not tested below.

**Batch normalisation** has a momentum of 0.9, also in ResNet-8, which was published
with Keras' default of 0.99. At 0.99 the moving statistics need 300 steps to follow a
change to 95 %. In runs this short, that would be a disadvantage for every method that
removes filters late and does not recalibrate the statistics.
"""

Result = dict[str, Any]


def read(folder: Path) -> dict[str, list[Result]]:
    """Return the results by the name of their setting."""
    found: dict[str, list[Result]] = {}
    for path in sorted(folder.glob("*/*.json")):
        result = json.loads(path.read_text())
        together = found.setdefault(path.parent.name, [])
        if together and together[0]["setting"] != result["setting"]:
            raise ValueError(
                f"{path} was made with another setting than the other files in its "
                "folder. Only runs with the same budget can be compared."
            )
        together.append(result)
    if not found:
        raise ValueError(f"There are no results in {folder}. Run run.py first.")
    return found


def by_arm(results: list[Result]) -> dict[str, list[Result]]:
    """Return the results by arm, in the order of arms.py."""
    arms = collections.defaultdict(list)
    for result in sorted(results, key=lambda r: (r["order"], r["seed"])):
        arms[result["arm"]].append(result)
    return dict(arms)


def targets(results: list[Result]) -> list[float]:
    return sorted({r["target"]["macs"] for r in results} - {0.0})


def at(results: list[Result], target: float) -> list[Result]:
    """Return the results for a target, and those without pruning."""
    return [r for r in results if r["target"]["macs"] in (0.0, target)]


def seeds(results: list[Result]) -> list[int]:
    return sorted({result["seed"] for result in results})


# -- words -----------------------------------------------------------------


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def several(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in dict.fromkeys(values))


def spread(values: list[float], digits: int = 2) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


def title(result: Result) -> str:
    setting = result["setting"]
    scope = {"all": "all channels", "inner": "inner channels of blocks"}
    return (
        f"ResNet-{setting['depth']}, {scope[setting['scope']]}, "
        f"{count(setting['epochs'], 'epoch')} of {setting['images']:,} images"
    )


def budget(results: list[Result]) -> str:
    """Return a paragraph on what all runs of a setting have in common."""
    setting, base = results[0]["setting"], results[0]["baseline"]
    versions: dict[str, list[str]] = collections.defaultdict(list)
    for result in results:
        for name, version in result["versions"].items():
            versions[name].append(version)
    shown = "; ".join(f"{n} {several(v)}" for n, v in sorted(versions.items()))
    return (
        f"Budget of each run: {count(setting['epochs'], 'epoch')} of "
        f"{setting['images_per_epoch']:,} training images "
        f"({setting['data']['training']}), batches of {setting['batch_size']}, "
        f"{setting['optimizer']} with momentum {setting['momentum']}"
        f"{' (Nesterov)' if setting['nesterov'] else ''}, weight decay "
        f"{setting['weight_decay']:g}, learning rate {setting['learning_rate']:g}, "
        f"{setting['schedule']}; {setting['augmentation']}. "
        f"{setting['calibration']:,} training images for criteria and allocations "
        f"that run the model. Seeds: {several(seeds(results))}. The pretrained "
        f"network: {base['test[5000:]']:.2f} on `test[5000:]`, {base['test']:.2f} "
        f"on `test`. ({shown})"
    )


def command(results: list[Result]) -> list[str]:
    """Return the command that runs a series, in lines."""
    setting = results[0]["setting"]
    lines = ["python benchmarks/methods/run.py --data-dir DIR --weights DIR"]
    for names in OPTIONS:
        options = (f"--{n.replace('_', '-')} {setting[n]}" for n in names)
        lines.append("    " + " ".join(options))
    shares = " ".join(str(share) for share in targets(results) or [0.0])
    chosen = " ".join(str(seed) for seed in seeds(results))
    lines.append(f"    --target {shares} --seeds {chosen}")
    return ["```", *" \\\n".join(lines).splitlines(), "```"]


# -- tables ----------------------------------------------------------------


def table(results: list[Result]) -> list[str]:
    # Earlier versions of run.py did not record the memory of the weights.
    memory = any("memory" in result for result in results)
    lines = [
        "| | seeds | MACs removed | parameters removed | "
        f"{'memory removed | ' if memory else ''}right after | "
        "`test[5000:]` | `test` | `test`, change |",
        f"|---|--:|--:|--:|--:|--:|--:|--:|{'--:|' if memory else ''}",
    ]
    for runs in by_arm(results).values():

        def each(value: Callable[[Result], float], runs=runs) -> list[float]:
            return [value(run) for run in runs]

        after = [
            run["removals"][-1]["accuracy"] for run in runs if run["removals"]
        ]
        cells = [
            runs[0]["title"],
            str(len(runs)),
            removed(runs, "macs"),
            removed(runs, "params"),
            *([removed(runs, "memory")] if memory else []),
            spread(after) if after else "",
            spread(each(lambda r: r["final"]["test[5000:]"])),
            spread(each(lambda r: r["final"]["test"])),
            f"{change(runs):+.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def removed(runs: list[Result], cost: str) -> str:
    """Return the mean share of a cost that was removed, in percent."""
    if any(cost not in run for run in runs):
        return ""
    return f"{statistics.fmean(100 * r[cost]['removed'] for r in runs):.1f} %"


def change(runs: list[Result]) -> float:
    """Return the mean difference from the pretrained network, in points, on test."""
    return statistics.fmean(
        run["final"]["test"] - run["baseline"]["test"] for run in runs
    )


def notes(results: list[Result]) -> list[str]:
    """Return what a reader has to know before comparing the runs of a setting."""
    lines = []
    missed = [
        f"{run['title']} (seed {run['seed']}): {run['macs']['removed']:.1%} "
        f"instead of {run['target']['macs']:.1%}"
        for run in results
        if run["macs"]["removed"] < run["target"]["macs"] - MISSED
    ]
    if missed:
        lines.append(f"Short of their target: {'; '.join(missed)}.")
    lines += [
        f"{run['title']} (seed {run['seed']}): with gates that depend on the image, "
        f"the accuracy is {run['dynamic']['final'][claims.SLICE]:.2f} % on "
        f"`{claims.SLICE}`, and an image needs "
        f"{run['dynamic']['mean_macs']['removed']:.1%} fewer MACs on average, "
        "including those of the gates."
        for run in results
        if "dynamic" in run
    ]
    worst = max(r["masked_to_compact"]["relative_difference"] for r in results)
    labels = sum(r["masked_to_compact"]["other_labels"] for r in results)
    lines.append(
        "The outputs of the masked and the compact model differ by at most "
        f"{worst:.1e} of the largest output over {count(len(results), 'run')}, and "
        f"{count(labels, 'predicted label')} on `test` "
        f"{'differs' if labels == 1 else 'differ'} in total."
    )
    return lines


# -- claims ----------------------------------------------------------------


def claim_lines(results: list[Result]) -> list[str]:
    runs = {(r["arm"], r["target"]["macs"], r["seed"]): r for r in results}
    judged = {claim: claims.judge(claim, runs) for claim in claims.CLAIMS}
    findings = [finding for found in judged.values() for finding in found]
    lines = [
        "| claim | by | MACs removed | difference, points | 95 % | seeds | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    lines += [claim_row(finding) for finding in findings]
    open_claims = [c.text for c, found in judged.items() if not found]
    untested = ["", "Not tested by these runs:", ""]
    untested += [f"- {text}" for text in open_claims]
    untested = untested if open_claims else []
    if not findings:
        return untested[1:]
    verdicts = claims.summary(findings)
    words = [f"{len(found)} {verdict}" for verdict, found in verdicts.items()]
    short = [f"In short: {', '.join(words)} at this budget."]
    decided = verdicts[claims.CONFIRMED] + verdicts[claims.REFUTED]
    if decided:
        short.append(
            f"With {len(findings)} intervals of 95 %, "
            f"{0.05 * len(findings):.1f} are expected to miss the truth by chance."
        )
    return [*lines, "", " ".join(short), *untested]


def claim_row(finding: claims.Finding) -> str:
    shares = " to ".join(f"{100 * target:.3g} %" for target in finding.target)
    ends = "–"
    if math.isfinite(finding.low):
        ends = f"{finding.low:+.2f} to {finding.high:+.2f}"
    cells = [
        finding.claim.text,
        finding.claim.source,
        shares,
        f"{finding.mean:+.2f}",
        ends,
        str(finding.seeds),
        f"**{finding.verdict}**",
    ]
    return f"| {' | '.join(cells)} |"


# -- plots -----------------------------------------------------------------


def plot(results: list[Result], path: Path) -> None:
    """Plot the accuracy after each epoch and at the end, for each target."""
    import matplotlib
    from matplotlib.figure import Figure

    shares = targets(results) or [0.0]
    # Without a salt, two runs would write different files; text as paths is large.
    look = {"svg.hashsalt": "kprune", "svg.fonttype": "none", "font.size": 8}
    with matplotlib.rc_context(look):
        height = 4.5 * len(shares) + 1
        figure = Figure(figsize=(10, height), layout="constrained")
        axes = figure.subplots(len(shares), 2, squeeze=False)
        for share, (left, right) in zip(shares, axes, strict=True):
            epochs_panel(left, at(results, share))
            final_panel(right, at(results, share))
            left.set_title(f"{100 * share:.3g} % of the MACs, epoch by epoch")
            right.set_title("compact models (dotted: pretrained)")
        handles = {
            text: handle
            for left in axes[:, 0]
            for handle, text in zip(
                *left.get_legend_handles_labels(), strict=True
            )
        }
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=4,
        )
        temporary = path.with_suffix(".tmp")
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    # Matplotlib leaves blanks at the ends of lines.
    text = temporary.read_text()
    temporary.write_text(
        "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    )
    os.replace(temporary, path)


def style(order: int) -> dict[str, Any]:
    return {
        "color": f"C{order % 10}",
        "linestyle": ("-", "--", ":", "-.")[order // 10],
    }


def epochs_panel(axes: Any, results: list[Result]) -> None:
    for runs in by_arm(results).values():
        epochs = [row["epoch"] for row in runs[0]["epochs"]]
        means = [
            statistics.fmean(run["epochs"][n]["accuracy"] for run in runs)
            for n in range(len(epochs))
        ]
        axes.plot(
            epochs, means, label=runs[0]["title"], **style(runs[0]["order"])
        )
    axes.set(xlabel="epoch", ylabel="accuracy on test[:5000], %")
    axes.xaxis.get_major_locator().set_params(integer=True)


def final_panel(axes: Any, results: list[Result]) -> None:
    arms = by_arm(results)
    for place, runs in enumerate(arms.values()):
        finals = [run["final"]["test[5000:]"] for run in runs]
        color = style(runs[0]["order"])["color"]
        axes.plot(finals, [place] * len(finals), "|", color=color)
        axes.errorbar(
            statistics.fmean(finals),
            place,
            xerr=statistics.stdev(finals) if len(finals) > 1 else 0,
            fmt="o",
            color=color,
        )
    base = results[0]["baseline"]["test[5000:]"]
    axes.axvline(base, color="grey", linestyle=":")
    axes.set_yticks(range(len(arms)), [r[0]["title"] for r in arms.values()])
    axes.invert_yaxis()
    axes.set(xlabel="accuracy on test[5000:], %")


# -- the page --------------------------------------------------------------


def section(results: list[Result], image: str) -> list[str]:
    lines = [f"## {title(results[0])}", "", budget(results), ""]
    lines += [*command(results), ""]
    for share in targets(results):
        lines += [
            f"### {100 * share:.3g} % of the MACs",
            "",
            *table(at(results, share)),
            "",
        ]
    lines += [f"![accuracy by epoch and at the end]({image})", ""]
    for note in notes(results):
        lines += [note, ""]
    return [*lines, "### Claims", "", *claim_lines(results), ""]


def write_page(folder: Path, page: Path) -> None:
    """Write the page and, beside it, one plot for each setting."""
    page.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        INTRODUCTION,
        textwrap.fill(
            "All claims from papers are judged by the same rule. "
            + claims.RULE,
            84,
        ),
        "",
    ]
    for name, results in sorted(
        read(folder).items(), key=lambda found: found[1][0]["setting"]["depth"]
    ):
        image = f"benchmarks_{name}.svg"
        plot(results, page.parent / image)
        lines += section(results, image)
    temporary = page.with_suffix(".tmp")
    temporary.write_text("\n".join(lines).rstrip() + "\n")
    os.replace(temporary, page)


def measured(text: str, found: dict[str, list[Result]]) -> str:
    """Return the page of a method with its tables filled in.

    Args:
        text: The page.
        found: Results by series, from `read`.
    """

    def fill(match: re.Match[str]) -> str:
        head, series, names, end = match.groups()
        return head + excerpt(found[series], names.split()) + end

    return MARKED.sub(fill, text)


def excerpt(results: list[Result], names: Sequence[str]) -> str:
    """Return a table of some arms, and a paragraph on their setting."""
    arms = by_arm(results)
    memory = any(codes_weights(r) for name in names for r in arms.get(name, []))
    lines = [
        f"{title(results[0])}, learning rate "
        f"{results[0]['setting']['learning_rate']:g}. Accuracy in training is that "
        "of the last epoch, on augmented images. See "
        "[`benchmarks.md`](../benchmarks.md) for the budget, the command and the other "
        "methods.",
        "",
        f"| | MACs removed | {'memory removed | ' if memory else ''}seeds | "
        "`test[5000:]` | in training |",
        f"|---|--:|{'--:|' if memory else ''}--:|--:|--:|",
    ]
    for share in [0.0, *targets(results)]:
        for name in names:
            runs = [
                r for r in arms.get(name, []) if r["target"]["macs"] == share
            ]
            if runs:
                lines += excerpt_rows(runs, memory)
    return textwrap.fill(lines[0], 88) + "\n" + "\n".join([*lines[1:], ""])


def codes_weights(result: Result) -> bool:
    """Return whether weights take less memory than their number says."""
    if "memory" not in result:
        return False
    return result["memory"]["removed"] > result["params"]["removed"] + MISSED


def excerpt_rows(runs: list[Result], memory: bool) -> list[str]:
    """Return the rows of the runs of an arm at one target."""
    bytes_removed = [removed(runs, "memory")] if memory else []

    def row(name: str, macs: str, finals: list[float], training: str) -> str:
        cells = [name, macs, *bytes_removed]
        cells += [str(len(finals)), spread(finals), training]
        return f"| {' | '.join(cells)} |"

    last = spread([run["epochs"][-1]["training_accuracy"] for run in runs])
    finals = [run["final"][claims.SLICE] for run in runs]
    rows = [row(runs[0]["title"], removed(runs, "macs"), finals, last)]
    dynamic = [run["dynamic"] for run in runs if "dynamic" in run]
    if dynamic:
        finals = [found["final"][claims.SLICE] for found in dynamic]
        mean = f"{removed(dynamic, 'mean_macs')}, mean"
        rows.append(row("the same with dynamic gates", mean, finals, last))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--methods", type=Path, default=METHODS)
    options = parser.parse_args(arguments)
    write_page(options.results, options.page)
    print(f"wrote {options.page}")
    found = read(options.results)
    for path in sorted(options.methods.glob("*.md")):
        text = path.read_text()
        if MARKED.search(text):
            path.write_text(measured(text, found))
            print(f"filled {path}")


if __name__ == "__main__":
    main()

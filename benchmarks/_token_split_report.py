"""The report of token_split_gpu.py: what its figures say about the gain on several GPUs. Needs no GPU."""

from __future__ import annotations

from typing import Any

LINKS = (12, 25, 64, 450)
"""GB/s into a device: PCIe 4.0 without peer access and with it, PCIe 5.0, NVLink."""


def least_ms(whole: dict[str, Any], share: dict[str, Any], members: int, link: float, overlapped: bool) -> float:
    """What a split call takes at least, with a link of ``link`` GB/s into each device.

    The members' threads share Python's lock, so it is not less than the time in which all of them launch their kernels.
    Overlapped: the exchange costs nothing as long as it takes less than the computation.
    """
    exchange = share["received_mb"] / link
    computing = max(share["ms"], share["issue_together_ms"])
    return max(computing, exchange) if overlapped else computing + exchange


def report_lines(report: dict[str, Any]) -> list[str]:
    facts = report["facts"]
    out = [
        "# The token split, by one GPU" if facts["cuda"] else "# On the CPU: a check of the code, no figures to quote",
        f"`{facts['command']}`, {facts['date']}: {facts['device']}; torch {facts['torch']}, CUDA {facts['cuda']}, "
        f"Python {facts['python']}, ComfyUI {facts['comfyui']} (attention: {facts['attention']}); "
        f"{facts['seconds']} s in all.",
        "",
        "Models of the real shapes with random weights, batch 1, nothing compiled. *Share*: one member's time, with "
        "the keys and values of the others already there. *Issue*: the time to launch a call's kernels, from a picture "
        "so small that the device waits for them. *All members' issue*: the same for all members of one process at the "
        "same time, a thread and a stream each.",
    ]
    if report["failures"]:
        out += ["", "**What failed:**", *(f"- {failure}" for failure in report["failures"])]
    return [*out, "", *_share_lines(report), "", *_gain_lines(report), "", *_together_lines(report)]


def _share_lines(report: dict[str, Any]) -> list[str]:
    out = [
        "## 1. One member's share of a call",
        "| model | weights | members | ms | whole / share | issue, ms | all members' issue, ms | launches | exchanges "
        "| MB received |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in report["cases"].items():
        weights = f"{entry['parameters'] / 1e9:.1f} B {entry['dtype']}"
        whole = entry["members"]["1"]
        for members, found in entry["members"].items():
            out.append(
                f"| {name} | {weights} | {members} | {found['ms']:.1f} | {whole['ms'] / found['ms']:.2f} | "
                f"{found['issue_ms']:.1f} | "
                f"{found['issue_together_ms']:.1f} | {found['launches'] or ''} | {found.get('exchanges', '')} | "
                f"{found.get('received_mb', 0):,.0f} |"
            )
        out += [f"| {name}: {note} |" for note in entry["notes"]]
    return out


def _gain_lines(report: dict[str, Any]) -> list[str]:
    out = [
        "## 2. How many times as fast as the whole call, at most",
        "First figure: the exchange after the computation. Second: beside it, which costs nothing as long as it is "
        "shorter. Never less than the time in which the members' threads, of one process, launch all their kernels.",
        "",
        f"| model | members | {' | '.join(f'{link} GB/s' for link in LINKS)} | limit by launches |",
        "|---|---|" + "---|" * (len(LINKS) + 1),
    ]
    for name, entry in report["cases"].items():
        whole = entry["members"]["1"]
        for members, share in entry["members"].items():
            if members == "1":
                continue
            cells = [
                " to ".join(
                    f"{whole['ms'] / least_ms(whole, share, int(members), link, overlapped):.2f}"
                    for overlapped in (False, True)
                )
                for link in LINKS
            ]
            limit = whole["ms"] / share["issue_together_ms"]
            out.append(f"| {name} | {members} | {' | '.join(cells)} | {limit:.1f} |")
    return out


def _together_lines(report: dict[str, Any]) -> list[str]:
    out = [
        "## 3. Two members on one GPU, a stream each",
        "Difference to the whole call, relative to x - denoised: the largest of all calls. *Delayed*: the streams are "
        "held up at random, so that a missing wait would show. *Without an exchange*: what an error would look like.",
        "",
        "| model | exchange | largest difference | both members the same |",
        "|---|---|---|---|",
    ]
    for name, kinds in report["together"].items():
        for kind, found in kinds.items():
            same = f"{found['same_as_each_other']} of {found['calls']}" if "calls" in found else ""
            out.append(f"| {name} | {kind} | {found['largest']:.1e} | {same} |")
    out += ["", "An exchange of two small tensors between two threads: "]
    out[-1] += ", ".join(f"{1e6 * seconds:.0f} µs {kind}" for kind, seconds in report["exchange_seconds"].items()) + "."
    if report["host_link"]:
        rates = ", ".join(f"{rate:.1f} GB/s {way}" for way, rate in report["host_link"].items())
        out.append(f"Pinned memory: {rates}.")
    return out

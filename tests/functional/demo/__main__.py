# SPDX-License-Identifier: GPL-2.0-or-later
"""python3 -m demo [--report DIR] [--log FILE]: the demo, without the set-up."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Optional, Tuple

from guest import image_missing
from ballast import paths

from .chart import MIB, render
from .screen import Screen
from .story import Step, Story

Record = Dict[str, Any]


NEEDED = 3584 * MIB      # what the guests of both hosts may claim together, and some for QEMU
AFTERMATH = 1.5          # seconds of the picture that follow the last step


def available_memory() -> int:
    """What the machine can give, in bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def missing() -> str:
    """What the demo needs and does not find, or ''."""
    for path in (paths.PLUGIN, paths.CLI):
        if not path.exists():
            return f"not found: {path}; run scripts/setup"
    absent = image_missing()
    if absent:
        return f"not found: {absent}"
    if available_memory() < NEEDED:
        return f"needs {NEEDED // MIB} MiB of free memory, there are {available_memory() // MIB}"
    return ""


def run_step(story: Story, number: int, step: Step) -> Tuple[Record, Optional[Exception]]:
    """One step: its part of the report, and what went wrong."""
    story.screen.heading(number, step.title)
    story.screen.why(step.why)
    record: Record = {"number": number, "title": step.title, "result": "passed",
                      "start_seconds": round(story.sampler.now(), 3)}
    begun = time.monotonic()
    error: Optional[Exception] = None
    try:
        record["numbers"] = step.run()
    except Exception as caught:  # pylint: disable=broad-except
        error = caught
        record.update(result="failed", error=str(caught))
    record["duration_seconds"] = round(time.monotonic() - begun, 3)
    return record, error


def write_log(path: Path, story: Story, error: Exception) -> None:
    """Everything that helps to find out why, for a failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        out.write("".join(traceback.format_exception(error)))
        for guest in story.launched:
            out.write(f"\n== {guest.name}: QEMU\n{guest.vm.log()}\n")
            for port in guest.vm.serial:
                out.write(f"== {guest.name}: serial port\n{port.text}\n")


def first_line(command: List[str]) -> str:
    """A program's version."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return (result.stdout.splitlines() or [""])[0]


def write_report(directory: Path, story: Story, records: List[Record]) -> None:
    """demo.json and ledger.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    kernel = paths.GUEST / "kernel"
    report = {
        "result": "passed" if all(r["result"] == "passed" for r in records) else "failed",
        "duration_seconds": round(story.sampler.now(), 3),
        "qemu": first_line([paths.QEMU, "--version"]),
        "guest_kernel": kernel.read_text().strip() if kernel.exists() else "",
        "host_kernel": platform.release(),
        "steps": records,
        "sampling_errors": story.sampler.errors,
        "ledgers": story.sampler.report(),
    }
    (directory / "demo.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    picture = render("Two hosts' memory ledgers during the demo",
                     "One panel a host, guests stacked; what is left below the dashed line "
                     "is free to claim. Sampled five times a second.",
                     story.sampler.panels, story.markers)
    (directory / "ledger.svg").write_text(picture, encoding="utf-8")


def reason_of(error: Exception) -> str:
    """One line: QEMU's own last words if it did not start, else the error's."""
    lines = str(getattr(error, "output", "") or "").strip().splitlines()
    return " ".join((lines[-1] if lines else str(error)).split())[:300]


def tell(screen: Screen, log: Path, story: Story,
         outcome: Tuple[Record, Optional[Exception]]) -> bool:
    """On failure the one line; whether the step passed."""
    record, error = outcome
    if error is None:
        return True
    write_log(log, story, error)
    screen.failed(f"demo: step {record['number']} ({record['title']}) failed: "
                  f"{reason_of(error)} (log: {log})")
    return False


def play(screen: Screen, log: Path, report: Optional[Path]) -> bool:
    """The whole demo; true when every step passed."""
    records: List[Record] = []
    passed = True
    with tempfile.TemporaryDirectory(prefix="ballast-demo-") as directory, ExitStack() as stack:
        story = Story(screen, Path(directory), stack)
        for number, step in enumerate(story.steps(), 1):
            outcome = run_step(story, number, step)
            records.append(outcome[0])
            passed = tell(screen, log, story, outcome)
            if not passed:
                break
        seconds = story.sampler.now()
        time.sleep(AFTERMATH if report else 0)
        story.sampler.stop()
        if report:
            write_report(report, story, records)
    if passed:
        screen.done(f"All {len(records)} steps passed in {seconds:.0f} s.")
        if report:
            screen.result(f"numbers in {report / 'demo.json'}, "
                          f"picture in {report / 'ledger.svg'}")
    return passed


def interrupt(*_: object) -> NoReturn:
    """A polite signal ends the demo like Ctrl-C: the guests go with it."""
    raise KeyboardInterrupt


def main() -> int:
    """Arguments, then the story."""
    parser = argparse.ArgumentParser(prog="demo")
    parser.add_argument("--report", type=Path, metavar="DIR")
    parser.add_argument("--log", type=Path, default=paths.BUILD / "demo" / "demo.log")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    logging.disable()       # what went wrong is said in one line, the rest is in the log
    screen = Screen()
    absent = missing()
    if absent:
        screen.failed(f"demo: {absent}")
        return 1
    screen.title("Ballast: memory that is safe to promise, safe to migrate, possible to see")
    try:
        return 0 if play(screen, arguments.log, arguments.report) else 1
    except KeyboardInterrupt:
        screen.failed("demo: interrupted; its guests were ended")
        return 130
    except Exception as error:  # pylint: disable=broad-except
        arguments.log.parent.mkdir(parents=True, exist_ok=True)
        arguments.log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        screen.failed(f"demo: {reason_of(error)} (log: {arguments.log})")
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""``infs doctor``: what is installed, what works, and what would make it better."""

from __future__ import annotations

import os
from pathlib import Path

import click

from infs.cli import options
from infs.cli.failures import Command

EPILOG = """
\b
Examples:
  infs doctor
  infs doctor --json
  infs doctor --offline

\b
Exit status: 0 it works, 1 there is a problem, 2 the call is wrong.
"""


@click.command(cls=Command, epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--offline", is_flag=True, help="Ask nothing of the network.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1.0),
    default=60.0,
    metavar="SECONDS",
    help="How long each engine may take to start. [default: 60]",
)
@options.running_server()
@click.pass_context
def doctor(
    ctx: click.Context,
    as_json: bool,
    offline: bool,
    timeout: float,
    url: str | None,
    api_key: str | None,
    config_file: Path | None,
) -> None:
    """Look at this machine: what is installed, which engines and devices work, and what would make it faster.

    Each engine is tried in a process of its own, with the demo model where it can run that.
    """
    from infs.cli.examining import Patient, examine, print_findings

    patient = Patient(
        environ=dict(os.environ),  # an engine may set variables for its library
        directory=Path.cwd(),
        config_file=config_file,
        url=url,
        api_key=api_key,
        offline=offline,
        timeout=timeout,
    )
    findings = examine(patient, quiet=as_json)
    print_findings(findings, as_json=as_json)
    if any(finding.level == "problem" for finding in findings):
        ctx.exit(1)

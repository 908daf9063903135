"""What ``infs config check`` says."""

from __future__ import annotations

import click

from infs.cli.addresses import reachable_url
from infs.cli.checking import Report
from infs.cli.model_checks import described
from infs.cli.tables import Table, show
from infs.cli.words import counted


def print_report(report: Report) -> None:
    """Print the problems; where there are none, what was understood."""
    subject = str(report.file) if report.file is not None else "The configuration (there is no file)"
    if report.problems:
        click.echo(f"{subject}: {counted(len(report.problems), 'problem')}.\n")
        for problem in report.problems:
            click.echo(f"- {problem}")
        return
    click.echo(f"{subject} is ok.\n")
    _print_summary(report)


def _print_summary(report: Report) -> None:
    config = report.config
    keys = len(config.server.api_keys)
    guarded = counted(keys, "API key") if keys else "no API keys"
    click.echo(f"server  {reachable_url(config.server.host, config.server.port)}, {guarded}")
    click.echo(f"cache   {report.cache}")
    if not report.models:
        click.echo("models  none; infs serve offers the demo model")
        return
    click.echo("")
    rows = [[one.name, one.engine or "-", described(one), one.place or "-"] for one in report.models]
    show(Table(header=["MODEL", "ENGINE", "SIZE", "FILES"], rows=rows, right=("SIZE",)))

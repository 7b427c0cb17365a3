"""``softgate-pose list`` and ``info``."""

from __future__ import annotations

import click

from softgate_pose import zoo
from softgate_pose.cli.options import plain_errors
from softgate_pose.weights.record import commands, data_lines, read_config, read_training


@click.command("list")
@click.argument("pattern", default="*")
@plain_errors()
def list_command(pattern: str) -> None:
    """Show the models, their budgets, and which weights exist.

    PATTERN is a wildcard such as 'sgpose_*_2s'.
    """
    names = zoo.list_models(pattern)
    if not names:
        raise ValueError(f"No model matches {pattern!r}. `softgate-pose list` shows all {len(zoo.MODELS)}.")
    rows = [
        (
            name,
            f"{entry.config.num_stacks} x {entry.config.width}",
            f"{entry.params / 1e6:.2f} M",
            f"{entry.macs / 1e9:.2f} G",
            "-" if entry.paper_params is None else f"{entry.paper_params:.1f} M",
            "-" if entry.paper_macs is None else f"{entry.paper_macs:.2f} G",
            entry.paper_pckh or "-",
            ", ".join(weights.tag for weights in zoo.pretrained_entries(name)) or "none yet",
        )
        for name, entry in ((name, zoo.MODELS[name]) for name in names)
    ]
    header = ("model", "stacks x width", "params", "MACs", "params", "MACs", "PCKh@0.5", "our weights")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    ours, paper = sum(widths[2:4]) + 2, sum(widths[4:7]) + 4
    click.echo(f"{'':{sum(widths[:2]) + 4}}{'counted here':^{ours}}  {'reported in the paper':^{paper}}".rstrip())
    for row in (header, tuple("-" * width for width in widths), *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo("\nMACs are of one 256x256 image. The paper's PCKh is of its own weights on all of MPII, never of ours;")
    click.echo("`softgate-pose info MODEL` shows what our weights measure.")


@click.command("info")
@click.argument("name")
@plain_errors()
def info_command(name: str) -> None:
    """Show a model's config, budget and weights.

    NAME is a model, or one with a tag.
    """
    model, dot, _ = name.partition(".")
    entry = zoo.get_entry(model)
    click.echo(f"{model}: {entry.config.num_stacks} x {entry.config.width}, depth {entry.config.depth}")
    params = "not given" if entry.paper_params is None else f"{entry.paper_params:g} M"
    click.echo(f"  parameters   {entry.params:,} (paper: {params})")
    macs = "not given" if entry.paper_macs is None else f"{entry.paper_macs:g} G"
    click.echo(f"  MACs         {entry.macs:,} at 256x256 (paper: {macs})")
    click.echo(f"  paper PCKh   {entry.paper_pckh or 'not given'} (PCKh@0.5 on all of MPII, the paper's weights)")
    published = [zoo.get_pretrained(name)] if dot else zoo.pretrained_entries(model)
    if not published:
        click.echo("  weights      none published yet")
    for weights in published:
        config, training = read_config(weights), read_training(weights)
        where = weights.folder or f"hf-hub:{weights.repo}@{weights.revision}"
        click.echo(f"\nweights {weights.name}\n  file         {where}\n  sha256       {weights.sha256}")
        if config is not None:
            height, width = config.input_size
            click.echo(f"  input        {height}x{width} px, {config.num_keypoints} keypoints ({config.skeleton.name})")
        click.echo(f"  licence      {training.get('licence', 'not stated')}")
        for data in data_lines(training):
            click.echo(f"  data         {data}")
        for command in commands(training):
            click.echo(f"  made by      {command}")
        for row in training.get("metrics", ()):
            click.echo("  measured     " + ", ".join(f"{key} {value}" for key, value in row.items()))

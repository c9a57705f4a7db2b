"""The HTML page of a report: one file that fetches nothing, and the words its numbers are given in."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePath
from typing import Any

from driftlm.memories.expert_weights import rate_of
from driftlm.report.tally import Tally, bits_per_byte, clipped, percent_fewer, too_short

NONE = "–"  # where there is no number
HINT = '<noscript><p class="note">The charts need JavaScript; they also lie beside this page as PNG.</p></noscript>'


@dataclass(frozen=True)
class Figure:
    """A chart of the page: `stem` is also the name of its PNG, `spec` is Vega-Lite."""

    stem: str
    heading: str
    caption: str
    spec: dict[str, Any]


def number(value: Any, form: str = ",", unit: str = "") -> str:
    """Return a number for people; a dash where there is none or it is not finite.

    Example:
        >>> number(20000), number(None), number(float("nan"), ".3f")
        ('20,000', '–', '–')
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return NONE
    return format(value, form).replace("-", "−") + unit


def size(count: int) -> str:
    """Return the bytes for people, in powers of 1,000.

    Example:
        >>> size(66_123), size(512)
        ('66 kB', '512 bytes')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.{0 if count >= 10 * unit else 1}f} {name}"
    return f"{count} bytes"


def percent(value: float | None) -> str:
    """Return a percentage without its sign, with more digits where it is small.

    Example:
        >>> percent(9.14), percent(-0.031)
        ('9.1 %', '0.03 %')
    """
    return NONE if value is None else f"{abs(value):.{1 if abs(value) >= 1 else 2}f} %"


def duration(seconds: float) -> str:
    """Return the seconds for people.

    Example:
        >>> duration(8.2), duration(205), duration(9000)
        ('8.2 s', '3 min 25 s', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def title(config: Mapping[str, Any], tally: Tally) -> str:
    """Return what was read, and by which model."""
    sources = next((group[key] for group in _groups(config) for key in ("sources", "files") if group.get(key)), None)
    if isinstance(sources, list | tuple):
        names = [PurePath(str(source)).name or str(source) for source in sources]
    else:
        names = [row.id for row in tally.rows[:3]]
    more = max(len(names) - 2, 0)
    read = ", ".join(clipped(name, 60) for name in names[:2]) + (f" and {more} more" if more else "") or "Nothing yet"
    model = config.get("model") or {}
    reader = str(model.get("title") or model.get("name") or "an unnamed model")
    return f"{read}, read by {clipped(PurePath(reader).name or reader, 60)}"


def _groups(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the groups of settings in a configuration."""
    return [v for k, v in config.items() if isinstance(v, Mapping) and k not in ("model", "versions")]


def change_in_percent(tally: Tally) -> float | None:
    """Return percent fewer bits than the static model, 0 where it would print as 0.00; None where none was compared."""
    fewer = percent_fewer(tally.total.static, tally.total.nats) if tally.compared else None
    return 0.0 if fewer is not None and abs(fewer) < 0.005 else fewer


def headline(tally: Tally, finished: bool = True) -> str:
    """Return the result in one sentence, a loss as plainly as a gain."""
    total = tally.total
    if not total.windows:
        return "Nothing has been scored yet."
    read = f"{'Read' if finished else 'So far, read'} {total.tokens:,} tokens ({size(total.bytes)})"
    adapted = bits_per_byte(total.nats, total.bytes)
    if not tally.compared:
        return f"{read} at {number(adapted, '.3f')} bits per byte; no static model was run beside it to compare with."
    static = bits_per_byte(total.static, total.bytes)
    bits = f"{number(static, '.3f')} → {number(adapted, '.3f')} bits per byte"
    fewer = change_in_percent(tally)
    if not fewer:
        said = f"{read}; {bits}, 0.0 % fewer bits than the static model."
    elif fewer > 0:
        said = f"{read}; {bits}, {percent(fewer)} fewer bits than the static model."
    else:
        said = f"{read}; {bits}: worse, {percent(fewer)} more bits than the static model."
        said += "" if too_short(total.windows) else " Learning did harm here."
    return f"{said} {too_short(total.windows)}".rstrip()


def page(
    name: str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    tally: Tally,
    figures: Sequence[Figure],
    themes: Mapping[str, Any],
    bundle: Callable[[str], str],
) -> str:
    """Return the page as HTML.

    Args:
        name: its title.
        config: config.json of the run.
        summary: summary.json, empty while the run is not finished.
        tally: what was read.
        figures: charts in order.
        themes: Vega-Lite configs `light` and `dark`.
        bundle: makes a script that calls `vegaEmbed` stand alone.
    """
    finished = bool(summary.get("finished"))
    total = tally.total
    loss = (change_in_percent(tally) or 0.0) < 0
    said = escape(headline(tally, finished)).replace(" %", "&nbsp;%")  # never a line that starts with the sign
    body = [f"<h1>{escape(name)}</h1>"]
    body.append(f'<p class="headline{" loss" if loss else ""}">{said}</p>')
    if not finished:
        body.append(f'<p class="note">This run is not finished: {total.windows:,} windows so far.</p>')
    if tally.unscored:
        body.append(
            f'<p class="note loss">{tally.unscored:,} windows ({tally.unscored_tokens:,} tokens) had no finite score: '
            "the model diverged. They are in no number of this page, so it does not show the damage in full.</p>"
        )
    body.append(_key_figures(summary, tally))
    body += [drawn(figure) for figure in figures]
    if figures:
        body.append(HINT)
    body += [_experts(summary), _documents(tally), _events(tally), _settings(config)]
    return document(name, body, figures, themes, bundle)


def drawn(figure: Figure) -> str:
    """Return a chart's place in the body of a page."""
    return (
        f'<figure><h2>{escape(figure.heading)}</h2><div class="chart" id="{figure.stem}" role="img" '
        f'aria-label="{escape(figure.heading)}"></div><figcaption>{escape(figure.caption)}</figcaption></figure>'
    )


def document(
    name: str, body: Sequence[str], figures: Sequence[Figure], themes: Mapping[str, Any], bundle: Callable[[str], str]
) -> str:
    """Return a page of a title and a body, with the charts that have their places in it."""
    script = ""
    if figures:
        data = {"themes": themes, "charts": {figure.stem: figure.spec for figure in figures}}
        script = f'<script type="application/json" id="data">{_json(data)}</script><script>{bundle(_SCRIPT)}</script>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # nothing may be fetched or sent; Vega compiles its expressions, hence eval
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:\">"
        f"<title>{escape(name)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main>\n{script}</body></html>\n"
    )


def _json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _key_figures(summary: Mapping[str, Any], tally: Tally) -> str:
    total, compared = tally.total, tally.compared and tally.total.windows > 0
    seconds = float(summary.get("seconds") or 0)
    timed = math.isfinite(seconds) and seconds > 0
    moved, held = summary.get("bytes_moved_per_token"), summary.get("peak_memory_bytes")
    pairs = [
        ("bits per byte, adapted", number(bits_per_byte(total.nats, total.bytes), ".3f")),
        ("bits per byte, static", number(bits_per_byte(total.static, total.bytes) if compared else None, ".3f")),
        ("fewer bits", number(change_in_percent(tally), "+.2f", " %")),
        ("gain in nats", number(total.static - total.nats if compared else None, "+,.0f")),
        ("nats per token, adapted", number(total.nats / total.tokens if total.tokens else None, ".3f")),
        (
            "nats per token, static",
            number(total.static / total.tokens if compared and total.tokens else None, ".3f"),
        ),
        ("million operations a token", number((summary.get("flops_per_token") or 0) / 1e6 or None, ",.1f")),
        ("moved a token", size(round(moved)) if moved else NONE),
        ("peak memory", size(held) if held else NONE),
        ("tokens", number(total.tokens)),
        ("bytes", number(total.bytes)),
        ("documents", number(tally.documents)),
        ("windows", number(total.windows)),
        ("updates", number(summary.get("updates", tally.updates))),
        ("rollbacks", number(summary.get("rollbacks", tally.event_kinds.get("rollback", 0)))),
        ("tokens per second", number((total.tokens + tally.unscored_tokens) / seconds if timed else None, ",.0f")),
        ("time", duration(seconds) if timed else NONE),
    ]
    kept = [(k, v) for k, v in pairs if v != NONE]
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in kept) + "</dl>"


def tabled(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int, wide: int = 0, note: str = "") -> str:
    """Return a table whose cells are text; columns from `numbers` on are aligned as numbers, column `wide` gets room
    for words.
    """

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = [" class=n" if i >= numbers else " class=w" if i == wide else "" for i in range(len(row))]
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>\n" for row in rows)
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    table = f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>{note}'


def won(tally: Tally, names: Sequence[str], finished: bool = True) -> str:
    """Say which expert of a mixture weighs most, and where another one led before, in one sentence."""
    lead = tally.lead
    if lead is None:
        return "No expert leads: all weigh the same."
    weight = tally.expert_weights()[-1].weights[lead.expert]
    said = f"{names[lead.expert]} {'won' if finished else 'leads so far'}, with a weight of {number(weight, '.3f')}"
    if lead.before is None:
        return f"{said}; it led from the start."
    times = "once" if lead.changes == 1 else f"{lead.changes:,} times, the last time"
    return f"{said}; the lead changed {times}: after {lead.since:,} tokens, from {names[lead.before]}."


def _experts(summary: Mapping[str, Any]) -> str:
    experts = sorted(summary.get("experts") or (), key=lambda one: rate_of(one["name"]))
    if not experts:
        return ""
    rows = ([e["name"], number(e["nats_per_token"], ".4f"), number(e["weight"], ".3f")] for e in experts)
    return "<section><h2>Experts</h2>" + tabled(["expert", "nats per token", "final weight"], rows, 1) + "</section>"


def _documents(tally: Tally) -> str:
    if not tally.rows:
        return "<section><h2>Documents</h2><p>None has been read yet.</p></section>"
    timed = any(row.time is not None for row in tally.rows)
    head = ["document", *(["time"] if timed else []), "tokens", "bytes"]
    head += ["static bits/byte", "adapted bits/byte", "fewer bits"] if tally.compared else ["bits/byte"]

    def cells() -> Iterable[list[str]]:
        for row in tally.rows:
            sums = row.sums
            cells = [row.id, *([row.time or NONE] if timed else []), number(sums.tokens), number(sums.bytes)]
            if tally.compared:
                cells.append(number(bits_per_byte(sums.static, sums.bytes), ".3f"))
            cells.append(number(bits_per_byte(sums.nats, sums.bytes), ".3f"))
            if tally.compared:
                cells.append(number(percent_fewer(sums.static, sums.nats), "+.1f", " %"))
            yield cells

    more = tally.documents - len(tally.rows)
    note = f"The first {len(tally.rows):,} documents are shown; {more:,} more are in the sums above." if more else ""
    return "<section><h2>Documents</h2>" + tabled(head, cells(), 2 if timed else 1, note=note) + "</section>"


def _events(tally: Tally) -> str:
    count = sum(tally.event_kinds.values())
    if not count:
        return "<section><h2>Guard's events</h2><p>None: the guard recorded no events.</p></section>"
    kinds = ", ".join(f"{kind}: {number(n)}" for kind, n in sorted(tally.event_kinds.items()))
    rows = ([e.kind, e.message, e.document, number(e.window), number(e.tokens)] for e in tally.events)
    more = count - len(tally.events)
    note = f"The first {len(tally.events):,} events are shown; {more:,} more are counted above." if more else ""
    table = tabled(["event", "what happened", "document", "window", "after tokens"], rows, 3, wide=1, note=note)
    return f"<section><h2>Guard's events</h2><p>{escape(kinds)}</p>{table}</section>"


def _settings(config: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{value:g}" if math.isfinite(value) else NONE
        if isinstance(value, list | tuple):
            return ", ".join(text(v) for v in value) or NONE
        return NONE if value is None or value == "" else str(value)

    rows = [(key, text(value)) for group in _groups(config) for key, value in group.items()]
    rows += [(k, text(v)) for k, v in config.items() if not isinstance(v, Mapping) and k not in ("command", "driftlm")]
    model = config.get("model") or {}
    rows += [(f"model {key}", number(v) if isinstance(v, int) else text(v)) for key, v in model.items()]
    rows += [(k, text(v)) for k, v in ({"driftlm": config.get("driftlm")} | (config.get("versions") or {})).items()]
    command = config.get("command")
    shown = f"<h2>Command</h2><pre>{escape(str(command))}</pre>" if command else ""
    table = tabled(["setting", "value"], rows, 2, wide=1)
    return f'<section class="settings"><h2>Settings and versions</h2>{table}{shown}</section>'


_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1f2328; --soft: #59606a; --line: #dde1e6; --card: #f5f6f8;
  --loss: #a8350b; --hue: #e8710a; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181c; --text: #e6e6e6; --soft: #b4b8bf; --line: #3a3f47; --card: #1e2228; --loss: #ff9d70; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
.headline { font-size: 1.15rem; margin: 0 0 1.25rem; padding: .6rem .9rem; background: var(--card);
  border-left: 4px solid var(--hue); }
.headline.loss { border-color: var(--loss); }
.loss { color: var(--loss); font-weight: 600; }
.note, figcaption { color: var(--soft); font-size: .9rem; margin: .5rem 0; }
.note.loss { color: var(--loss); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .5rem; margin: 0; }
dl div { background: var(--card); padding: .5rem .75rem; border-radius: 6px; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
figure { margin: 0; }
figure h2 { padding-right: 2.5rem; }
.chart { width: 100%; min-height: 240px; }
.chart.vega-embed { display: block; padding: 0; }
.chart.vega-embed.has-actions { padding-right: 0; }
.chart.vega-embed summary { top: -2.4rem; opacity: .4 !important; }
.chart.vega-embed .vega-actions { top: 0; }
.scroll { overflow-x: auto; max-height: 32rem; overflow-y: auto; border: 1px solid var(--line); border-radius: 6px; }
.settings .scroll { max-height: none; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { position: sticky; top: 0; background: var(--card); font-weight: 600; }
td { overflow-wrap: anywhere; min-width: 6rem; }
td.w { min-width: 11rem; }
td.n { min-width: 0; overflow-wrap: normal; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th.n { white-space: normal; }
@media (max-width: 40rem) {
  table { font-size: .8rem; }
  th, td { padding: .3rem .4rem; }
  td.w { min-width: 7rem; } }
pre { background: var(--card); padding: .75rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
"""

_SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const actions = {export: true, source: false, compiled: false, editor: false};
function draw() {
  for (const [id, spec] of Object.entries(data.charts)) {
    const config = data.themes[dark.matches ? "dark" : "light"];
    vegaEmbed("#" + id, spec, {config, actions, renderer: "svg", mode: "vega-lite", theme: undefined,
      tooltip: {theme: dark.matches ? "dark" : "light"}, downloadFileName: id});
  }
}
dark.addEventListener("change", draw);
draw();
"""

"""Look at the processed pages (_proc, which tools/docs.py makes) in a headless Chromium, at two widths.

No page scrolls sideways, none writes an error to the console, every explorer moves when its sliders do and
computes what the library computes; with axe-core, the contrast of text in light and dark. The HTML is a plain
stand-in for Quarto's: same prose, code, outputs and styles.css. MathJax and axe-core come from $CTDIFF_NODE.
`--shots DIR` keeps a picture of each page; names of pages limit the run."""
import argparse
import html
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import yaml
from browser import Browser, chromium, serve
from lessons import ROOT, load, text_of
from mend import FRONT, anchor_of
from nbconvert.filters import Highlight2HTML, ansi2html, markdown2html

WIDTHS = (390, 1440)
AXE_WIDTH = 1440
SLOW_MS = 50                                       # an explorer that answers later than this is no explorer
SHELL = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>{base}</style><link rel="stylesheet" href="styles.css">{math}</head>
<body class="quarto-{theme}"><main class="content"><h1 class="title">{title}</h1>
<p class="subtitle">{subtitle}</p>{body}</main></body></html>"""
BASE = """
body { font: 17px/1.5 "Source Sans Pro", system-ui, sans-serif; margin: 0; color: #373a3c; background: #fff; }
main { max-width: 900px; margin: 0 auto; padding: 12px; } a { color: #1f66c1; }
code { font-size: 0.875em; }
:not(pre) > code { background: #f6f6f6; padding: 0.1em 0.3em; border-radius: 4px; }
pre { font-size: 14px; } .sourceCode pre { background: #f7f7f7; padding: 0.5rem; white-space: pre-wrap; }
img { max-width: 100%; height: auto; } table { border-collapse: collapse; }
td, th { padding: 0.25rem 0.5rem; }
th, td { border-bottom: 1px solid rgba(128, 128, 128, 0.4); text-align: left; vertical-align: top; }
details { border: 1px solid #8886; border-radius: 6px; padding: 0.4rem 0.8rem; margin: 1rem 0; }
.quarto-dark { color: #fff; background: #222; } .quarto-dark a { color: #00bc8c; }
.quarto-dark :not(pre) > code { background: #333; } .quarto-dark .sourceCode pre { background: #2b2b2b; }
.quarto-dark .sourceCode span { color: #ddd !important; }
"""


# from a processed notebook to HTML

def with_divs(text):
    "Quarto's fenced blocks as HTML."
    out, open_tags, lines = [], [], iter(text.splitlines())
    for line in lines:
        begin = re.match(r"\s*:{3,}\s*\{(.+)\}\s*$", line)
        if begin and "callout" in begin[1]:
            title = next((more for more in lines if more.strip()), "")
            out += ["", f"<details><summary>{html.escape(title.lstrip('# '))}</summary>", ""]
            open_tags.append("details")
        elif begin:
            out += ["", f'<div class="{" ".join(re.findall(r"[.]([-a-z]+)", begin[1]))}">', ""]
            open_tags.append("div")
        elif re.match(r"\s*:{3,}\s*$", line):
            out += ["", f"</{open_tags.pop() if open_tags else 'details'}>", ""]
        else:
            out.append(line)
    return "\n".join(out)


def with_references(text):
    "Cross references, citations, anchors and attributes as HTML or plain text."
    text = re.sub(r"\[\]\{#([\w.-]+)\}", r'<span id="\1"></span>', text)
    text = re.sub(r"(?m)^: (.*?)\s*\{#[\w-]+\}$", r"*\1*", text)              # the caption of a table
    text = re.sub(r"\s*\{#[\w-]+\}", "", text)
    text = re.sub(r"(\]\([^)\s]*\))\{[^}\n]*\}", r"\1", text)
    text = re.sub(r"(?<![\w.\[/])@((?:fig|tbl|eq)-[\w-]+)", r"[Figure](#\1)", text)
    text = re.sub(r"\[@([\w:.-]+)[^\]]*\]", r"[\1]", text)
    return re.sub(r"\]\((?:\d+_)?(\w+)\.ipynb(#[\w.-]+)?\)", r"](\1.html\2)", text)


def outside_code(change, text):
    "Apply a change to Markdown, not to the code in it."
    parts = re.split(r"(^```.*?^```[ \t]*$|`[^`\n]+`)", text, flags=re.M | re.S)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def prose(text):
    "Markdown as HTML, headings with Quarto's anchors."
    body = markdown2html(outside_code(with_references, with_divs(text)))
    body = re.sub(r'<a class="anchor-link".*?</a>', "", body)
    def with_id(m):
        anchor = anchor_of(re.sub("<.*?>", "", html.unescape(m[2])))
        return f'<h{m[1]} id="{anchor}">{m[2]}</h{m[1]}>'
    return re.sub(r"<h([2-6])[^>]*>(.*?)</h\1>", with_id, body, flags=re.S)


def directives(source):
    "The `#| key: value` lines of a cell."
    return dict(re.findall(r"^#\|\s*([\w-]+)(?::\s*(.*?))?\s*$", source, flags=re.M))


def figure(mime, data, about):
    "A picture with its caption."
    text = "".join(data)
    kind = "data:image/png;base64," if mime == "image/png" else "data:image/svg+xml;utf8,"
    alt = html.escape(yaml.safe_load(about.get("fig-alt", "''")), quote=True)
    caption = prose(yaml.safe_load(about.get("fig-cap", "''")))
    label = about.get("label", "")
    picture = f'<div class="cell-output-display"><img src="{kind}{text.strip()}" alt="{alt}"></div>'
    return f'<figure id="{label}">{picture}<figcaption>{caption}</figcaption></figure>'


def output(out, about):
    "One stored output."
    if out["output_type"] == "stream":
        text = "".join(out["text"])
        return prose(text) if about.get("output") == "asis" else f"<pre>{ansi2html(text)}</pre>"
    data = out.get("data", {})
    for mime in ("image/svg+xml", "image/png"):
        if mime in data: return figure(mime, data[mime], about)
    if "text/markdown" in data: return prose("".join(data["text/markdown"]))
    if "text/html" in data: return "".join(data["text/html"])
    return f"<pre>{html.escape(''.join(data.get('text/plain', '')))}</pre>"


COLOURED = Highlight2HTML(pygments_lexer="python3")


def code(cell):
    "A code cell as the site shows it."
    source = text_of(cell)
    about = directives(source)
    if about.get("include") == "false": return ""
    shown = "\n".join(line for line in source.splitlines() if not line.startswith("#|")).strip("\n")
    parts = []
    if about.get("echo") != "false" and shown:
        parts.append(f'<div class="sourceCode">{COLOURED(shown)}</div>')
    if about.get("output") != "false":
        parts += [f'<div class="cell-output">{output(o, about)}</div>' for o in cell.get("outputs", [])]
    return f'<div class="cell {about.get("classes", "")}">{"".join(parts)}</div>' if parts else ""


def page(path, math, theme="light"):
    "A processed notebook as one HTML page."
    cells = load(path)["cells"]
    front = next(yaml.safe_load(FRONT.match(text_of(c))[1]) for c in cells if FRONT.match(text_of(c)))
    body = "\n".join(prose(text_of(c)) if c["cell_type"] == "markdown" else code(c)
                     for c in cells if c["cell_type"] in ("markdown", "code"))
    title, subtitle = html.escape(front["title"]), prose(front.get("description", ""))
    return SHELL.format(title=title, subtitle=subtitle, body=body, base=BASE, math=math, theme=theme)


def node(name):
    "A file of an npm package, if it is on this machine."
    places = [os.environ.get("CTDIFF_NODE"), ROOT/"node_modules", ROOT/"tools"/"node_modules"]
    return next((Path(p)/name for p in places if p and (Path(p)/name).exists()), None)


def build(folder, names):
    "Pages, styles, pictures and scripts in a folder; the names of the pages."
    for part in ("explorers", "images"): shutil.copytree(ROOT/"_proc"/part, folder/part)
    shutil.copy(ROOT/"_proc"/"styles.css", folder)
    mathjax, math = node("mathjax/es5/tex-svg.js"), ""
    if mathjax:
        shutil.copytree(mathjax.parent, folder/"mathjax")
        settings = "{tex: {inlineMath: [['$', '$'], ['\\\\(', '\\\\)']]}, svg: {fontCache: 'none'}}"
        math = f'<script>MathJax = {settings}</script><script src="mathjax/tex-svg.js"></script>'
    found = []
    for path in sorted((ROOT/"_proc").glob("*.ipynb")):
        name = re.sub(r"^\d+_", "", path.stem)
        if names and name not in names: continue
        (folder/f"{name}.html").write_text(page(path, math), encoding="utf-8")
        found.append(name)
    return found


# what is looked at

EXPLORES = "!!document.querySelector('[data-explorer]')"
READY = "window.MathJax?.startup?.promise ?? Promise.resolve()"
WIDE = """(() => {
  const limit = document.documentElement.clientWidth, wide = document.documentElement.scrollWidth;
  if (wide <= limit) return null;
  const clipped = el => { for (let p = el.parentElement; p; p = p.parentElement)
    if (getComputedStyle(p).overflowX !== "visible") return true; return false; };
  const guilty = [...document.querySelectorAll("main *")].find(el =>
    el.getBoundingClientRect().right > limit + 1 && !clipped(el));
  const about = el => `${el.tagName}.${el.className} ${el.textContent.slice(0, 60)}`;
  return `${wide} px wide, ${guilty ? about(guilty) : "?"}`;
})()"""
MOUNTED = """(async () => {
  for (let i = 0; i < 100; i++) {
    const all = [...document.querySelectorAll("[data-explorer]")];
    if (all.every(el => el.dataset.milliseconds)) return all.map(el => el.dataset.explorer);
    await new Promise(done => setTimeout(done, 50));
  }
  return null;
})()"""
MOVED = """(() => [...document.querySelectorAll("[data-explorer]")].flatMap(el =>
  [...el.querySelectorAll("input[type=range]")].map(input => {
    const look = () => el.querySelector("canvas").toDataURL();
    const times = [], looks = new Set([look()]);
    for (const share of [0.1, 0.35, 0.6, 0.85, 1]) {
      input.value = Number(input.min) + share * (input.max - input.min);
      input.dispatchEvent(new Event("input"));
      looks.add(look());
      times.push(Number(el.dataset.milliseconds));
    }
    times.sort((a, b) => a - b);
    const label = el.querySelector(`label[for=${input.id}]`).textContent;
    return [el.dataset.explorer, label, looks.size, times[2]];
  })))()"""
RULES = '["color-contrast", "image-alt", "label", "link-name", "button-name"]'
CONTRAST = f"axe.run(document, {{runOnly: {RULES}}})" + """
  .then(r => r.violations.map(v => `${v.id}: ${v.nodes.length} x ${v.nodes[0].target} ${
    (v.nodes[0].any[0] || {}).message || ""}`))"""


# the colours of code are the stand-in's, and one word one node: thousands of nodes that need not be looked at
PLAIN = """document.querySelectorAll(".sourceCode pre, mjx-container").forEach(
  el => { el.textContent = el.textContent; })"""


PRESSED = """(async () => {
  const el = document.querySelector("[data-explorer=network]");
  if (!el) return null;
  [...el.querySelectorAll("button")].find(b => b.textContent === "Denoise").click();
  for (let i = 0; i < 600; i++) {
    const says = el.querySelector(".explorer-says").textContent;
    if (/ms in one thread|did not come/.test(says)) return says;
    await new Promise(done => setTimeout(done, 100));
  }
  return "no answer in a minute";
})()"""


def explorer_problems(browser):
    "Explorers that did not appear, do not move, or are slow; a network that does not answer."
    there = browser.run(MOUNTED)
    if there is None:
        yield "an explorer did not appear"
        return
    for name, label, looks, ms in browser.run(MOVED) if there else []:
        if looks < 3: yield f"explorer {name}: moving {label!r} does not move the picture"
        if ms > SLOW_MS: yield f"explorer {name}: {label!r} answers in {ms} ms, want at most {SLOW_MS}"
    says = browser.run(PRESSED, 180)
    if says and "ms in one thread" not in says: yield f"explorer network: {says}"


def theme_problems(browser):
    "Text that is hard to read, light and dark."
    for theme in ("light", "dark"):
        browser.run(f"document.body.className = 'quarto-{theme}'")
        for problem in browser.run(CONTRAST): yield f"{theme}: {problem}"
    browser.run("document.body.className = 'quarto-light'")


def page_problems(browser, address, name, axe, shots):
    "What is wrong with one page at any of the widths. An explorer takes its size when it is opened."
    for width in WIDTHS:
        browser.size(width)
        if width == WIDTHS[0] or browser.run(EXPLORES):
            browser.open(f"{address}/{name}.html")
            browser.run(READY)
        for problem in width_problems(browser, axe if width == AXE_WIDTH else None):
            yield f"{name} at {width}: {problem}"
        if shots: browser.screenshot(shots/f"{name}-{width}.png")


def width_problems(browser, axe):
    "What is wrong with the page that is open, as wide as it is."
    yield from explorer_problems(browser)
    wide = browser.run(WIDE)
    if wide: yield f"scrolls sideways: {wide}"
    yield from browser.errors()
    if not axe: return
    browser.run(PLAIN)
    browser.run(axe)
    yield from theme_problems(browser)


FORMULAS = """import("/explorers/explorers.js").then(m => ({
  cosine: [0, 0.1, 0.5, 0.9].map(t => m.cosineBar(t)), bent: m.cosineBar(0.3, 0.1),
  linear: [0.1, 0.5, 0.9].map(t => m.linearBar(t)), merged: Object.values(m.merge(0.7, 1.3, -0.2, 0.3)),
  grid: m.posteriorMean(0.7, 1.3, -0.2, 0.3), noise: [...m.noise(4000, 3)]}))"""


NETWORK = """(async () => {{
  const {{ unpack, denoise }} = await import("/explorers/network.js");
  const network = unpack(await (await fetch("/explorers/small.bin")).arrayBuffer());
  return [...denoise(network, Float32Array.from({x}), {sigma})];
}})()"""


def network_problems(browser):
    "The network of the explorers against the library's, with weights of eight bits both."
    import ctdiff_edu as ct
    import torch
    from pack import eight_bit
    net = ct.load_network("small", precision="float32")
    eight_bit(net.model)
    for sigma in (0.1, 0.3, 1.0):
        y = ct.add_noise(ct.phantoms(1, seed=5), sigma, torch.Generator().manual_seed(1))
        want = ct.denoise(net.D, y, sigma).flatten()
        got = torch.tensor(browser.run(NETWORK.format(x=y.flatten().tolist(), sigma=sigma)))
        off = (got - want).abs().max().item()
        if off > 0.01: yield f"network.js at noise {sigma}: off by up to {off:.4f}"


def formula_problems(browser, address):
    "The explorers' formulas against the library's."
    import torch
    from ctdiff_edu.sampling import condition
    from ctdiff_edu.schedule import CosineSchedule
    from ctdiff_edu.sde import VPSDE, LinearSchedule
    browser.open(f"{address}/explorers.html")
    got = browser.run(FORMULAS)
    asked = []
    def spy(x, sigma): asked.append((x.item(), sigma.item()))
    x, y = (torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (0.7, -0.2))
    condition(spy, y, 0.3)(x, 1.3)
    noise = torch.tensor(got["noise"])
    want = {
        "cosine": [CosineSchedule().alpha_bar(t).item() for t in (0, 0.1, 0.5, 0.9)],
        "bent": CosineSchedule(0.1).alpha_bar(0.3).item(),
        "linear": [VPSDE(LinearSchedule()).alpha(t).item()**2 for t in (0.1, 0.5, 0.9)],
        "merged": [got["merged"][0], *asked[0]]}
    for name, value in want.items():
        if not torch.allclose(torch.tensor(got[name]), torch.tensor(value), atol=1e-6):
            yield f"explorers.js: {name} is {got[name]}, in the library {value}"
    from_one_look = browser.run('import("/explorers/explorers.js").then(m => m.denoisePixel('
                                f'{asked[0][0]}, {asked[0][1]}))')
    if abs(from_one_look - got["grid"]) > 1e-6:
        yield f"explorers.js: the mean by one look is {from_one_look}, by the grid {got['grid']}"
    if abs(noise.mean()) > 0.06 or abs(noise.std() - 1) > 0.05:
        yield f"explorers.js: noise has mean {noise.mean():.3f} and deviation {noise.std():.3f}"


def walk(folder, names, shots):
    "All problems of all pages."
    server, address = serve(folder)
    axe_file = node("axe-core/axe.min.js")
    axe = axe_file and axe_file.read_text(encoding="utf-8") + "; 0"
    typeset = "local" if node("mathjax/es5/tex-svg.js") else "not there: formulas were not typeset"
    measured = "local" if axe else "not there: contrast was not measured"
    print(f"pages: MathJax {typeset}; axe-core {measured}")
    with Browser() as browser:
        for name in names: yield from page_problems(browser, address, name, axe, shots)
        if "explorers" in names:
            yield from formula_problems(browser, address)
            yield from network_problems(browser)
    server.shutdown()


def main():
    "Everything; returns the exit code."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--shots", type=Path)
    args = parser.parse_args()
    if not chromium():
        print("pages: not run, no Chromium on PATH")
        return 0
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ctdiff-pages.") as folder:
        names = build(Path(folder), args.names)
        problems = list(walk(Path(folder), names, args.shots))
    for problem in problems: print(f"pages: {problem}", file=sys.stderr)
    print(f"pages: {len(names)} pages at {' and '.join(map(str, WIDTHS))} px, {len(problems)} problems")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())

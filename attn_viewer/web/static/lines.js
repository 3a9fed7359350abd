/** Two columns of tokens, queries left and keys right, joined by lines as strong as the weights. */

import { HIDDEN, findOffset, findTop, makeScale } from "./data.js";
import { FONT, MARGIN, make, nameHead, shorten, sizeCanvas, tellWeight } from "./dom.js";
import { createLegend, loadHeads } from "./legend.js";

const ROW = 20;
const FAINTEST = 0.03;
const MOST_LINES = 6000;
/** Lines of one strength are drawn at once: so many strengths. */
const SHADES = 24;
const TOP = 28;
/** Width of an ordinary letter. */
const LETTER = 6.6;

export function createLines(context) {
  const { meta } = context;
  const legend = createLegend(context);
  const canvas = make("canvas");
  const plot = make("div", { class: "av-lines-plot", tabindex: 0, role: "img" }, canvas);
  const status = make("p", { class: "av-hint" });
  const element = make("div", { class: "av-lines" }, legend.element, status, plot);
  const queries = nameCells(meta.tokens_query ?? meta.tokens_key, meta.cell[0], meta.first_query);
  const keys = nameCells(meta.tokens_key, meta.cell[1], 0);
  const offset = findOffset(meta);
  const most = Math.max(queries.length + offset, keys.length);
  const yOf = (i) => TOP + (i + 0.5) * ROW;
  plot.style.height = `${TOP + most * ROW}px`;
  let loaded = null;
  let hovered = null;
  let strongest = null;
  let sight = null;
  let asked = 0;
  let isGone = false;

  async function show() {
    legend.show();
    const turn = ++asked;
    try {
      loaded = await loadHeads(context);
    } catch (error) {
      status.textContent = error.message;
      return;
    }
    if (isGone || turn !== asked) return;
    strongest = collect();
    draw();
    element.dataset.ready = String(loaded.layer);
  }

  /** Call `visit(column, share)` for each line of a row of a head that is to be seen. */
  function visitRow({ values }, scale, row, visit) {
    const hides = context.state.first === "hide";
    if (hides && row === 0 && meta.kind !== "cross" && meta.first_query === 0) return;
    const start = row * meta.columns;
    for (let column = hides ? 1 : 0; column < meta.columns; column++) {
      const value = values[start + column];
      if (value <= 0) continue;
      const share = scale(value);
      if (share >= FAINTEST) visit(column, share);
    }
  }

  function visitAll(visit) {
    for (const [place, { color, found }] of loaded.heads.entries()) {
      const scale = makeScale(context.state, findTop(meta, context.state, found));
      for (let row = 0; row < meta.rows; row++)
        visitRow(found, scale, row, (column, share) => visit(color, place, row, column, share));
    }
  }

  /** The strongest lines of all heads, and how many there are; lines are counted first, since there may be millions. */
  function collect() {
    const counts = new Uint32Array(1025);
    visitAll((color, place, row, column, share) => counts[Math.round(1024 * share)]++);
    const total = counts.reduce((sum, count) => sum + count, 0);
    let [bin, kept] = [1024, counts[1024]];
    while (bin > 0 && kept + counts[bin - 1] <= MOST_LINES) kept += counts[--bin];
    const edges = [];
    visitAll((color, place, row, column, share) => {
      if (edges.length < MOST_LINES && Math.round(1024 * share) >= bin) edges.push({ color, place, row, column, share });
    });
    return { edges, total };
  }

  function collectRow(row) {
    const edges = [];
    for (const [place, { color, found }] of loaded.heads.entries()) {
      const scale = makeScale(context.state, findTop(meta, context.state, found));
      visitRow(found, scale, row, (column, share) => edges.push({ color, place, row, column, share }));
    }
    return edges;
  }

  function current() {
    return context.state.line ?? hovered;
  }

  /** Which part of the plot the window shows: pixels from its top. */
  function look() {
    const { top, width } = plot.getBoundingClientRect();
    const height = TOP + most * ROW;
    const from = Math.max(0, Math.min(height, -top));
    return { from, to: Math.max(from, Math.min(height, window.innerHeight - top)), width, height };
  }

  function draw() {
    const { theme } = context;
    const { from, to, width: full, height } = look();
    const width = Math.max(240, full);
    const [start, end] = [Math.max(0, from - MARGIN), Math.min(height, to + MARGIN)];
    const drawing = sizeCanvas(canvas, width, end - start);
    canvas.style.transform = `translateY(${start}px)`;
    drawing.translate(0, -start);
    const side = Math.min(200, Math.max(70, width * 0.24));
    sight = { side, width, start, end };
    const [left, right] = [side, width - side];
    const longest = Math.min(24, Math.floor((side - 4) / LETTER)); // narrow columns would squeeze more
    const focus = current();
    const edges = focus === null ? strongest.edges : collectRow(focus - offset);
    drawing.lineWidth = focus === null ? 1 : 2;
    const bend = (right - left) * 0.35;
    const paths = new Map();
    const apart = Math.min(3, (ROW - 6) / Math.max(1, loaded.heads.length - 1));
    for (const { color, place, row, column, share } of edges) {
      // Heads end side by side at a key, so that none lies on another.
      const [y1, y2] = [yOf(row + offset), yOf(column) + apart * (place - (loaded.heads.length - 1) / 2)];
      if (Math.max(y1, y2) < start || Math.min(y1, y2) > end) continue;
      const shade = Math.ceil(SHADES * share);
      const key = `${shade} ${color}`;
      if (!paths.has(key)) paths.set(key, { shade, color, path: new Path2D() });
      const { path } = paths.get(key);
      path.moveTo(left + 4, y1);
      path.bezierCurveTo(left + bend, y1, right - bend, y2, right - 4, y2);
    }
    for (const { shade, color, path } of [...paths.values()].sort((a, b) => a.shade - b.shade)) {
      drawing.globalAlpha = (shade / SHADES) * (focus === null ? 0.7 : 1);
      drawing.strokeStyle = color;
      drawing.stroke(path);
    }
    drawing.globalAlpha = 1;
    drawing.font = FONT;
    drawing.textBaseline = "middle";
    drawing.fillStyle = theme.muted;
    drawing.textAlign = "right";
    drawing.fillText(meta.kind === "cross" ? "query (target)" : "query", left, 10);
    drawing.textAlign = "left";
    drawing.fillText(meta.kind === "cross" ? "key (source)" : "key", right, 10);
    const targets = new Set(focus === null ? [] : edges.map(({ column }) => column));
    const [first, last] = [Math.floor((start - TOP) / ROW), Math.ceil((end - TOP) / ROW)];
    drawing.textAlign = "right";
    for (let i = Math.max(0, first - offset); i < Math.min(queries.length, last - offset); i++) {
      drawing.fillStyle = focus === null ? theme.ink : i + offset === focus ? theme.accent : theme.muted;
      drawing.fillText(shorten(queries[i], longest), left, yOf(i + offset), side - 4);
    }
    drawing.textAlign = "left";
    for (let i = Math.max(0, first); i < Math.min(keys.length, last); i++) {
      const isTarget = focus === null || targets.has(i);
      drawing.fillStyle = isTarget ? theme.ink : theme.muted;
      drawing.fillText(shorten(keys[i], longest), right, yOf(i), side - 4);
    }
    const { total } = strongest;
    const shown = focus === null && total > edges.length ? `The strongest ${edges.length} of ${total} lines. ` : "";
    status.textContent = `${shown}Point at a query to see its lines alone; double click, or Enter, freezes it.`;
    canvas.dataset.lines = String(edges.length);
    plot.setAttribute("aria-label", `Layer ${loaded.layer}: ${edges.length} lines from ${queries.length} queries to ${keys.length} keys`);
  }

  // Whatever scrolls, the page or a notebook's own box: scroll events are seen on their way down.
  const scrolled = new AbortController();
  const follow = () => {
    if (!loaded || !sight) return;
    const { from, to } = look();
    if (from < sight.start || to > sight.end) draw();
  };
  window.addEventListener("scroll", follow, { capture: true, passive: true, signal: scrolled.signal });

  function find(event) {
    const box = plot.getBoundingClientRect();
    const index = Math.floor((event.clientY - box.top - TOP) / ROW);
    const isQuery = event.clientX - box.left < sight.width / 2;
    return isQuery && index >= offset && index < queries.length + offset ? index : null;
  }

  function tell(event) {
    const focus = current();
    const box = plot.getBoundingClientRect();
    const index = Math.floor((event.clientY - box.top - TOP) / ROW);
    if (focus === null || event.clientX - box.left < sight.width / 2 || !(index in keys)) {
      context.tooltip.hide();
      return;
    }
    const lines = [`query ${spell(queries, focus - offset, 0)}`, `key ${spell(keys, index, 1)}`];
    for (const { head, found } of loaded.heads.slice(0, 12)) {
      const weight = found.values[(focus - offset) * meta.columns + index];
      if (weight !== HIDDEN) lines.push(`${nameHead(meta, head)}  ${tellWeight(weight, meta.encoding)}`);
    }
    context.tooltip.show(event.clientX, event.clientY, lines);
  }

  /** A label with its number, which names of pooled cells begin with. */
  function spell(names, i, axis) {
    const label = shorten(names[i], 40);
    return meta.cell[axis] > 1 ? label : `${axis ? i : i + meta.first_query}  ${label}`;
  }

  function point(index) {
    if (index === hovered) return;
    hovered = index;
    if (context.state.line === null) draw();
  }

  plot.addEventListener("pointermove", (event) => {
    if (!loaded || !sight) return;
    const index = find(event);
    if (index !== null) point(index);
    tell(event);
  });
  plot.addEventListener("pointerleave", () => {
    context.tooltip.hide();
    if (loaded) point(null);
  });
  plot.addEventListener("dblclick", (event) => {
    const index = loaded && find(event);
    if (index !== null) context.update({ line: context.state.line === index ? null : index });
  });

  function handleKey({ key, target }) {
    if (!loaded || target !== plot) return false;
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const by = key === "ArrowLeft" ? -1 : 1;
      point(Math.min(queries.length + offset - 1, Math.max(offset, (hovered ?? offset - by) + by)));
      context.announce(`query ${hovered}, ${queries[hovered - offset]}`);
      return true;
    }
    if (key === "Enter" && hovered !== null) {
      context.update({ line: context.state.line === hovered ? null : hovered });
      return true;
    }
    return false;
  }

  function destroy() {
    isGone = true;
    scrolled.abort();
    context.tooltip.hide();
  }

  return { element, show, handleKey, destroy };
}

function nameCells(labels, cell, start) {
  if (cell === 1) return labels;
  return Array.from({ length: Math.ceil(labels.length / cell) }, (_, i) => `${start + i * cell} ${labels[i * cell]} …`);
}

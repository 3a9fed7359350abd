/** Two columns of tokens, queries left and keys right, joined by lines as strong as the weights. */

import { HIDDEN, findOffset, findTop, findWindow, makeScale } from "./data.js";
import { FONT, MARGIN, make, nameHead, nameSegment, plural, shorten, sizeCanvas, tellWeight } from "./dom.js";
import { MOST_TOLD, createLegend, loadHeads } from "./legend.js";
import { findQuery, findRow } from "./links.js";

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
  /** What is scrolled to. */
  const anchor = make("i", { class: "av-anchor" });
  const plot = make("div", { class: "av-lines-plot", tabindex: 0, role: "img" }, canvas, anchor);
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
    const { rows, columns } = findWindow(meta, context.state);
    if (row < rows[0] || row >= rows[1]) return;
    const start = row * meta.columns;
    for (let column = columns[0]; column < columns[1]; column++) {
      const value = values[start + column];
      const share = Math.abs(scale(value));
      if (share >= FAINTEST) visit(column, share);
    }
  }

  function visitAll(visit) {
    for (const [place, { color, found }] of loaded.heads.entries()) {
      const scale = makeScale(context.state, findTop(context, found));
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

  /** The lines of one query, or to one key. */
  function collectOf({ side, index }) {
    const edges = [];
    const rows = side === "query" ? [index - offset] : Array.from({ length: meta.rows }, (_, row) => row);
    for (const [place, { color, found }] of loaded.heads.entries()) {
      const scale = makeScale(context.state, findTop(context, found));
      for (const row of rows)
        visitRow(found, scale, row, (column, share) => {
          if (side === "query" || column === index) edges.push({ color, place, row, column, share });
        });
    }
    return edges;
  }

  /** What is pinned or pointed at: {side: "query" | "key", index}, or null. */
  function current() {
    return pinned() ?? hovered;
  }

  function pinned() {
    const { line, lineKey } = context.state;
    if (line !== null) return { side: "query", index: line };
    return lineKey === null ? null : { side: "key", index: lineKey };
  }

  function isSame(one, other) {
    return one?.side === other?.side && one?.index === other?.index;
  }

  function pin(place) {
    const isPinned = isSame(place, pinned());
    context.update({
      line: !isPinned && place.side === "query" ? place.index : null,
      lineKey: !isPinned && place.side === "key" ? place.index : null,
    });
  }

  /** Which part of the plot the window shows: pixels from its top. */
  function look() {
    const { top, width } = plot.getBoundingClientRect();
    const height = TOP + most * ROW;
    const from = Math.max(0, Math.min(height, -top));
    return { from, to: Math.max(from, Math.min(height, window.innerHeight - top)), width, height };
  }

  function draw() {
    const { from, to, width: full, height } = look();
    const width = Math.max(240, full);
    const [start, end] = [Math.max(0, from - MARGIN), Math.min(height, to + MARGIN)];
    const drawing = sizeCanvas(canvas, width, end - start);
    canvas.style.transform = `translateY(${start}px)`;
    drawing.translate(0, -start);
    sight = { width, start, end };
    const edges = paint(drawing, sight);
    const { total } = strongest;
    const shown = current() === null && total > edges.length ? `The strongest ${edges.length} of ${total} lines. ` : "";
    status.textContent = `${shown}Point at a query or a key to see its lines alone; a click, a tap or Enter pins it.`;
    canvas.dataset.lines = String(edges.length);
    plot.setAttribute("aria-label", `Layer ${loaded.layer}: ${edges.length} lines from ${queries.length} queries to ${keys.length} keys`);
  }

  /** Draw what lies between `start` and `end`, and return all lines of what is pointed at. */
  function paint(drawing, { width, start, end }) {
    const { theme } = context;
    const side = Math.min(200, Math.max(70, width * 0.24));
    const [left, right] = [side, width - side];
    const longest = Math.min(24, Math.floor((side - 4) / LETTER)); // narrow columns would squeeze more
    const focus = current();
    const edges = focus === null ? strongest.edges : collectOf(focus);
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
      if (!paths.has(key)) paths.set(key, { shade, color, ends: [] });
      paths.get(key).ends.push([y1, y2]);
    }
    for (const { shade, color, ends } of [...paths.values()].sort((a, b) => a.shade - b.shade)) {
      drawing.beginPath();
      for (const [y1, y2] of ends) {
        drawing.moveTo(left + 4, y1);
        drawing.bezierCurveTo(left + bend, y1, right - bend, y2, right - 4, y2);
      }
      drawing.globalAlpha = (shade / SHADES) * (focus === null ? 0.7 : 1);
      drawing.strokeStyle = color;
      drawing.stroke();
    }
    drawing.globalAlpha = 1;
    drawing.font = FONT;
    drawing.textBaseline = "middle";
    drawing.fillStyle = theme.muted;
    drawing.textAlign = "right";
    drawing.fillText(meta.kind === "cross" ? "query (target)" : "query", left, 10);
    drawing.textAlign = "left";
    drawing.fillText(meta.kind === "cross" ? "key (source)" : "key", right, 10);
    const ends = { query: new Set(edges.map(({ row }) => row + offset)), key: new Set(edges.map(({ column }) => column)) };
    const inkOf = (side, index) => {
      if (focus === null) return theme.ink;
      if (focus.side === side) return focus.index === index ? theme.accent : theme.muted;
      return ends[side].has(index) ? theme.ink : theme.muted;
    };
    const [first, last] = [Math.floor((start - TOP) / ROW), Math.ceil((end - TOP) / ROW)];
    drawing.textAlign = "right";
    for (let i = Math.max(0, first - offset); i < Math.min(queries.length, last - offset); i++) {
      drawing.fillStyle = inkOf("query", i + offset);
      drawing.fillText(shorten(queries[i], longest), left, yOf(i + offset), side - 4);
    }
    drawing.textAlign = "left";
    for (let i = Math.max(0, first); i < Math.min(keys.length, last); i++) {
      drawing.fillStyle = inkOf("key", i);
      drawing.fillText(shorten(keys[i], longest), right, yOf(i), side - 4);
    }
    return edges;
  }

  /** All of the plot, and what of it stands out. */
  function picture() {
    if (!loaded || !sight) return null;
    const [width, height] = [sight.width, TOP + most * ROW];
    return { width, height, paint: (drawing) => paint(drawing, { width, start: 0, end: height }) };
  }

  // Whatever scrolls, the page or a notebook's own box: scroll events are seen on their way down.
  const scrolled = new AbortController();
  const keepUp = () => {
    if (!loaded || !sight) return;
    const { from, to } = look();
    if (from < sight.start || to > sight.end) draw();
  };
  window.addEventListener("scroll", keepUp, { capture: true, passive: true, signal: scrolled.signal });

  function find(event) {
    const box = plot.getBoundingClientRect();
    const index = Math.floor((event.clientY - box.top - TOP) / ROW);
    const isQuery = event.clientX - box.left < sight.width / 2;
    const [first, end] = isQuery ? [offset, queries.length + offset] : [0, keys.length];
    return index >= first && index < end ? { side: isQuery ? "query" : "key", index } : null;
  }

  function tell(event) {
    const [focus, place] = [current(), find(event)];
    if (focus === null || place === null || place.side === focus.side) {
      context.tooltip.hide();
      return;
    }
    const [query, key] = focus.side === "query" ? [focus.index, place.index] : [place.index, focus.index];
    const lines = [`query ${spell(queries, query - offset, 0)}`, `key ${spell(keys, key, 1)}`];
    for (const { head, found } of loaded.heads.slice(0, MOST_TOLD)) {
      const weight = found.values[(query - offset) * meta.columns + key];
      if (weight !== HIDDEN) lines.push(`${nameHead(meta, head, context.state)}  ${tellWeight(weight, meta.encoding)}`);
    }
    if (loaded.heads.length > MOST_TOLD) lines.push(`and ${plural(loaded.heads.length - MOST_TOLD, "more head")}`);
    context.tooltip.show(event.clientX, event.clientY, lines);
  }

  /** A label with its number, which names of pooled cells begin with. */
  function spell(names, i, axis) {
    const label = shorten(names[i], 40);
    const token = axis ? i * meta.cell[1] : meta.first_query + i * meta.cell[0];
    return `${meta.cell[axis] > 1 ? "" : `${token}  `}${label}${nameSegment(meta, token, axis ? "key" : "query")}`;
  }

  function point(place) {
    if (isSame(place, hovered)) return;
    hovered = place;
    if (place === null) context.share(null);
    else if (place.side === "query") context.share({ query: findQuery(meta, place.index - offset) });
    else context.share({ key: place.index * meta.cell[1] });
    if (pinned() === null) draw();
  }

  /** Show the lines of what is pointed at in other maps. */
  function follow(tokens) {
    if (!loaded || !sight) return;
    const row = findRow(meta, tokens?.query ?? null);
    const key = tokens?.key ?? null;
    hovered = null;
    if (row !== null) hovered = { side: "query", index: row + offset };
    else if (key !== null) hovered = { side: "key", index: Math.floor(key / meta.cell[1]) };
    if (pinned() === null) draw();
  }

  function goTo({ query, key }) {
    if (!loaded || !sight) return;
    const row = findRow(meta, query ?? null);
    const place = row !== null ? { side: "query", index: row + offset } : { side: "key", index: Math.floor((key ?? 0) / meta.cell[1]) };
    context.update({ line: null, lineKey: null });
    anchor.style.top = `${yOf(place.index)}px`;
    anchor.scrollIntoView({ block: "center" });
    point(place);
  }

  plot.addEventListener("pointermove", (event) => {
    if (!loaded || !sight) return;
    const place = find(event);
    if (place !== null) point(place);
    tell(event);
  });
  plot.addEventListener("pointerleave", () => {
    context.tooltip.hide();
    if (loaded) point(null);
  });
  plot.addEventListener("click", (event) => {
    const place = loaded && sight && find(event);
    if (!place) return;
    const focus = pinned();
    if (focus !== null && focus.side !== place.side) tell(event); // a tap on the other side reads a weight
    else pin(place);
  });

  /** Left and right go along a side, with Shift to the other. */
  function handleKey({ key, shiftKey, target }) {
    if (!loaded || target !== plot) return false;
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const by = shiftKey ? 0 : key === "ArrowLeft" ? -1 : 1;
      const before = hovered?.side ?? "query";
      const side = shiftKey ? (before === "query" ? "key" : "query") : before;
      const [names, start] = side === "query" ? [queries, offset] : [keys, 0];
      const index = Math.min(names.length + start - 1, Math.max(start, (hovered?.index ?? start - by) + by));
      point({ side, index });
      anchor.style.top = `${yOf(index)}px`;
      anchor.scrollIntoView({ block: "nearest" });
      context.announce(`${side} ${index}, ${names[index - start]}${tellStrongest(hovered)}`);
      return true;
    }
    if (key !== "Enter" || hovered === null) return false;
    pin(hovered);
    return true;
  }

  /** The strongest line of a place, in words. */
  function tellStrongest(place) {
    const best = collectOf(place).reduce((most, edge) => (edge.share > (most?.share ?? 0) ? edge : most), null);
    if (!best) return "";
    const { head, found } = loaded.heads[best.place];
    const weight = tellWeight(found.values[best.row * meta.columns + best.column], meta.encoding);
    const other = place.side === "query" ? `key ${spell(keys, best.column, 1)}` : `query ${spell(queries, best.row, 0)}`;
    return `; strongest: ${other}, ${nameHead(meta, head, context.state)}, ${weight}`;
  }

  function destroy() {
    isGone = true;
    scrolled.abort();
    context.tooltip.hide();
  }

  return { element, show, follow, goTo, picture, handleKey, destroy };
}

function nameCells(labels, cell, start) {
  if (cell === 1) return labels;
  return Array.from({ length: Math.ceil(labels.length / cell) }, (_, i) => `${start + i * cell} ${labels[i * cell]} …`);
}

/** Two columns of tokens, queries left and keys right, joined by lines as strong as the weights. */

import { HIDDEN, findTop, makeScale } from "./data.js";
import { FONT, make, shorten, sizeCanvas, tellWeight } from "./dom.js";
import { createLegend, loadHeads } from "./legend.js";

const ROW = 20;
const FAINTEST = 0.03;
const MOST_LINES = 6000;
const MOST_HEIGHT = 16000;

export function createLines(context) {
  const { meta } = context;
  const legend = createLegend(context);
  const canvas = make("canvas");
  const plot = make("div", { class: "av-lines-plot", tabindex: 0, role: "img" }, canvas);
  const status = make("p", { class: "av-hint" });
  const element = make("div", { class: "av-lines" }, legend.element, status, plot);
  const queries = meta.cell[0] === 1 ? (meta.tokens_query ?? meta.tokens_key) : nameCells(meta.tokens_query ?? meta.tokens_key, meta.cell[0]);
  const keys = meta.cell[1] === 1 ? meta.tokens_key : nameCells(meta.tokens_key, meta.cell[1]);
  const offset = meta.kind === "cross" || meta.tokens_query === null ? 0 : meta.first_query;
  const most = Math.max(queries.length + offset, keys.length);
  const step = Math.min(ROW, MOST_HEIGHT / most);
  let loaded = null;
  let hovered = null;
  let edges = [];
  let bounds = null;
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
    collect();
    draw();
    element.dataset.ready = String(loaded.layer);
  }

  /** Gather the lines of each head that are to be seen, the strongest when there are too many. */
  function collect() {
    const { state } = context;
    edges = [];
    const hides = state.first === "hide";
    for (const { head, color, found } of loaded.heads) {
      const scale = makeScale(state, findTop(meta, state, found));
      for (let row = 0, i = 0; row < meta.rows; row++) {
        for (let column = 0; column < meta.columns; column++, i++) {
          if (hides && (column === 0 || (row === 0 && meta.kind !== "cross" && meta.first_query === 0))) continue;
          const share = found.values[i] > 0 ? scale(found.values[i]) : 0;
          if (share >= FAINTEST) edges.push({ head, color, row, column, share });
        }
      }
    }
    edges.sort((a, b) => a.share - b.share);
  }

  function current() {
    return context.state.line ?? hovered;
  }

  function draw() {
    const { theme } = context;
    const width = Math.max(240, plot.clientWidth);
    const height = most * step + 28;
    const drawing = sizeCanvas(canvas, width, height);
    const side = Math.min(200, Math.max(70, width * 0.24));
    bounds = { side, width };
    const [fromX, toX] = [side, width - side];
    const yOf = (i) => 28 + (i + 0.5) * step;
    const focus = current();
    const seen = focus === null ? edges.slice(-MOST_LINES) : edges.filter(({ row }) => row + offset === focus);
    drawing.lineWidth = focus === null ? 1 : 2;
    const bend = (toX - fromX) * 0.35;
    for (const { color, row, column, share } of seen) {
      drawing.globalAlpha = focus === null ? share * 0.7 : share;
      drawing.strokeStyle = color;
      drawing.beginPath();
      const [y1, y2] = [yOf(row + offset), yOf(column)];
      drawing.moveTo(fromX + 4, y1);
      drawing.bezierCurveTo(fromX + bend, y1, toX - bend, y2, toX - 4, y2);
      drawing.stroke();
    }
    drawing.globalAlpha = 1;
    drawing.font = FONT;
    drawing.textBaseline = "middle";
    drawing.fillStyle = theme.muted;
    drawing.textAlign = "right";
    drawing.fillText(meta.kind === "cross" ? "query (target)" : "query", fromX, 10);
    drawing.textAlign = "left";
    drawing.fillText(meta.kind === "cross" ? "key (source)" : "key", toX, 10);
    const skip = Math.max(1, Math.ceil(13 / step));
    const targets = new Map();
    if (focus !== null) for (const { column, share } of seen) targets.set(column, Math.max(share, targets.get(column) ?? 0));
    drawing.textAlign = "right";
    queries.forEach((label, i) => {
      if (i % skip) return;
      drawing.fillStyle = focus === null ? theme.ink : i + offset === focus ? theme.accent : theme.muted;
      drawing.fillText(shorten(label, 24), fromX, yOf(i + offset), side - 4);
    });
    drawing.textAlign = "left";
    keys.forEach((label, i) => {
      if (i % skip) return;
      drawing.fillStyle = focus === null || targets.has(i) ? theme.ink : theme.muted;
      drawing.globalAlpha = focus === null || targets.has(i) ? 1 : 0.6;
      drawing.fillText(shorten(label, 24), toX, yOf(i), side - 4);
    });
    drawing.globalAlpha = 1;
    const shown = focus === null && edges.length > seen.length ? `The strongest ${seen.length} of ${edges.length} lines. ` : "";
    status.textContent = `${shown}Point at a query to see its lines alone; double click, or Enter, freezes it.`;
    canvas.dataset.lines = String(seen.length);
    plot.setAttribute("aria-label", `Layer ${loaded.layer}: ${seen.length} lines from ${queries.length} queries to ${keys.length} keys`);
  }

  function find(event) {
    const box = canvas.getBoundingClientRect();
    const index = Math.floor((event.clientY - box.top - 28) / step);
    const isQuery = event.clientX - box.left < bounds.width / 2;
    return isQuery && index >= offset && index < queries.length + offset ? index : null;
  }

  function tell(event) {
    const focus = current();
    const box = canvas.getBoundingClientRect();
    const index = Math.floor((event.clientY - box.top - 28) / step);
    if (focus === null || event.clientX - box.left < bounds.width / 2 || !(index in keys)) {
      context.tooltip.hide();
      return;
    }
    const lines = [`query ${focus}  ${shorten(queries[focus - offset], 40)}`, `key ${index}  ${shorten(keys[index], 40)}`];
    for (const { head, found } of loaded.heads.slice(0, 12)) {
      const weight = found.values[(focus - offset) * meta.columns + index];
      if (weight !== HIDDEN) lines.push(`${head === "mean" ? "mean" : `head ${head}`}  ${tellWeight(weight, meta.encoding)}`);
    }
    context.tooltip.show(event.clientX, event.clientY, lines);
  }

  function point(index) {
    if (index === hovered) return;
    hovered = index;
    if (context.state.line === null) draw();
  }

  plot.addEventListener("pointermove", (event) => {
    if (!loaded || !bounds) return;
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
    context.tooltip.hide();
  }

  return { element, show, handleKey, destroy };
}

function nameCells(labels, cell) {
  return Array.from({ length: Math.ceil(labels.length / cell) }, (_, i) => `${i * cell} ${labels[i * cell]} …`);
}

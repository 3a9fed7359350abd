/** One head, or a layer's mean: cells on a canvas, labels where they fit, a cross on what is pointed at. */

import { HIDDEN, findTop, findWindow, makeScale, poolCells } from "./data.js";
import { FONT, formatWeight, make, nameMap, nameSegment, shorten, sizeCanvas, tellWeight } from "./dom.js";
import { tellPooling } from "./controls.js";
import { createLegend } from "./legend.js";
import { findQuery, findRow } from "./links.js";
import { paintCells } from "./overview.js";
import { spellMap } from "./state.js";
import { pickColor, spellColor } from "./theme.js";

const LABEL_CELL = 12;
const LONGEST_LABEL = 14;
const STRONGEST = 8;
const MOST_ZOOM = 64;

export function createHeatmap(context) {
  const { meta, store } = context;
  const base = make("canvas", { class: "av-base" });
  const [markRow, markColumn, markCell] = ["av-row", "av-column", "av-cell"].map((name) => make("i", { class: name }));
  const over = make("div", { class: "av-over", hidden: true }, markRow, markColumn, markCell);
  const plot = make(
    "div",
    { class: "av-plot", tabindex: 0, role: "img", "aria-describedby": context.id("detail") },
    base,
    over,
  );
  const message = make("p", { class: "av-message", hidden: true });
  const zoomIn = make("button", { type: "button", "aria-label": "Zoom in", onclick: () => zoomBy(2) }, "+");
  const zoomOut = make("button", { type: "button", "aria-label": "Zoom out", onclick: () => zoomBy(0.5) }, "−");
  const whole = make("button", { type: "button", onclick: () => context.update({ zoom: null }) }, "Whole");
  const legend = make("canvas", { class: "av-legend", "aria-hidden": true });
  const ends = make("div", { class: "av-ends" }, make("span"), make("span"));
  const title = make("h2");
  const hint = make("p", { class: "av-hint" }, "Point at a cell to read its weight; click, tap or Enter pins it. Drag to move, + and − to zoom.");
  const cellText = make("p", { class: "av-told" });
  const heading = make("h3");
  const items = Array.from({ length: STRONGEST }, () => make("li", {}, make("span"), make("b"), make("i")));
  const list = make("ol", {}, ...items);
  const detail = make("div", { class: "av-detail", id: context.id("detail") }, hint, cellText, heading, list);
  const aside = make(
    "aside",
    { class: "av-side" },
    title,
    legend,
    ends,
    make("div", { class: "av-zoom", role: "group", "aria-label": "Zoom" }, zoomIn, zoomOut, whole),
    detail,
  );
  const switches = createLegend(context, true);
  const element = make("div", { class: "av-heatmap" }, make("div", { class: "av-frame" }, switches.element, plot, message), aside);
  element.style.setProperty("--aspect", Math.max(1, meta.columns / meta.rows));
  const cellsCanvas = document.createElement("canvas");
  let painted = "";
  let found = null;
  let place = null;
  let cursor = null;
  let told = null;
  let strongest = [];
  let drag = null;
  let hasMoved = false;

  const queryLabels = meta.tokens_query ?? meta.tokens_key;
  /** Room for the names of segments. */
  const named = meta.segments.length ? 15 : 0;
  const ofLabels = [queryLabels, meta.tokens_key].map(
    (labels) => 16 + named + Math.min(110, 14 + 6.6 * Math.max(...labels.slice(0, 2000).map((t) => Math.min(LONGEST_LABEL, t.length)))),
  );
  const labelOf = (labels, cell, index) => {
    const first = index * cell;
    const last = Math.min(labels.length, first + cell) - 1;
    return last > first ? `${shorten(labels[first], 8)} … ${shorten(labels[last], 8)}` : labels[first];
  };
  const describe = (axis, token, label) => `${token}  ${shorten(label, 40)}${nameSegment(meta, token, axis)}`;
  const describeQuery = (row) => describe("query", meta.first_query + row * meta.cell[0], labelOf(queryLabels, meta.cell[0], row));
  const describeKey = (column) => describe("key", column * meta.cell[1], labelOf(meta.tokens_key, meta.cell[1], column));

  function show() {
    const { layer, head } = context.state;
    const map = spellMap(context.state, head);
    title.textContent = nameMap(meta, context.state, head);
    switches.element.hidden = head !== "mean";
    if (head === "mean") switches.show();
    plot.setAttribute("aria-label", `${title.textContent}: ${meta.rows} queries by ${meta.columns} keys`);
    found = store.peek(layer, map) ?? null;
    message.hidden = true;
    if (!found) {
      const { partner } = context; // whose scale is shared
      const others = partner?.meta.layers.includes(layer) && head === "mean" ? partner.load(layer, map) : null;
      Promise.all([store.load(layer, map), others]).then(context.redraw, (error) => {
        message.textContent = error.message;
        message.hidden = false;
      });
      plot.dataset.ready = "false";
      return;
    }
    layOut();
    paint();
    drawBase(sizeCanvas(base, plot.clientWidth, plot.clientHeight));
    drawLegend();
    told = null;
    point(context.state.pin ?? cursor);
    plot.dataset.ready = `${layer}.${head}`;
  }

  function layOut() {
    const { rows, columns } = meta;
    const top = plot.getBoundingClientRect().top + window.scrollY;
    const around = Math.min(top, 260) + 56;
    element.style.setProperty("--around", `${Math.round(around)}px`);
    const width = plot.parentElement.clientWidth;
    const height = Math.max(300, Math.min(width, window.innerHeight - around));
    const zoom = clampZoom(context.state.zoom);
    const fit = (left, bottom) => Math.min((width - left - 8) / columns, (height - bottom - 8) / rows);
    const hasLabels = meta.cell[0] * meta.cell[1] === 1 && fit(...ofLabels) * zoom[0] >= LABEL_CELL;
    const [left, bottom] = hasLabels ? ofLabels : [44 + named, 34 + named];
    const whole = fit(left, bottom);
    const cell = whole * zoom[0];
    const wide = Math.min(width - left - 8, columns * cell);
    const high = Math.min(height - bottom - 8, rows * cell);
    const x = Math.min(zoom[1], columns - wide / cell);
    const y = Math.min(zoom[2], rows - high / cell);
    place = { left, top: 8, wide, high, cell, x: Math.max(0, x), y: Math.max(0, y), whole, zoom: zoom[0], hasLabels };
    plot.dataset.place = [left, 8, cell, place.x, place.y].join(" ");
    plot.style.width = `${left + wide + 8}px`;
    plot.style.height = `${8 + high + bottom}px`;
    const side = Math.max(1, cell);
    Object.assign(over.style, { left: `${left}px`, top: "8px", width: `${wide}px`, height: `${high}px` });
    markRow.style.height = markColumn.style.width = `${side}px`;
    markCell.style.width = markCell.style.height = `${side + 3}px`;
  }

  function clampZoom(zoom) {
    if (!zoom) return [1, 0, 0];
    return [Math.min(MOST_ZOOM, Math.max(1, zoom[0])), Math.max(0, zoom[1]), Math.max(0, zoom[2])];
  }

  function paint() {
    const { state, theme } = context;
    const sharpness = place.cell * (window.devicePixelRatio || 1);
    const factor = sharpness < 1 ? Math.ceil(1 / sharpness) : 1;
    const look = [findTop(context, found), state.layer, state.head, state.scale, state.range, state.first, state.pair, state.amp, state.min, theme.isDark, factor].join();
    if (painted === look) return;
    const most = Math.ceil(Math.max(meta.rows, meta.columns) / factor);
    const cells = poolCells(found.values, meta, most, findWindow(meta, state));
    paintCells(cellsCanvas, cells, makeScale(state, findTop(context, found)), theme);
    cellsCanvas.factor = cells.factor;
    painted = look;
  }

  function drawBase(drawing) {
    const { theme } = context;
    const { left, top, wide, high, cell, x, y } = place;
    drawing.imageSmoothingEnabled = false;
    drawing.save();
    drawing.beginPath();
    drawing.rect(left, top, wide, high);
    drawing.clip();
    const size = cell * cellsCanvas.factor;
    drawing.drawImage(cellsCanvas, left - x * cell, top - y * cell, cellsCanvas.width * size, cellsCanvas.height * size);
    if (meta.kind !== "cross" && meta.prompt_length < meta.tokens_key.length) {
      const atX = Math.round(left + (meta.prompt_length / meta.cell[1] - x) * cell) + 0.5;
      const atY = Math.round(top + ((meta.prompt_length - meta.first_query) / meta.cell[0] - y) * cell) + 0.5;
      drawing.strokeStyle = theme.accent;
      drawing.setLineDash([5, 4]);
      drawing.beginPath();
      drawing.moveTo(left, atY);
      drawing.lineTo(left + wide, atY);
      drawing.moveTo(atX, top);
      drawing.lineTo(atX, top + high);
      drawing.stroke();
      drawing.setLineDash([]);
    }
    drawing.restore();
    drawing.strokeStyle = theme.frame;
    drawing.strokeRect(left - 0.5, top - 0.5, wide + 1, high + 1);
    drawing.font = FONT;
    drawing.fillStyle = theme.muted;
    const [firstRow, lastRow] = [Math.floor(y), Math.min(meta.rows, Math.ceil(y + high / cell))];
    const [firstColumn, lastColumn] = [Math.floor(x), Math.min(meta.columns, Math.ceil(x + wide / cell))];
    const isInside = (at, length) => at >= 2 && at <= length - 2;
    drawing.textBaseline = "middle";
    drawing.textAlign = "right";
    const rowStep = place.hasLabels ? 1 : chooseStep((36 / cell) * meta.cell[0]);
    for (let row = firstRow; row < lastRow; row++) {
      const at = (row + 0.5 - y) * cell;
      const index = meta.first_query + row * meta.cell[0];
      if (!isInside(at, high) || (!place.hasLabels && !isTick(index, rowStep, meta.cell[0]))) continue;
      drawing.fillText(place.hasLabels ? shorten(queryLabels[row], LONGEST_LABEL) : String(index), left - 6, top + at, left - 22 - named);
    }
    const columnStep = place.hasLabels ? 1 : chooseStep((44 / cell) * meta.cell[1]);
    for (let column = firstColumn; column < lastColumn; column++) {
      const at = (column + 0.5 - x) * cell;
      const index = column * meta.cell[1];
      if (!isInside(at, wide) || (!place.hasLabels && !isTick(index, columnStep, meta.cell[1]))) continue;
      if (place.hasLabels) {
        drawing.save();
        drawing.translate(left + at, top + high + 6);
        drawing.rotate(-Math.PI / 2);
        drawing.fillText(shorten(meta.tokens_key[column], LONGEST_LABEL), 0, 0, plot.clientHeight - top - high - 22 - named);
        drawing.restore();
      } else {
        drawing.textAlign = "center";
        drawing.fillText(String(index), left + at, top + high + 11);
      }
    }
    drawing.textAlign = "center";
    for (const [name, start, stop] of meta.segments) {
      nameSpan(drawing, name, start / meta.cell[1] - x, stop / meta.cell[1] - x, true);
      if (meta.kind === "cross") continue;
      const [from, to] = [start, stop].map((token) => (token - meta.first_query) / meta.cell[0] - y);
      nameSpan(drawing, name, from, to, false);
    }
    drawing.fillStyle = theme.ink;
    drawing.fillText("key", left + wide / 2, plot.clientHeight - 6);
    drawing.save();
    drawing.translate(7, top + high / 2);
    drawing.rotate(-Math.PI / 2);
    drawing.fillText("query", 0, 0);
    drawing.restore();
  }

  /** Name cells from one to another of an axis below it, keys, or left of it, queries; a line divides them from those before. */
  function nameSpan(drawing, name, from, to, isKeys) {
    const { left, top, wide, high, cell } = place;
    const length = isKeys ? wide : high;
    const [start, end] = [from, to].map((at) => Math.min(length, Math.max(0, at * cell)));
    if (end - start < 12) return;
    drawing.save();
    if (isKeys) drawing.translate(left, plot.clientHeight - 21);
    else {
      drawing.translate(22, top + high);
      drawing.rotate(-Math.PI / 2);
    }
    const middle = (start + end) / 2;
    drawing.fillText(shorten(name, Math.max(1, Math.floor((end - start) / 6.6))), isKeys ? middle : high - middle, 0);
    drawing.restore();
    if (start === 0) return;
    drawing.strokeStyle = context.theme.muted;
    drawing.beginPath();
    drawing.moveTo(left + (isKeys ? start : 0), top + (isKeys ? 0 : start));
    drawing.lineTo(left + (isKeys ? start : wide), top + (isKeys ? high : start));
    drawing.stroke();
  }

  /** Bring a token to where its label can be read, and point at it: {query, key}, of which one may be absent. */
  function goTo(token) {
    if (!found || !place) return;
    const row = findRow(meta, token.query ?? null) ?? cursor?.[0] ?? meta.rows - 1;
    const column = "key" in token ? Math.floor(token.key / meta.cell[1]) : cursor?.[1] ?? 0;
    cursor = [row, column];
    const zoom = Math.min(MOST_ZOOM, Math.max(place.zoom, (LABEL_CELL + 4) / place.whole));
    const cell = place.whole * zoom;
    const [x, y] = [column + 0.5 - place.wide / cell / 2, row + 0.5 - place.high / cell / 2].map((at) => Math.max(0, at));
    context.update({ pin: null, zoom: zoom === 1 ? null : [zoom, x, y] });
    context.redraw();
  }

  function drawLegend() {
    const top = findTop(context, found);
    const width = legend.parentElement.clientWidth;
    drawRamp(sizeCanvas(legend, width, 10), width, top);
    ends.children[0].textContent = meta.signed ? formatWeight(-top) : "0";
    ends.children[1].textContent = formatWeight(top);
  }

  function drawRamp(drawing, width, top) {
    const { state, theme } = context;
    const scale = makeScale(state, top);
    for (let i = 0; i < width; i++) {
      const share = (i + 0.5) / width;
      drawing.fillStyle = spellColor(pickColor(theme, scale(top * (meta.signed ? 2 * share - 1 : share))));
      drawing.fillRect(i, 0, 1, 10);
    }
  }

  /** The plot over its colour scale. */
  function picture() {
    if (!found || !place) return null;
    const { clientWidth: width, clientHeight: height } = plot;
    const paint = (drawing) => {
      drawBase(drawing);
      const top = findTop(context, found);
      drawing.translate(place.left, height + 12);
      drawRamp(drawing, Math.min(240, Math.floor(place.wide)), top);
      drawing.fillStyle = context.theme.muted;
      drawing.textAlign = "left";
      drawing.fillText(`${meta.signed ? formatWeight(-top) : "0"} to ${formatWeight(top)}, ${context.state.scale} scale`, 0, 22);
    };
    return { width, height: height + 44, paint };
  }

  function tellCell() {
    const [row, column] = cursor;
    return `query ${describeQuery(row)} → key ${describeKey(column)}: ${readCell(row, column)}`;
  }

  /** Mark a cell [row, column] and tell its numbers; null lets go. */
  function point(cell, event) {
    const wasPointed = cursor !== null;
    cursor = cell;
    over.hidden = !cell;
    tell(cell);
    if (!cell && wasPointed) {
      context.tooltip.hide();
      context.share(null);
    }
    if (!cell) return;
    const [row, column] = cell;
    mark(row, column);
    const value = found.values[row * meta.columns + column];
    const others = context.share({ query: findQuery(meta, row), key: column * meta.cell[1] }, value);
    if (event) {
      const own = others.length ? `${meta.name}: ${readCell(row, column)}` : readCell(row, column);
      context.tooltip.show(event.clientX, event.clientY, [`query ${describeQuery(row)}`, `key ${describeKey(column)}`, own, ...others]);
    }
  }

  function mark(row, column) {
    // Elements that only move: to draw a canvas of this size anew takes longer than a frame may.
    const [atX, atY] = [(column - place.x) * place.cell, (row - place.y) * place.cell];
    markRow.style.transform = `translateY(${atY}px)`;
    markColumn.style.transform = `translateX(${atX}px)`;
    markCell.style.transform = `translate(${atX - 1.5}px, ${atY - 1.5}px)`;
  }

  /** Mark what is pointed at in other maps, and return its weight here. */
  function follow(tokens) {
    if (!found || !place) return null;
    const row = findRow(meta, tokens?.query ?? null);
    const key = tokens?.key ?? null;
    const column = key === null ? null : Math.floor(key / meta.cell[1]);
    cursor = row === null || column === null ? null : [row, column];
    over.hidden = !cursor;
    tell(cursor);
    if (!cursor) return null;
    mark(row, column);
    return { text: readCell(row, column), value: found.values[row * meta.columns + column] };
  }

  function readCell(row, column) {
    const value = found.values[row * meta.columns + column];
    if (value === HIDDEN) return "not seen: the key comes later";
    return `weight ${tellWeight(value, meta.encoding)}`;
  }

  function tell(cell) {
    hint.hidden = Boolean(cell);
    cellText.hidden = heading.hidden = list.hidden = !cell;
    over.classList.toggle("av-pinned", Boolean(context.state.pin));
    if (!cell) return;
    const [row, column] = cell;
    const isPinned = context.state.pin ? "pinned: " : "";
    cellText.textContent = `${isPinned}query ${describeQuery(row)} → key ${describeKey(column)}: ${readCell(row, column)}`;
    if (told !== row) {
      told = row;
      strongest = findStrongest(row);
      heading.textContent = `Query ${describeQuery(row)} ${meta.difference ? "changed most at" : "looks at"}`;
      items.forEach((item, i) => {
        item.hidden = i >= strongest.length;
        if (item.hidden) return;
        const [column, weight] = strongest[i];
        const [name, number, bar] = item.children;
        name.textContent = describeKey(column);
        number.textContent = formatWeight(weight);
        bar.style.transform = `scaleX(${Math.min(1, Math.abs(weight))})`;
      });
    }
    items.forEach((item, i) => item.classList.toggle("av-here", strongest[i]?.[0] === cell[1]));
  }

  function findStrongest(row) {
    const best = [];
    const { rows, columns } = findWindow(meta, context.state);
    if (row < rows[0] || row >= rows[1]) return best;
    for (let column = columns[0]; column < columns[1]; column++) {
      const weight = found.values[row * meta.columns + column];
      const size = weight === HIDDEN ? 0 : Math.abs(weight);
      if (!size || (best.length === STRONGEST && size <= Math.abs(best[STRONGEST - 1][1]))) continue;
      let at = best.length;
      while (at > 0 && Math.abs(best[at - 1][1]) < size) at--;
      best.splice(at, 0, [column, weight]);
      if (best.length > STRONGEST) best.pop();
    }
    return best;
  }

  function locate(event) {
    const box = plot.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - place.left) / place.cell + place.x);
    const row = Math.floor((event.clientY - box.top - place.top) / place.cell + place.y);
    const isInside = row >= 0 && column >= 0 && row < meta.rows && column < meta.columns;
    const isSeen =
      event.clientX - box.left <= place.left + place.wide && event.clientY - box.top <= place.top + place.high;
    return isInside && isSeen && event.clientX - box.left >= place.left && event.clientY - box.top >= place.top ? [row, column] : null;
  }

  function zoomBy(factor, event) {
    if (!place) return;
    const zoom = Math.min(MOST_ZOOM, Math.max(1, place.zoom * factor));
    const box = plot.getBoundingClientRect();
    const [inX, inY] = event
      ? [event.clientX - box.left - place.left, event.clientY - box.top - place.top]
      : [place.wide / 2, place.high / 2];
    const cell = place.whole * zoom;
    const x = Math.max(0, place.x + inX / place.cell - inX / cell);
    const y = Math.max(0, place.y + inY / place.cell - inY / cell);
    context.update({ zoom: zoom === 1 ? null : [zoom, x, y] });
  }

  plot.addEventListener("pointermove", (event) => {
    if (!found || !place) return;
    if (drag) {
      const x = Math.max(0, drag.x - (event.clientX - drag.fromX) / place.cell);
      const y = Math.max(0, drag.y - (event.clientY - drag.fromY) / place.cell);
      hasMoved ||= Math.hypot(event.clientX - drag.fromX, event.clientY - drag.fromY) > 4;
      if (place.zoom > 1) context.update({ zoom: [place.zoom, x, y] });
      return;
    }
    if (!context.state.pin) point(locate(event), event);
  });
  plot.addEventListener("click", (event) => {
    if (!found || !place || hasMoved) return;
    const [cell, { pin }] = [locate(event), context.state];
    const isSame = pin && cell && pin[0] === cell[0] && pin[1] === cell[1];
    context.update({ pin: isSame ? null : cell });
    point(isSame ? cell : cell ?? null, cell ? event : undefined);
  });
  plot.addEventListener("pointerdown", (event) => {
    hasMoved = false;
    if (!place || place.zoom === 1) return;
    drag = { fromX: event.clientX, fromY: event.clientY, x: place.x, y: place.y };
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener("pointerup", () => (drag = null));
  plot.addEventListener("pointercancel", () => (drag = null));
  plot.addEventListener("pointerleave", () => {
    if (found && place && !context.state.pin) point(null);
  });
  plot.addEventListener("dblclick", (event) => zoomBy(2, event));
  plot.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoomBy(event.deltaY < 0 ? 1.25 : 0.8, event);
    },
    { passive: false },
  );

  function handleKey({ key, shiftKey, target }) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (key in moves && shiftKey && found) {
      const [row, column] = cursor ?? [0, 0];
      const next = [
        Math.min(meta.rows - 1, Math.max(0, row + moves[key][0])),
        Math.min(meta.columns - 1, Math.max(0, column + moves[key][1])),
      ];
      const { zoom, x, y, cell, wide, high } = place;
      const keepIn = (at, start, seen) => Math.min(at, Math.max(start, at + 1 - seen));
      const [left, top] = [keepIn(next[1], x, wide / cell), keepIn(next[0], y, high / cell)];
      const isOut = left !== x || top !== y;
      context.update({ ...(context.state.pin && { pin: next }), ...(isOut && { zoom: [zoom, left, top] }) });
      point(next);
      context.announce(`query ${describeQuery(next[0])}, key ${describeKey(next[1])}, ${readCell(...next)}`);
    } else if (key === "Enter" && target === plot && cursor) {
      context.update({ pin: context.state.pin ? null : cursor });
    } else if (key === "+" || key === "=") zoomBy(2);
    else if (key === "-") zoomBy(0.5);
    else if (key === "0") context.update({ zoom: null });
    else return false;
    return true;
  }

  return { element, show, follow, goTo, picture, tellCell, listCuts: () => tellPooling(cellsCanvas.factor), getCell: () => cursor, handleKey, destroy: () => context.tooltip.hide() };
}

/** The smallest of 1, 2, 5, 10, 20 … that is at least `least`. */
function chooseStep(least) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return [1, 2, 5, 10].map((step) => step * ten).find((step) => step >= least) ?? 10 * ten;
}

function isTick(index, step, cell) {
  return index % step < cell;
}

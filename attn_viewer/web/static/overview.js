/** Bird's eye: every head as a thumbnail, layers down and heads across, the strongest by a score first, or in a plane of two. */

import { HIDDEN, findTop, findWindow, makeScale } from "./data.js";
import { tellPooling } from "./controls.js";
import { FONT, formatWeight, make, nameHead, plural, sizeCanvas } from "./dom.js";
import { pickColor, spellColor } from "./theme.js";

/** Heads are asked for so many at a time. */
const BATCH = 32;
/** The page stays quick where drawing pauses after so many milliseconds. */
const TURN = 50;
/** Tiles lie on sheets so many pixels high: a canvas a tile would take a browser seconds, one for all each change of it. */
const SHEET = 512;
const MOST_RATIO = 2;

export function createOverview(context) {
  const { meta, store, scores } = context;
  const grid = make("div", { class: "av-grid", role: "grid", "aria-label": "Heads" });
  const ramp = make("canvas", { class: "av-legend", "aria-hidden": true });
  const key = make("p", { class: "av-key", hidden: true }, make("span"), make("span"), ramp, make("span"));
  const element = make("div", { class: "av-overview" }, key, grid);
  const axes = make("div", { class: "av-axes", "aria-hidden": true });
  const cells = new Map();
  let shown = []; // the cells in the order in which they stand
  const waiting = new Set();
  let order;
  let tinted = null;
  let sheets = [];
  let place = "";
  let side = 1;
  let ratio = 1;
  let isBusy = false;
  let isGone = false;
  let hasLooked = false;
  const watcher = new IntersectionObserver(
    (entries) => {
      hasLooked = true;
      for (const { target, isIntersecting } of entries) {
        const sheet = sheets.find(({ canvas }) => canvas === target);
        if (!sheet) continue;
        sheet.isVisible = isIntersecting;
        for (const cell of sheet.cells) waiting[isIntersecting ? "add" : "delete"](cell);
      }
      work();
    },
    { rootMargin: "300px" },
  );
  for (const [i, layer] of meta.layers.entries()) {
    for (const [j, head] of meta.heads[i].entries()) {
      const tile = make("i", { class: "av-tile" });
      const button = make(
        "button",
        {
          type: "button",
          role: "gridcell",
          "data-key": `${layer}.${head}`,
          "aria-label": `Layer ${layer}, ${nameHead(meta, head)}`,
          tabindex: -1,
        },
        tile,
      );
      cells.set(`${layer}.${head}`, { layer, head, i, j, button, tile, score: null, drawn: null });
    }
  }

  const find = ({ target }) => cells.get(target.closest("[data-key]")?.dataset.key);
  const on = (type, handler) => grid.addEventListener(type, (event) => find(event) && handler(find(event), event));
  on("click", ({ layer, head }) => context.update({ view: "heatmap", layer, head }));
  on("focusin", ({ layer, head }) => context.update({ layer, head }));
  on("pointerover", tell);
  on("pointerout", () => context.tooltip.hide());

  function tell({ layer, head, i, j }, event) {
    const lines = [`Layer ${layer}, ${nameHead(meta, head)}`];
    if (meta.maxima) lines.push(`largest weight ${formatWeight(meta.maxima[i][j][0])}`);
    for (const name of scores.names) {
      const value = scores.get(name, i, j);
      if (value !== null) lines.push(`${name.replaceAll("_", " ")} ${formatScore(value)}`);
    }
    context.tooltip.show(event.clientX, event.clientY, lines);
  }

  function arrange() {
    const { sort, plane } = context.state;
    const wanted = sort === null ? "" : `${sort} ${plane} ${scores.version}`;
    if (order === wanted) return;
    order = wanted;
    const all = [...cells.values()];
    const row = (...children) => make("div", { role: "row" }, ...children);
    grid.classList.toggle("av-sorted", sort !== null);
    grid.classList.remove("av-plane");
    shown = all;
    if (sort === null) {
      const most = Math.max(...meta.heads.map((heads) => heads.length));
      grid.style.setProperty("--columns", most);
      const numbers = meta.heads.find((heads) => heads.length === most);
      const corner = make("span", { class: "av-corner", role: "columnheader", "aria-label": "Layer" });
      const heads = numbers.map((n) => make("span", { class: "av-head-name", role: "columnheader" }, meta.averaged ? "mean" : `H${n}`));
      const rows = meta.layers.map((layer, i) =>
        row(
          make("span", { class: "av-layer-name", role: "rowheader" }, `L${layer}`),
          ...all.filter((cell) => cell.i === i).map((cell) => cell.button),
        ),
      );
      grid.replaceChildren(row(corner, ...heads), ...rows);
      return;
    }
    const focused = grid.contains(document.activeElement) ? document.activeElement : null;
    const value = ({ i, j }) => scores.get(sort, i, j) ?? -Infinity;
    all.sort((a, b) => value(b) - value(a));
    const placed = plane === null ? [] : all.filter(({ i, j }) => [sort, plane].every((name) => scores.get(name, i, j) !== null));
    if (placed.length) {
      shown = placed;
      placeInPlane(sort, plane);
    } else labelTiles(sort);
    grid.replaceChildren(row(...shown.map((cell) => cell.button)), ...(placed.length ? [axes] : []));
    focused?.focus();
  }

  function labelTiles(sort) {
    for (const cell of shown) {
      if (!cell.score) {
        cell.score = make("span", { class: "av-score" });
        cell.button.append(make("span", { class: "av-name" }, `${cell.layer}.${cell.head}`), cell.score);
      }
      const value = scores.get(sort, cell.i, cell.j);
      cell.score.textContent = value === null ? "" : formatScore(value);
    }
  }

  /** One score to the right, the other upwards, each from the smallest of all heads to the largest. */
  function placeInPlane(sort, plane) {
    grid.classList.add("av-plane");
    const spell = (share) => `${(100 * share).toFixed(2)}%`;
    const labels = [];
    for (const [name, side] of [[sort, "left"], [plane, "bottom"]]) {
      const [low, high] = scores.range(name);
      for (const { button, i, j } of shown) button.style[side] = spell(high > low ? (scores.get(name, i, j) - low) / (high - low) : 0.5);
      for (const share of [0, 0.5, 1]) {
        const tick = make("span", { class: `av-tick-${side}` }, formatScore(low + share * (high - low)));
        tick.style[side] = spell(share);
        labels.push(tick);
      }
      labels.push(make("span", { class: `av-axis-${side}` }, `${name.replaceAll("_", " ")} ${side === "left" ? "→" : "↑"}`));
    }
    axes.replaceChildren(...labels);
  }

  /** Frame each head in the colour of a score, from the smallest of all heads to the largest. */
  function tint() {
    const { state, theme } = context;
    const wanted = state.tint && `${state.tint} ${scores.version} ${theme.isDark}`;
    if (tinted === wanted) return;
    tinted = wanted;
    const [low, high] = scores.range(state.tint);
    const color = (share) => spellColor(theme.table[Math.round(255 * share)]);
    grid.classList.toggle("av-tinted", state.tint !== null);
    for (const { i, j, tile } of cells.values()) {
      const value = scores.get(state.tint, i, j);
      tile.style.borderColor = value === null ? "" : color(high > low ? (value - low) / (high - low) : 0);
    }
    key.hidden = state.tint === null || high < low;
    if (key.hidden) return;
    const drawing = sizeCanvas(ramp, 120, 10);
    for (let x = 0; x < 120; x++) {
      drawing.fillStyle = color(x / 119);
      drawing.fillRect(x, 0, 1, 10);
    }
    [state.tint.replaceAll("_", " "), formatScore(low), formatScore(high)].forEach((text, n) => {
      key.querySelectorAll("span")[n].textContent = text;
    });
  }

  function show() {
    if (context.state.sort !== null || context.state.tint !== null) scores.load(() => isGone || context.redraw());
    arrange();
    tint();
    layOut();
    const { layer, head } = context.state;
    for (const cell of cells.values()) {
      const isChosen = cell.layer === layer && cell.head === (head === "mean" ? meta.heads[cell.i][0] : head);
      cell.button.tabIndex = isChosen ? 0 : -1;
      cell.button.classList.toggle("av-chosen", isChosen);
    }
    if (shown.every(({ button }) => button.tabIndex < 0)) shown[0].button.tabIndex = 0;
    for (const sheet of sheets.filter(({ isVisible }) => isVisible)) for (const cell of sheet.cells) waiting.add(cell);
    work();
  }

  /** Where the tiles lie, asked once for all; sheets behind them. */
  function layOut() {
    const wanted = [order, grid.clientWidth, grid.clientHeight, window.devicePixelRatio, context.state.tint !== null].join();
    if (place === wanted || !grid.clientWidth) return; // on paper a picture stands for it
    place = wanted;
    ratio = Math.min(MOST_RATIO, window.devicePixelRatio || 1);
    const origin = grid.getBoundingClientRect();
    const { clientLeft, clientTop, clientWidth } = shown[0].tile; // within the frame of a tinted tile
    side = Math.max(1, Math.round(clientWidth * ratio));
    for (const cell of cells.values()) {
      const box = cell.tile.getBoundingClientRect();
      cell.x = Math.round((box.left - origin.left + clientLeft) * ratio);
      cell.y = Math.round((box.top - origin.top + clientTop) * ratio);
      cell.drawn = null;
    }
    const height = grid.scrollHeight;
    watcher.disconnect();
    waiting.clear();
    sheets.forEach(({ canvas }) => canvas.remove());
    sheets = Array.from({ length: Math.ceil(height / SHEET) }, (_, n) => {
      const canvas = make("canvas", { class: "av-sheet" });
      sizeCanvas(canvas, grid.scrollWidth, Math.min(SHEET, height - n * SHEET), ratio);
      canvas.style.top = `${n * SHEET}px`;
      return { canvas, cells: [], isVisible: false };
    });
    for (const cell of shown) for (const sheet of listSheets(cell)) sheet.cells.push(cell);
    grid.prepend(...sheets.map(({ canvas }) => canvas));
    for (const { canvas } of sheets) watcher.observe(canvas);
  }

  function listSheets({ y }) {
    const high = SHEET * ratio;
    return sheets.slice(Math.floor(y / high), Math.floor((y + side - 1) / high) + 1);
  }

  /** Draw what is waiting, some heads at a time, so that the page stays quick. */
  async function work() {
    if (isBusy) return;
    isBusy = true;
    let end = performance.now() + TURN;
    while (waiting.size && !isGone) {
      const batch = [...waiting].slice(0, BATCH);
      for (const cell of batch) waiting.delete(cell);
      await Promise.all(batch.map(drawCell));
      if (performance.now() < end) continue;
      await new Promise((resolve) => setTimeout(resolve));
      end = performance.now() + TURN;
    }
    isBusy = false;
    if (!hasLooked || isGone) return;
    element.dataset.ready = "true";
    if (context.isLocal) prepare(); // what is out of sight too: it may be printed
  }

  /** Ask for all tiles; promise of them. */
  async function prepare() {
    const look = tellLook();
    const missing = shown.filter(({ drawn, button }) => drawn !== look && !button.dataset.error);
    for (const cell of missing) waiting.add(cell);
    if (missing.length) work();
    while (isBusy && !isGone) await new Promise((resolve) => setTimeout(resolve, 20));
  }

  /** How heads are sorted, and what a pixel of a tile is. */
  function listCuts() {
    return [...listOrder(), ...tellPooling(Math.ceil(Math.max(meta.rows, meta.columns) / side))];
  }

  function listOrder() {
    const { sort, plane } = context.state;
    if (sort === null) return [];
    const name = sort.replaceAll("_", " ");
    if (isPlane()) return [`${shown.length} of ${plural(cells.size, "head")} in the plane of ${name} and ${plane.replaceAll("_", " ")}`];
    const none = shown.filter(({ i, j }) => scores.get(sort, i, j) === null).length;
    return [`${plural(cells.size, "head")} by ${name}, largest first${none ? `; ${none} without` : ""}`];
  }

  function isPlane() {
    return grid.classList.contains("av-plane");
  }

  function tellLook() {
    const { state, theme } = context;
    return [place, state.scale, state.range, state.first, state.pair, state.amp, state.min, theme.isDark].join();
  }

  /** All tiles with their names; null while one is missing. */
  function picture() {
    const look = tellLook();
    if (shown.some(({ drawn, button }) => drawn !== look && !button.dataset.error)) return null;
    const origin = grid.getBoundingClientRect();
    const labels = [...grid.querySelectorAll(".av-head-name, .av-layer-name, .av-name, .av-score, .av-axes span")].filter((label) => label.offsetParent);
    const paint = (drawing) => {
      sheets.forEach(({ canvas }, n) => drawing.drawImage(canvas, 0, n * SHEET, canvas.width / ratio, canvas.height / ratio));
      drawing.font = FONT;
      drawing.textAlign = "center";
      drawing.textBaseline = "middle";
      drawing.fillStyle = context.theme.muted;
      for (const label of labels) {
        const box = label.getBoundingClientRect();
        drawing.fillText(label.textContent, (box.left + box.right) / 2 - origin.left, (box.top + box.bottom) / 2 - origin.top);
      }
    };
    return { width: grid.scrollWidth, height: grid.scrollHeight, paint };
  }

  async function drawCell(cell) {
    const { state, theme } = context;
    const look = tellLook();
    if (cell.drawn === look) return;
    try {
      const found = await store.loadThumbnail(cell.layer, cell.head, side, findWindow(meta, state));
      if (isGone || !look.startsWith(place)) return; // laid out anew meanwhile, and asked for again
      const image = paintTile(found, side, makeScale(state, findTop(context, found)), theme);
      for (const { canvas } of listSheets(cell)) {
        canvas.getContext("2d").putImageData(image, cell.x, cell.y - Math.round(parseFloat(canvas.style.top) * ratio));
      }
      cell.drawn = look;
      cell.button.removeAttribute("data-error");
    } catch (error) {
      cell.button.dataset.error = "true";
      cell.button.title = error.message;
    }
  }

  /** The cell that an arrow leads to, in the order in which they stand; from an edge, the cell itself. */
  function findNext(cell, down, across) {
    if (context.state.sort === null) {
      const at = meta.heads[cell.i].length;
      const next = cells.get(`${meta.layers[cell.i]}.${meta.heads[cell.i][Math.min(at - 1, Math.max(0, cell.j + across))]}`);
      if (!down) return next;
      const heads = meta.heads[cell.i + down];
      return heads ? cells.get(`${meta.layers[cell.i + down]}.${heads[Math.min(heads.length - 1, cell.j)]}`) : cell;
    }
    if (isPlane()) {
      const along = (one) => (one.x - cell.x) * across + (one.y - cell.y) * down;
      const far = (one) => along(one) + 2 * Math.abs((one.x - cell.x) * down + (one.y - cell.y) * across);
      return shown.reduce((best, one) => (along(one) > 0 && (best === cell || far(one) < far(best)) ? one : best), cell);
    }
    const perRow = shown.filter(({ button }) => button.offsetTop === shown[0].button.offsetTop).length;
    return shown[shown.indexOf(cell) + across + down * perRow] ?? cell;
  }

  function handleKey({ key, shiftKey, target }) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (key in moves && !shiftKey && target.getAttribute?.("role") !== "tab") {
      const from = [...cells.values()].find(({ button }) => button.tabIndex === 0) ?? shown[0];
      const { layer, head, button } = findNext(from, ...moves[key]);
      context.update({ layer, head });
      button.tabIndex = 0; // before the next frame says so too
      if (from.button !== button) from.button.tabIndex = -1;
      button.focus(); // brings it into sight
      context.announce(button.getAttribute("aria-label"));
      return true;
    }
    if (key === "Enter" && target.getAttribute?.("role") !== "gridcell" && target.tagName !== "BUTTON") {
      context.update({ view: "heatmap" });
      return true;
    }
    return false;
  }

  function destroy() {
    isGone = true;
    watcher.disconnect();
  }

  return { element, show, listCuts, picture, prepare, handleKey, destroy };
}

function formatScore(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2);
}

/** Return the picture of a head, `side` pixels a side, each the colour of the cell that lies there. */
function paintTile({ values, rows, columns }, side, scale, theme) {
  const image = new ImageData(side, side);
  const pixels = new Uint32Array(image.data.buffer);
  const colors = new Uint32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    colors[i] = values[i] === HIDDEN ? theme.masked : pickColor(theme, scale(values[i]));
  }
  const across = Int32Array.from({ length: side }, (_, x) => Math.floor((x * columns) / side));
  for (let y = 0, i = 0; y < side; y++) {
    const start = Math.floor((y * rows) / side) * columns;
    for (let x = 0; x < side; x++, i++) pixels[i] = colors[start + across[x]];
  }
  return image;
}

/** Paint cells one a pixel. */
export function paintCells(canvas, { values, rows, columns }, scale, theme) {
  canvas.width = columns;
  canvas.height = rows;
  const drawing = canvas.getContext("2d");
  const image = drawing.createImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) {
    pixels[i] = values[i] === HIDDEN ? theme.masked : pickColor(theme, scale(values[i]));
  }
  drawing.putImageData(image, 0, 0);
}

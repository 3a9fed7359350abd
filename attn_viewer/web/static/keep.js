/** Keep what is seen: the view as SVG or PNG, its numbers as CSV, a cell on the clipboard. */

import { HIDDEN } from "./data.js";
import { make, nameMap } from "./dom.js";
import { loadHeads } from "./legend.js";
import { findQuery } from "./links.js";
import { spellMap } from "./state.js";
import { VectorDrawing } from "./vector.js";

const [EDGE, HEADING, SHARPNESS] = [16, 44, 2];
/** Height of what is printed on a sheet, over its width. */
const SHEET_SHAPE = 1.3;

/** What panes show, {width, height, paint}, side by side under a heading each; null while weights are on their way. */
export function composePicture(panes) {
  const pictures = panes.map(({ view }) => view.picture());
  if (pictures.includes(null)) return null;
  const width = pictures.reduce((sum, picture) => sum + picture.width + EDGE, EDGE);
  const height = HEADING + EDGE + Math.max(...pictures.map((picture) => picture.height)) + EDGE;
  const paint = (drawing) => {
    const { theme } = panes[0].context;
    drawing.fillStyle = theme.ground;
    drawing.fillRect(0, 0, width, height);
    let x = EDGE;
    pictures.forEach((picture, i) => {
      const { meta, state } = panes[i].context;
      const map = nameMap(meta, state, state.head);
      const words = { overview: "all heads", heatmap: `${map[0].toLowerCase()}${map.slice(1)}` };
      drawing.save();
      drawing.translate(x, EDGE);
      drawing.textAlign = "left";
      drawing.textBaseline = "middle";
      drawing.fillStyle = theme.ink;
      drawing.font = "600 15px ui-sans-serif, system-ui, sans-serif";
      drawing.fillText(meta.name ? `${meta.name}: ${meta.model_id}` : meta.model_id, 0, 8, picture.width);
      drawing.font = "12.5px ui-sans-serif, system-ui, sans-serif";
      drawing.fillStyle = theme.muted;
      drawing.fillText([words[state.view] ?? `layer ${state.layer}`, ...meta.notes].join(" · "), 0, 28, picture.width);
      drawing.translate(0, HEADING);
      picture.paint(drawing);
      drawing.restore();
      x += picture.width + EDGE;
    });
  };
  return { width, height, paint };
}

/** Promise of what panes show as SVG, and of a Blob of it as PNG; of null where something could not be loaded. */
async function writeVector(panes) {
  const picture = await awaitPicture(panes);
  if (!picture) return null;
  const drawing = new VectorDrawing(picture.width, picture.height);
  picture.paint(drawing);
  return drawing.toString();
}

async function drawPixels(panes) {
  const picture = await awaitPicture(panes);
  if (!picture) return null;
  const canvas = drawPart(picture, 0, picture.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

async function awaitPicture(panes) {
  await Promise.all(panes.map(({ view }) => view.prepare?.()));
  return composePicture(panes);
}

function drawPart(picture, start, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(picture.width * SHARPNESS);
  canvas.height = Math.ceil(height * SHARPNESS);
  const drawing = canvas.getContext("2d");
  drawing.scale(SHARPNESS, SHARPNESS);
  drawing.translate(0, -start);
  picture.paint(drawing);
  return canvas;
}

/** What panes show on canvases of the shape of a sheet; none where something is missing. */
export function drawSheets(panes) {
  const picture = composePicture(panes);
  if (!picture) return [];
  const high = Math.max(600, picture.width * SHEET_SHAPE);
  const starts = Array.from({ length: Math.ceil(picture.height / high) }, (_, n) => n * high);
  return starts.map((start) => drawPart(picture, start, Math.min(high, picture.height - start)));
}

/** The weights of what is shown, or of one of its rows, a line a cell that a query sees. */
async function listNumbers(context, only = null) {
  const { meta, state, store } = context;
  const isOne = state.view === "heatmap" || state.view === "overview";
  const heads = isOne ? [{ head: state.head, found: await store.load(state.layer, spellMap(state, state.head)) }] : (await loadHeads(context)).heads;
  const lines = ["layer,head,query,query_token,key,key_token,weight"];
  for (const { head, found } of heads) {
    for (let i = 0; i < found.values.length; i++) {
      const [row, column] = [Math.floor(i / meta.columns), i % meta.columns];
      if (found.values[i] === HIDDEN || (only !== null && row !== only)) continue;
      const [query, key] = [row * meta.cell[0], column * meta.cell[1]];
      const labels = [(meta.tokens_query ?? meta.tokens_key)[query], meta.tokens_key[key]].map(quote);
      const weight = Number(found.values[i].toPrecision(6));
      const layer = head === "mean" && state.over === "layers" ? "all" : state.layer;
      lines.push([layer, meta.averaged ? "mean" : spellMap(state, head), findQuery(meta, row), labels[0], key, labels[1], weight].join());
    }
  }
  return `${lines.join("\r\n")}\r\n`;
}

/** A label as a field of CSV. One that a spreadsheet would take for a formula begins with a quotation mark. */
function quote(label) {
  const text = /^[=+\-@\t\r]/.test(label) ? `'${label}` : label;
  return `"${text.replaceAll('"', '""')}"`;
}

function save(context, data, ending, type) {
  if (!data) {
    context.announce("Not everything is loaded yet; try again");
    return;
  }
  const { meta, state } = context;
  const place = state.view === "overview" ? "" : `-L${state.layer}${state.view === "heatmap" ? `-H${state.head}` : ""}`;
  const name = `${meta.model_id}-${state.view}${place}`.replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 120);
  const url = URL.createObjectURL(data instanceof Blob ? data : new Blob([data], { type }));
  make("a", { href: url, download: `${name}.${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A menu; `getPanes()` tells what is shown. */
export function createKeep(getPanes) {
  const lead = () => getPanes()[0].context;
  const item = (text, onclick) => make("button", { type: "button", onclick: () => onclick().finally(() => (element.open = false)) }, text);
  const row = item("Row as CSV", async () => {
    const { view, context } = getPanes()[0];
    save(context, await listNumbers(context, view.getCell()[0]), "row.csv", "text/csv");
  });
  const cell = item("Copy cell", async () => {
    const { view, context } = getPanes()[0];
    const text = view.tellCell();
    await navigator.clipboard.writeText(text).then(
      () => context.announce(`Copied: ${text}`),
      () => context.announce("This browser does not let the page copy"),
    );
  });
  const element = make(
    "details",
    { class: "av-menu", ontoggle: () => {
      const { view } = getPanes()[0];
      row.hidden = cell.hidden = !view.getCell?.();
    } },
    make("summary", {}, "Save"),
    make(
      "div",
      {},
      item("View as SVG", async () => save(lead(), await writeVector(getPanes()), "svg", "image/svg+xml")),
      item("View as PNG", async () => save(lead(), await drawPixels(getPanes()), "png", "image/png")),
      item("Numbers as CSV", async () => save(lead(), await listNumbers(lead()), "csv", "text/csv")),
      row,
      cell,
    ),
  );
  return element;
}

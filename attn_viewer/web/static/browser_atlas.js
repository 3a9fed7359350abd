/** Heads over a data set: a scatter of all heads of a model, brushed to a table that leads to each head. */

import { colourShare, createProfile, formatValue, readColours } from "./browser_profile.js";
import { FONT, make, plural, sizeCanvas } from "./dom.js";
import { createTooltip } from "./tooltip.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, PAD] = [620, 440, 64, 40, 14];
const RADIUS = 5;
/** Scores that are shown first, where they are there. */
const FIRST = ["previous_token", "induction", "sink_mass"];
/** Rows of the table, and heads with a name on each axis. */
const [MOST_ROWS, NAMED] = [60, 5];

/** Round numbers in even steps, four to eight of them, the first and the last around the given ones. */
function makeTicks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= rough);
  const [first, last] = [Math.floor(low / step), Math.ceil(high / step)];
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

export function createAtlas(context) {
  let index = null;
  let model = null;
  let drag = null;
  const tooltip = createTooltip();
  const axes = ["x", "y", "colour"].map((name, i) =>
    make("select", { "aria-label": `Score on the axis ${name}`, onchange: () => choose(i) }),
  );
  const ends = [0, 1, 2, 3].map((i) =>
    make("input", {
      class: "ab-input",
      type: "number",
      step: "any",
      placeholder: i % 2 ? "to" : "from",
      "aria-label": `${i < 2 ? "x" : "y"} ${i % 2 ? "to" : "from"}`,
      onchange: () => context.update({ brush: ends.map((end) => end.value).join(",") }),
    }),
  );
  const models = make("select", { "aria-label": "Model", onchange: () => context.update({ atlas: models.value, brush: "" }) });
  const canvas = make("canvas", {
    class: "ab-scatter",
    role: "img",
    onpointerdown: begin,
    onpointermove: move,
    onpointerup: end,
    onpointerleave: () => tooltip.hide(),
  });
  const told = make("p", { class: "ab-count", role: "status" });
  const table = make("table", { class: "ab-table" });
  const field = (text, ...inputs) => make("label", { class: "ab-field" }, text, ...inputs);
  const all = make("button", { class: "ab-small", onclick: () => context.update({ brush: "" }) }, "All heads");
  const overview = make(
    "div",
    { class: "ab-atlas" },
    make(
      "div",
      {},
      make("div", { class: "ab-tools" }, field("Model", models), field("Across", axes[0]), field("Up", axes[1]), field("Colour", axes[2])),
      canvas,
      make("p", { class: "ab-count" }, "Drag a box, or type ends: "),
      make("div", { class: "ab-tools", role: "group", "aria-label": "Heads between" }, "x", ends[0], ends[1], "y", ends[2], ends[3], all),
    ),
    make("div", {}, told, table),
  );
  const profile = createProfile(context);
  const element = make("section", { class: "ab-single ab-heads", hidden: true }, overview, profile.element, tooltip.element);
  const known = context.folder.models.filter(({ atlas }) => atlas);
  models.append(...known.map(({ name, title }) => make("option", { value: name }, title)));

  function names() {
    const there = index.scores.map(([name]) => name);
    const wanted = context.state.axes.split(",");
    return FIRST.map((first, i) => (there.includes(wanted[i]) ? wanted[i] : there.includes(first) ? first : there[i % there.length]));
  }

  function choose(i) {
    const next = names();
    next[i] = axes[i].value;
    context.update({ axes: next.join(","), brush: "" });
  }

  /** Where each head lies, in pixels, with its values; null where a score has none. */
  function place() {
    const columns = names().map((name) => index.scores.find(([one]) => one === name)[2]);
    const ranges = columns.map((values) => {
      const numbers = values.filter((value) => value !== null);
      const [low, high] = [Math.min(0, ...numbers), Math.max(...numbers, 0)];
      return [low, high > low ? high : low + 1];
    });
    const ticks = ranges.slice(0, 2).map((range) => makeTicks(...range));
    ticks.forEach((numbers, axis) => (ranges[axis] = [numbers[0], numbers.at(-1)]));
    const share = (value, [low, high]) => (value - low) / (high - low);
    const heads = index.heads.map(([layer, head], i) => {
      const values = columns.map((column) => column[i]);
      const [x, y, colour] = values.map((value, axis) => (value === null ? null : share(value, ranges[axis])));
      const isThere = x !== null && y !== null;
      return { layer, head, values, x: isThere ? LEFT + x * (WIDTH - LEFT - PAD) : null, y: HEIGHT - BOTTOM - y * (HEIGHT - BOTTOM - PAD), colour };
    });
    return { heads, ranges, ticks };
  }

  function isInside({ values }, brush) {
    return [0, 1, 2, 3].every((i) => {
      const limit = parseFloat(brush[i]);
      const value = values[i >> 1];
      return Number.isNaN(limit) || (value !== null && (i % 2 ? value <= limit : value >= limit));
    });
  }

  function draw() {
    const { heads, ranges, ticks } = place();
    const labels = names().map((name) => index.scores.find(([one]) => one === name)[1]);
    const { ink, muted, line, accent } = readColours(element);
    const drawing = sizeCanvas(canvas, WIDTH, HEIGHT);
    const brush = context.state.brush.split(",");
    drawing.font = FONT;
    drawing.strokeStyle = line;
    drawing.strokeRect(LEFT, PAD, WIDTH - LEFT - PAD, HEIGHT - BOTTOM - PAD);
    drawing.fillStyle = muted;
    const alongAxis = (value, axis) => (value - ranges[axis][0]) / (ranges[axis][1] - ranges[axis][0]);
    drawing.textAlign = "center";
    for (const value of ticks[0]) {
      drawing.fillText(value, LEFT + alongAxis(value, 0) * (WIDTH - LEFT - PAD), HEIGHT - BOTTOM + 14);
    }
    drawing.textAlign = "right";
    for (const value of ticks[1]) {
      drawing.fillText(value, LEFT - 6, HEIGHT - BOTTOM - alongAxis(value, 1) * (HEIGHT - BOTTOM - PAD) + 4);
    }
    drawing.textAlign = "center";
    drawing.fillStyle = ink;
    drawing.fillText(labels[0], LEFT + (WIDTH - LEFT) / 2, HEIGHT - 8);
    drawing.save();
    drawing.translate(12, (HEIGHT - BOTTOM) / 2);
    drawing.rotate(-Math.PI / 2);
    drawing.fillText(labels[1], 0, 0);
    drawing.restore();
    const shown = heads.filter(({ x }) => x !== null).sort((a, b) => (a.colour ?? -1) - (b.colour ?? -1));
    for (const head of shown) {
      drawing.globalAlpha = isInside(head, brush) ? 1 : 0.2;
      drawing.beginPath();
      drawing.arc(head.x, head.y, RADIUS, 0, 2 * Math.PI);
      drawing.fillStyle = head.colour === null ? muted : colourShare(head.colour, context.look);
      drawing.fill();
      drawing.strokeStyle = muted;
      drawing.lineWidth = 0.6;
      drawing.stroke();
    }
    drawing.globalAlpha = 1;
    drawing.fillStyle = ink;
    drawing.textAlign = "left";
    const far = [...shown.toSorted((a, b) => a.y - b.y).slice(0, NAMED), ...shown.toSorted((a, b) => b.x - a.x).slice(0, NAMED)];
    // Names of the heads furthest up and across stand where there is room beside dots and other names.
    const taken = shown.map(({ x, y }) => [x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS]);
    for (const { layer, head, x, y } of new Set(far)) {
      const text = `${layer}.${head}`;
      const width = drawing.measureText(text).width;
      const room = [[8, 4], [8, 12], [8, -4], [8, 22], [-8 - width, 4], [-width / 2, -9], [-width / 2, 17]]
        .map(([right, down]) => [x + right, y + down - 9, x + right + width, y + down + 2])
        .find(([left, top, right, bottom]) => left > LEFT && right < WIDTH && top > 0 && bottom < HEIGHT - BOTTOM && !taken.some((other) => left < other[2] && other[0] < right && top < other[3] && other[1] < bottom));
      if (!room) continue;
      taken.push(room);
      drawing.fillText(text, room[0], room[3] - 2);
    }
    for (let i = 0; i < 100; i++) {
      drawing.fillStyle = colourShare(i / 99, context.look);
      drawing.fillRect(WIDTH - PAD - 108 + i, PAD + 24, 1, 8);
    }
    drawing.fillStyle = muted;
    drawing.textAlign = "right";
    drawing.fillText(`${labels[2]}, ${formatValue(ranges[2][0])} to ${formatValue(ranges[2][1])}`, WIDTH - PAD - 8, PAD + 16);
    if (drag) {
      drawing.strokeStyle = accent;
      drawing.strokeRect(drag.x, drag.y, drag.toX - drag.x, drag.toY - drag.y);
    }
    const inside = heads.filter((head) => isInside(head, brush));
    canvas.setAttribute("aria-label", `Scatter of ${plural(heads.length, "head")}: ${labels[0]} across, ${labels[1]} up, ${labels[2]} in colour. The table lists them.`);
    listRows(inside, labels);
  }

  function listRows(inside, labels) {
    inside.sort((a, b) => (b.values[1] ?? -1) - (a.values[1] ?? -1));
    const rest = inside.length > MOST_ROWS ? `, the first ${MOST_ROWS} here` : "";
    told.textContent = `${inside.length} of ${plural(index.heads.length, "head")} over ${plural(index.n_prompts, "prompt")}, highest ${labels[1]} first${rest}`;
    const rows = inside.slice(0, MOST_ROWS).map(({ layer, head, values }) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, make("a", { href: context.link({ profile: `${layer}.${head}` }), onclick: (event) => follow(event, layer, head) }, `L${layer} H${head}`)),
        ...values.map((value) => make("td", {}, formatValue(value))),
      ),
    );
    const heading = make("tr", {}, ...["Head", ...labels].map((text) => make("th", { scope: "col" }, text)));
    table.replaceChildren(make("thead", {}, heading), make("tbody", {}, ...rows));
  }

  function follow(event, layer, head) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    open(layer, head);
  }

  function open(layer, head) {
    tooltip.hide();
    context.update({ profile: `${layer}.${head}` });
    scrollTo(0, 0);
  }

  function locate(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * WIDTH) / box.width, ((event.clientY - box.top) * HEIGHT) / box.height];
  }

  function findNear(x, y) {
    const near = (head) => Math.hypot(head.x - x, head.y - y);
    const [best] = place().heads.filter(({ x }) => x !== null).sort((a, b) => near(a) - near(b));
    return best && near(best) < 3 * RADIUS ? best : null;
  }

  function begin(event) {
    const [x, y] = locate(event);
    canvas.setPointerCapture(event.pointerId);
    drag = { x, y, toX: x, toY: y };
  }

  function move(event) {
    if (!index) return;
    const [x, y] = locate(event);
    if (drag) {
      Object.assign(drag, { toX: x, toY: y });
      draw();
      return;
    }
    const head = findNear(x, y);
    canvas.style.cursor = head ? "pointer" : "crosshair";
    if (!head) return tooltip.hide();
    const lines = names().map((name, i) => `${index.scores.find(([one]) => one === name)[1]} ${formatValue(head.values[i])}`);
    tooltip.show(event.clientX, event.clientY, [`Layer ${head.layer}, head ${head.head}`, ...lines]);
  }

  function end() {
    const { x, y, toX, toY } = drag ?? {};
    drag = null;
    if (x === undefined) return;
    if (Math.hypot(toX - x, toY - y) < 4) {
      const head = findNear(x, y);
      if (head) open(head.layer, head.head);
      return;
    }
    const [across, up] = place().ranges;
    const value = (at, from, size, [low, high]) => (low + ((at - from) / size) * (high - low)).toPrecision(4);
    const xs = [Math.min(x, toX), Math.max(x, toX)].map((at) => value(at, LEFT, WIDTH - LEFT - PAD, across));
    const ys = [Math.max(y, toY), Math.min(y, toY)].map((at) => value(HEIGHT - BOTTOM - at, 0, HEIGHT - BOTTOM - PAD, up));
    context.update({ brush: [...xs, ...ys].join(",") });
    draw();
  }

  async function show() {
    const { state } = context;
    element.hidden = !state.atlas || state.open !== null;
    if (element.hidden) return;
    if (model !== state.atlas) {
      const mine = (model = state.atlas);
      index = null;
      overview.hidden = true;
      const found = await context.ask(context.source.getAtlas({ model: mine, name: "atlas" }));
      if (mine !== model) return;
      if (!found) return void (model = null); // the page says why
      index = found;
      for (const select of axes) select.replaceChildren(...index.scores.map(([name, label]) => make("option", { value: name }, label)));
    }
    if (!index) return;
    models.value = model;
    names().forEach((name, i) => (axes[i].value = name));
    state.brush.split(",").forEach((limit, i) => ends[i] && (ends[i].value = limit));
    if (!state.brush) for (const end of ends) end.value = "";
    overview.hidden = Boolean(state.profile);
    if (!overview.hidden) draw();
    profile.show(index);
  }

  return { element, show, isThere: known.length > 0, first: known[0]?.name };
}

/** What chooses: views, layer and head, scale, filter. All plain form elements with labels. */

import { findError } from "./data.js";
import { make, nameMap, plural } from "./dom.js";
import { CHOICES, LIMITS, VIEW_LABELS, VIEW_NAMES, hasPair, hasRowsBefore, listChoices } from "./state.js";

const PINS = ["observed", "observer", "line", "lineKey", "pin"];
const HELP = [
  [`1 – ${VIEW_NAMES.length}`, "view"],
  ["↑ ↓", "layer"],
  ["← →", "head"],
  ["Enter", "open a head, pin a token or cell"],
  ["Shift + Enter, Shift + click", "pin tokens from the pinned one on"],
  ["Ctrl + click", "pin one token more"],
  ["Shift + arrows", "move through the heatmap’s cells, to the other side of the lines"],
  ["+  −  0", "zoom in, out, whole"],
  ["/", "find a token or position"],
  ["S", "scale"],
  ["F", "keep or hide the first token"],
  ["Esc", "let go of what is pinned; then close what was opened"],
];

export function createControls(context) {
  const { meta, update } = context;
  const tabs = VIEW_NAMES.map((name, i) =>
    make(
      "button",
      {
        type: "button",
        role: "tab",
        id: context.id(`tab-${name}`),
        "data-view": name,
        "aria-controls": context.id("stage"),
        title: `${VIEW_LABELS[name]} (${i + 1})`,
        onclick: () => update({ view: name }),
      },
      VIEW_LABELS[name],
    ),
  );
  const help = make(
    "details",
    { class: "av-help" },
    make("summary", {}, "Shortcuts"),
    make("dl", {}, ...HELP.flatMap(([keys, what]) => [make("dt", {}, keys), make("dd", {}, what)])),
  );
  const themeButton = make(
    "button",
    { type: "button", class: "av-plain", onclick: () => update({ theme: context.theme.isDark ? "light" : "dark" }) },
    "Dark",
  );
  const [title, about] = [make("h1"), make("p")];
  const header = make(
    "header",
    { class: "av-header" },
    make("div", { class: "av-title" }, title, about),
    make("div", { class: "av-tabs", role: "tablist", "aria-label": "View" }, ...tabs),
    make("div", { class: "av-aside" }, help, themeButton),
  );

  const layer = makeStepper("Layer", (by) => step(context, by, 0), (value) => goTo(context, Number(value)));
  const head = makeStepper("Head", (by) => step(context, 0, by), (value) =>
    update({ head: value === "mean" ? value : Number(value), zoom: context.state.zoom }),
  );
  layer.select.append(...meta.layers.map((number) => make("option", { value: number }, String(number))));
  const scale = makeChoice("Scale", "scale", [["linear", "linear"], ["power", "√"], ["log", "log"]], update);
  const range = makeChoice("Range", "range", [["own", "each head"], ["all", "shared"]], update);
  const first = make("input", { type: "checkbox", onchange: () => update({ first: first.checked ? "keep" : "hide" }) });
  const rows = makeChoice("Row of", "rows", [["auto", "auto"], ["own", "the token"], ["before", "the one before"]], update);
  const pair = makeChoice("Pairs", "pair", CHOICES.pair.map((name) => [name, name === "all" ? name : [...name].join(" → ")]), update);
  pair.element.title = "Whose queries look at whose keys; colours mean the same in each";
  const over = makeChoice("Mean over", "over", [["layer", "the layer"], ["layers", "all layers"]], update);
  const amp = makeSlider("Amplify", "amp", LIMITS.amp, 0.1, (value) => `${value.toFixed(1)}×`, update);
  const min = makeSlider("Filter", "min", [0, 1], 0.01, (value) => `≥ ${describeMin(value)}`, update, readMin, writeMin);
  const sort = makeScoreChoice("Sort by", "sort", "layer", context);
  const plane = makeScoreChoice("Against", "plane", "nothing", context);
  plane.element.title = "Heads in a plane: one score to the right, the other upwards";
  const tint = makeScoreChoice("Colour by", "tint", "none", context);
  const bar = make(
    "div",
    { class: "av-bar", role: "group", "aria-label": "What is shown" },
    layer.element,
    head.element,
    sort.element,
    plane.element,
    tint.element,
    over.element,
    scale.element,
    range.element,
    amp.element,
    min.element,
    rows.element,
    ...(hasPair(meta) ? [pair.element] : []),
    make("label", { class: "av-check" }, first, make("span", {}, "Show first token")),
  );
  let shownLayer = null;
  function show() {
    const { state } = context;
    for (const tab of tabs) {
      const isChosen = tab.dataset.view === state.view;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
    }
    if (shownLayer !== state.layer) {
      head.select.replaceChildren(...listChoices(meta, state.layer).map((head) => make("option", { value: head }, meta.averaged ? "mean" : String(head))));
      shownLayer = state.layer;
    }
    layer.select.value = String(state.layer);
    head.select.value = String(state.head);
    const isOverview = state.view === "overview";
    layer.element.hidden = isOverview;
    head.element.hidden = state.view !== "heatmap";
    sort.show(state);
    plane.show(state);
    if (state.sort === null) plane.element.hidden = true;
    tint.show(state);
    over.show(state);
    over.element.hidden = meta.layers.length < 2 || !hasMean(state);
    scale.show(state);
    range.show(state);
    rows.show(state);
    pair.show(state);
    rows.element.hidden = state.view !== "text" || !hasRowsBefore(meta);
    amp.show(state);
    min.show(state);
    first.checked = state.first === "keep";
    themeButton.hidden = !context.hasTheme;
    themeButton.textContent = context.theme.isDark ? "Light" : "Dark";
    themeButton.setAttribute("aria-label", `${context.theme.isDark ? "Light" : "Dark"} mode`);
    title.textContent = context.title;
    about.textContent = context.isPaired ? "" : describe(meta);
    context.root.querySelector(".av-stage")?.setAttribute("aria-labelledby", context.id(`tab-${state.view}`));
  }

  function handleKey({ key, shiftKey, target }) {
    const { state } = context;
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (key in moves && !shiftKey) {
      if (target.getAttribute?.("role") === "tab" && moves[key][1]) {
        const next = (VIEW_NAMES.indexOf(state.view) + moves[key][1] + VIEW_NAMES.length) % VIEW_NAMES.length;
        update({ view: VIEW_NAMES[next] });
        tabs[next].focus();
      } else step(context, ...moves[key]);
    } else if (VIEW_NAMES[Number(key) - 1]) update({ view: VIEW_NAMES[Number(key) - 1] });
    else if (key === "s" || key === "S") {
      update({ scale: CHOICES.scale[(CHOICES.scale.indexOf(state.scale) + 1) % CHOICES.scale.length] });
    } else if (key === "f" || key === "F") update({ first: state.first === "keep" ? "hide" : "keep" });
    else if (key === "Escape" && PINS.some((name) => state[name] !== null)) update(Object.fromEntries(PINS.map((name) => [name, null])));
    else return false;
    return true;
  }

  return { header, bar, show, handleKey };
}

function hasMean({ view, head, on }) {
  return view === "heatmap" ? head === "mean" : view !== "overview" && Boolean(on?.includes("mean"));
}

/** What a reader must know of maps. */
export function makeNotes(meta) {
  const notes = make("footer", { class: "av-notes" }, ...listNotes(meta).map((note) => make("p", {}, note)));
  for (const part of meta.parts ?? []) {
    const name = `layers ${part.layers[0]} to ${part.layers.at(-1)}`;
    notes.append(make("a", { href: part.href }, name));
  }
  return notes;
}

/** Go to the layer with this number, at the same head where it has that. */
function goTo({ meta, state, update }, layer) {
  const choices = listChoices(meta, layer);
  const head = choices.includes(state.head) ? state.head : choices[0];
  update({ layer, head, on: state.on?.filter((choice) => choices.includes(choice)) ?? null });
}

function step(context, down, across) {
  const { meta, state, update } = context;
  if (down) {
    const at = meta.layers.indexOf(state.layer) + down;
    if (at >= 0 && at < meta.layers.length) goTo(context, meta.layers[at]);
  }
  if (across) {
    const choices = listChoices(meta, state.layer);
    const at = choices.indexOf(state.head) + across;
    if (at >= 0 && at < choices.length) update({ head: choices[at] });
  }
  context.announce(nameMap(meta, context.state, context.state.head));
}

function makeStepper(name, onstep, onchoose) {
  const select = make("select", { "aria-label": name, onchange: () => onchoose(select.value) });
  const button = (sign, by, word) =>
    make("button", { type: "button", "aria-label": `${word} ${name.toLowerCase()}`, onclick: () => onstep(by) }, sign);
  const buttons = [button("‹", -1, "Previous"), button("›", 1, "Next")];
  const element = make(
    "div",
    { class: "av-field av-stepper" },
    make("span", {}, name),
    make("div", {}, buttons[0], select, buttons[1]),
  );
  return { element, select };
}

function makeChoice(label, name, choices, update) {
  const buttons = choices.map(([value, word]) =>
    make("button", { type: "button", "data-value": value, onclick: () => update({ [name]: value }) }, word),
  );
  const group = make("div", { class: "av-choice", role: "group", "aria-label": label }, ...buttons);
  return {
    element: make("div", { class: "av-field" }, make("span", {}, label), group),
    show(state) {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.value === state[name]));
    },
  };
}

function makeScoreChoice(label, name, none, { meta, update }) {
  const select = make(
    "select",
    { onchange: () => update({ [name]: select.value || null }) },
    make("option", { value: "" }, none),
    ...meta.scores.map((score) => make("option", { value: score.name }, score.name.replaceAll("_", " "))),
  );
  const element = make("label", { class: "av-field" }, make("span", {}, label), select);
  return {
    element,
    show(state) {
      element.hidden = state.view !== "overview" || !meta.scores.length;
      select.value = state[name] ?? "";
    },
  };
}

function makeSlider(label, name, [low, high], step, describeValue, update, read = Number, write = Number) {
  const output = make("output", {});
  const input = make("input", {
    type: "range",
    min: low,
    max: high,
    step,
    "aria-label": label,
    oninput: () => update({ [name]: read(Number(input.value)) }),
  });
  return {
    element: make("label", { class: "av-field av-slider" }, make("span", {}, label, " ", output), input),
    show(state) {
      if (document.activeElement !== input) input.value = write(state[name]);
      output.textContent = describeValue(state[name]);
      input.setAttribute("aria-valuetext", output.textContent);
    },
  };
}

/** The filter's track is cubic: most weights are small, so half of it is for those under an eighth. */
function readMin(share) {
  return Math.round(share ** 3 * 1e4) / 1e4;
}

function writeMin(weight) {
  return Math.cbrt(weight);
}

function describeMin(weight) {
  return weight === 0 || weight >= 0.1 ? weight.toFixed(2) : weight.toPrecision(2);
}

/** What is left out of what is shown, in words. */
export function listCuts({ first, pair, min }) {
  const cuts = [];
  if (first === "hide") cuts.push("first token hidden");
  if (pair !== "all") cuts.push(`only queries of ${pair[0]} and keys of ${pair[1]}`);
  if (min > 0) cuts.push(`weights under ${Number(describeMin(min))} left out`);
  return cuts;
}

/** That a pixel stands for several cells, in words, where it does. */
export function tellPooling(factor) {
  return factor > 1 ? [`a pixel is the largest of ${factor} × ${factor} cells`] : [];
}

/** The sizes of maps, in words. */
export function describe(meta) {
  const counts = meta.heads.map((row) => row.length);
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  const heads = least === most ? plural(most, "head") : `${least}–${most} heads`;
  const n = meta.tokens_key.length;
  const queries = (meta.tokens_query ?? meta.tokens_key).length;
  const made = n - meta.prompt_length;
  const tokens = queries === n ? plural(n, meta.unit) + (made > 0 ? `, ${made} generated` : "") : `${queries} queries × ${n} keys`;
  const kind = { self: "", encoder: "encoder", decoder: "decoder", cross: "cross attention" }[meta.kind];
  return [plural(meta.layers.length, "layer") + (meta.averaged ? `, ${meta.averaged}` : ` × ${heads}`), tokens, kind]
    .filter(Boolean)
    .join(" · ");
}

function listNotes(meta) {
  const notes = [...meta.notes];
  if (meta.reduction === "pooled") {
    notes.push(`A cell is the ${meta.pooling} over ${meta.cell[0]} × ${meta.cell[1]} ${meta.unit}s.`);
  }
  if (meta.averaged) notes.push(`Each layer: ${meta.averaged}.`);
  if (meta.has_sinks) notes.push("The model has learned sinks: a row sums to less than 1.");
  if (meta.encoding.type === "difference") {
    notes.push(`Both are stored in 8 bits; a difference is at most ${meta.encoding.error.toPrecision(1)} off.`);
  } else if (meta.encoding.type === "uint8") {
    notes.push(`Weights are stored in 8 bits; a shown one is at most ${findError(meta.encoding).toPrecision(1)} off.`);
  }
  return meta.name ? notes.map((note) => `${meta.name}: ${note}`) : notes;
}

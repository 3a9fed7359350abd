/** What is shown, as a plain object and as the text of a link. Only what differs from the start is written. */

import { findOffset } from "./data.js";

/** What the tabs say. */
export const VIEW_LABELS = { overview: "Bird’s eye", heatmap: "Heatmap", text: "Text", lines: "Lines" };
export const VIEW_NAMES = Object.keys(VIEW_LABELS);
export const CHOICES = {
  view: VIEW_NAMES,
  scale: ["linear", "power", "log"],
  range: ["own", "all"],
  first: ["keep", "hide"],
  /** Whose row the observer shows: a token's own, or that of the token before it, from which it came. */
  rows: ["auto", "own", "before"],
  /** Of a pair of texts, whose queries and whose keys are shown. */
  pair: ["all", "AA", "AB", "BA", "BB"],
  /** Whose heads a mean is over. */
  over: ["layer", "layers"],
  theme: ["auto", "light", "dark"],
};
/** What names a score: by which heads are sorted, against which of another, and by which they are coloured. */
export const SCORED = ["sort", "plane", "tint"];
export const LIMITS = { amp: [1, 5], min: [0, 1] };

export function startState(meta, theme = "auto") {
  const heads = meta.heads.reduce((sum, row) => sum + row.length, 0);
  return {
    view: heads > 1 ? "overview" : "heatmap",
    layer: meta.layers[0],
    head: meta.heads[0][0],
    scale: "power",
    range: "own",
    first: "keep",
    pair: "all",
    amp: 1,
    min: 0,
    sort: null,
    plane: null,
    tint: null,
    on: null,
    over: "layer",
    observed: null,
    observer: null,
    line: null,
    lineKey: null,
    pin: null,
    rows: "auto",
    zoom: null,
    maps: null,
    theme: CHOICES.theme.includes(theme) ? theme : "auto",
  };
}

export function writeState(state, meta) {
  const start = startState(meta);
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (name === "theme" || value === null) continue;
    if (name === "observed" || name === "observer") words.set(name, spellRuns(value));
    else if (Array.isArray(value)) words.set(name, value.map((part) => round(part)).join("."));
    else if (value !== start[name]) words.set(name, typeof value === "number" ? round(value) : value);
  }
  return words.toString();
}

function round(value) {
  return typeof value === "number" ? String(Math.round(value * 1e4) / 1e4).replace(".", "_") : value;
}

/** Increasing numbers as 3-9.12, and back; those that are not from `low` on and below `end` are left out. */
function spellRuns(numbers) {
  const runs = [];
  for (const number of numbers) {
    if (number - 1 === runs.at(-1)?.[1]) runs.at(-1)[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(".");
}

function readRuns(text, low, end) {
  const found = new Set();
  for (const part of text.split(".")) {
    const [first, last = first] = /^\d{1,9}(-\d{1,9})?$/.test(part) ? part.split("-").map(Number) : [];
    for (let number = Math.max(first, low); number <= Math.min(last, end - 1); number++) found.add(number);
  }
  return [...found].sort((a, b) => a - b);
}

/** Whether the row before a token's own is what produced it: the token was predicted from there. */
export function hasRowsBefore(meta) {
  return meta.causal && meta.kind !== "cross";
}

/** Whether queries and keys are those of two texts. */
export function hasPair(meta) {
  return meta.sentence_b_start !== null && meta.kind !== "cross";
}

/** What can be shown of a layer: its heads, and their mean where there are several. */
export function listChoices(meta, layer) {
  const heads = meta.heads[meta.layers.indexOf(layer)];
  return heads.length > 1 ? [...heads, "mean"] : heads;
}

/** The heads that a mean is over where those that are on are some of them; else null, which is all. */
export function listMeant({ on }) {
  const numbers = (on ?? []).filter((head) => head !== "mean");
  return numbers.length ? numbers : null;
}

/** A map as a store knows it: the number of a head, or which mean. */
export function spellMap(state, head) {
  if (head !== "mean") return head;
  return ["mean", ...(state.over === "layers" ? ["layers"] : []), ...(listMeant(state) ?? [])].join(" ");
}

/** Read a link's text; what does not make sense for these maps is left at its start. */
export function readState(text, meta) {
  const words = new URLSearchParams(text ?? "");
  const state = {};
  for (const [name, choices] of Object.entries(CHOICES)) {
    if (choices.includes(words.get(name))) state[name] = words.get(name);
  }
  if (!hasPair(meta)) delete state.pair;
  for (const [name, [low, high]] of Object.entries(LIMITS)) {
    const value = readNumber(words.get(name));
    if (value !== null) state[name] = Math.min(high, Math.max(low, value));
  }
  const layer = readNumber(words.get("layer"));
  if (meta.layers.includes(layer)) state.layer = layer;
  const choices = listChoices(meta, state.layer ?? meta.layers[0]);
  const head = words.get("head") === "mean" ? "mean" : readNumber(words.get("head"));
  state.head = choices.includes(head) ? head : choices[0];
  for (const name of SCORED) {
    if (meta.scores.some((score) => score.name === words.get(name))) state[name] = words.get(name);
  }
  if (words.has("on")) {
    const on = words.get("on").split(".").map((part) => (part === "mean" ? part : readNumber(part)));
    state.on = on.filter((part) => choices.includes(part));
  }
  const keys = meta.tokens_key.length;
  const offset = findOffset(meta);
  const ends = {
    lineKey: [0, meta.columns],
    line: [offset, offset + meta.rows],
  };
  const chosen = {
    observed: [0, keys],
    observer: [0, meta.kind === "cross" ? (meta.tokens_query ?? meta.tokens_key).length : keys],
  };
  for (const [name, [low, end]] of Object.entries(chosen)) {
    const tokens = readRuns(words.get(name) ?? "", low, end);
    if (tokens.length) state[name] = tokens;
  }
  for (const [name, [low, end]] of Object.entries(ends)) {
    const token = readNumber(words.get(name));
    if (Number.isInteger(token) && token >= low && token < end) state[name] = token;
  }
  const pin = (words.get("pin") ?? "").split(".").map(readNumber);
  const sides = [meta.rows, meta.columns];
  if (pin.length === 2 && pin.every((part, i) => Number.isInteger(part) && part >= 0 && part < sides[i])) state.pin = pin;
  const zoom = (words.get("zoom") ?? "").split(".").map(readNumber);
  if (zoom.length === 3 && zoom.every((part) => part !== null) && zoom[0] > 1) state.zoom = zoom;
  return state;
}

function readNumber(text) {
  return /^-?\d+(_\d+)?$/.test(text ?? "") ? Number(text.replace("_", ".")) : null;
}

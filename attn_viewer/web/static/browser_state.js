/** What the browser shows, as a plain object and as the hash of its URL; and choices of heads such as `L0-3H*`. */

export const SORTS = ["prompt", "model", "layer", "head", "figure"];
/** What the borders of cards tell apart. */
export const BORDERS = ["none", "model", "layer", "prompt"];
/** Images a row, where it is not as many as fit. */
export const MOST_IN_ROW = 24;
/** Characters of a link; of many prompts it keeps as many as fit, and then of many terms of heads. */
const LONGEST_LINK = 2000;
/** The pattern itself, drawn from the weights: there without a figure having been made. */
export const PATTERN = "pattern";

const START = {
  models: [],
  search: "",
  table: "text",
  prompts: [],
  heads: "",
  figures: [PATTERN],
  sort: "prompt",
  row: 0,
  border: "none",
  page: 0,
  open: null,
  beside: null,
  view: "",
  atlas: "",
  axes: "",
  brush: "",
  profile: "",
  score: "",
  theme: "auto",
};

export function startState() {
  return structuredClone(START);
}

export function writeState(state) {
  const text = spellState(state);
  if (text.length <= LONGEST_LINK) return text;
  if (state.prompts === "*" || state.prompts.length < 2) {
    const terms = splitTerms(state.heads);
    return terms.length < 2 ? text : writeState({ ...state, heads: terms.slice(0, -1).join(" ") });
  }
  const length = state.prompts[0].length + 3; // a comma is spelled in three characters
  const kept = Math.max(1, state.prompts.length - Math.ceil((text.length - LONGEST_LINK) / length));
  return writeState({ ...state, prompts: state.prompts.slice(0, Math.min(kept, state.prompts.length - 1)) });
}

function spellState(state) {
  const words = new URLSearchParams();
  for (const [name, start] of Object.entries(START)) {
    const value = state[name];
    if (JSON.stringify(value) === JSON.stringify(start)) continue;
    if (name === "open" || name === "beside") words.set(name, [value.layer, value.head, value.prompt, value.model].join("."));
    else if (name === "models" || name === "figures") for (const part of value) words.append(name, part);
    else words.set(name, Array.isArray(value) ? value.join(",") : value);
  }
  return words.toString();
}

export function readState(text) {
  const words = new URLSearchParams(text);
  const state = startState();
  for (const name of ["models", "figures"]) if (words.has(name)) state[name] = words.getAll(name);
  for (const name of ["search", "heads", "view", "atlas", "axes", "brush", "score"]) if (words.has(name)) state[name] = words.get(name);
  if (/^-?(text|n_tokens|hash)$/.test(words.get("table") ?? "")) state.table = words.get("table");
  if (SORTS.includes((words.get("sort") ?? "").replace("-", ""))) state.sort = words.get("sort");
  if (BORDERS.includes(words.get("border"))) state.border = words.get("border");
  if (/^\d{1,2}$/.test(words.get("row") ?? "")) state.row = Math.min(MOST_IN_ROW, Number(words.get("row")));
  if (["light", "dark"].includes(words.get("theme"))) state.theme = words.get("theme");
  if (/^\d{1,6}$/.test(words.get("page") ?? "")) state.page = Number(words.get("page"));
  if (/^\d{1,6}\.\d{1,6}$/.test(words.get("profile") ?? "")) state.profile = words.get("profile");
  const prompts = words.get("prompts") ?? "";
  if (prompts === "*") state.prompts = "*";
  else state.prompts = prompts.split(",").filter((part) => /^[\w-]{1,100}$/.test(part));
  for (const name of ["open", "beside"]) {
    const item = /^(\d{1,6})\.(\d{1,6})\.([\w-]{1,100})\.(.+)$/.exec(words.get(name) ?? "");
    if (item) state[name] = { layer: Number(item[1]), head: Number(item[2]), prompt: item[3], model: item[4] };
  }
  return state;
}

/** Layers and their numbers of heads, over several models: as many heads as the widest has. */
export function mergeHeads(models) {
  const merged = new Map();
  for (const model of models)
    for (const [layer, count] of model.heads) merged.set(layer, Math.max(count, merged.get(layer) ?? 0));
  return new Map([...merged].sort((a, b) => a[0] - b[0]));
}

export function splitTerms(heads) {
  return heads.split(/[;\s]+|,(?=\s*[LH])/i).filter(Boolean);
}

const NUMBERS = String.raw`\*|\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*`;
const TERM = new RegExp(`^(?=.)(?:L(${NUMBERS}))?(?:H(${NUMBERS}))?$`, "i");

/**
 * Read a choice of heads: terms such as `L0-3H*`, `L5H2,7`, `L4` or `H0`, divided by spaces.
 * Returns a Map of layer to a Set of heads; throws an Error whose message is for a reader.
 */
export function parseHeads(text, available) {
  const chosen = new Map();
  for (const term of splitTerms(text)) {
    const match = TERM.exec(term);
    if (!match) throw new Error(`Cannot read “${term}”: write L0-3H*, L5H2,7, L4 or H0.`);
    const [inLayers, inHeads] = [readNumbers(match[1]), readNumbers(match[2])];
    let found = false;
    for (const [layer, count] of available) {
      if (!inLayers(layer)) continue;
      for (let head = 0; head < count; head++) {
        if (!inHeads(head)) continue;
        found = true;
        if (!chosen.has(layer)) chosen.set(layer, new Set());
        chosen.get(layer).add(head);
      }
    }
    if (!found) throw new Error(`“${term}” names no head that is there.`);
  }
  return chosen;
}

function readNumbers(text) {
  if (text === undefined || text === "*") return () => true;
  const ranges = text.split(",").map((part) => part.split("-").map(Number));
  return (number) => ranges.some(([first, last = first]) => first <= number && number <= last);
}

/** Write a choice as `parseHeads` reads it; layers with the same heads share a term. */
export function spellHeads(chosen, available) {
  const groups = new Map();
  for (const [layer, count] of available) {
    const heads = [...(chosen.get(layer) ?? [])].sort((a, b) => a - b);
    if (heads.length === 0) continue;
    const spelled = heads.length === count ? "*" : spellNumbers(heads);
    groups.set(spelled, [...(groups.get(spelled) ?? []), layer]);
  }
  return [...groups]
    .map(([heads, layers]) => `L${layers.length === available.size ? "*" : spellNumbers(layers)}H${heads}`)
    .join(" ");
}

function spellNumbers(numbers) {
  const runs = [];
  for (const number of numbers) {
    const last = runs.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(",");
}

/** Two items of the gallery side by side: the same head of two prompts or models, or two heads, and their difference. */

import { findError } from "./data.js";
import { shorten } from "./dom.js";

export function isSameHead(a, b) {
  return a.layer === b.layer && a.head === b.head;
}

/**
 * Sources of `mountViewer` for two items, each {item, meta, text, source}. All heads of both where the items are of one
 * head, to be stepped through together; else those two heads alone. `palettes` are those of a difference.
 */
export function pairSources(sides, palettes) {
  const [a, b] = sides.map(({ item }) => item);
  const metas = sides.map(({ item, meta, text }, i) => {
    const own = isSameHead(a, b) ? meta : { ...meta, layers: [item.layer], heads: [[item.head]], scores: [], maxima: null };
    const words = [meta.model_id];
    if (!isSameHead(a, b)) words.push(`L${item.layer} H${item.head}`);
    if (a.prompt !== b.prompt) words.push(`“${shorten(text, 40)}”`);
    return { ...own, model_id: words.join(", "), name: "AB"[i] };
  });
  const [first, second] = metas;
  const [ours, theirs] = metas.map(listTokens);
  if (JSON.stringify(ours) !== JSON.stringify(theirs)) {
    second.links = { query: linkTokens(ours.query, theirs.query), key: linkTokens(ours.key, theirs.key) };
  }
  const sources = sides.map(({ source }, i) => ({ ...source, meta: metas[i] }));
  const reason = findReason(first, second);
  if (reason) first.no_difference = reason;
  else sources.push({ meta: describeDifference(first, second, palettes) });
  return sources;
}

function listTokens({ kind, tokens_query, tokens_key }) {
  return { query: (kind === "cross" && tokens_query) || tokens_key, key: tokens_key };
}

/** Why two maps cannot be subtracted, if so. */
function findReason(first, second) {
  if (second.links) return "tokens differ";
  for (const name of ["rows", "columns", "cell", "kind", "causal", "first_query", "weighting"]) {
    if (JSON.stringify(first[name]) !== JSON.stringify(second[name])) return `${name.replaceAll("_", " ")} differ`;
  }
  const shape = ({ heads }) => JSON.stringify(heads.map((row) => row.length));
  return shape(first) === shape(second) ? null : "layers or heads differ";
}

function describeDifference(first, second, [palette, palette_dark]) {
  const error = [first, second].reduce((sum, { encoding }) => sum + findError(encoding), 0);
  const encoding = error ? { type: "difference", error } : { type: "float32" };
  const model_id = first.model_id === second.model_id ? first.model_id : `${second.model_id} − ${first.model_id}`;
  const notes = ["The second maps minus the first."];
  const more = { signed: true, palette, palette_dark, encoding, model_id, notes, maxima: null, scores: [] };
  return { ...first, ...more, name: "B − A", difference: true };
}

/** For each token of the second its place in the first: where both begin and end alike, and between if it is as long. */
function linkTokens(one, other) {
  const most = Math.min(one.length, other.length);
  let [start, end] = [0, 0];
  while (start < most && one[start] === other[start]) start++;
  while (end < most - start && one.at(-1 - end) === other.at(-1 - end)) end++;
  const by = one.length - other.length;
  return other.map((_, i) => (i < start ? i : i >= other.length - end ? i + by : by ? null : i));
}

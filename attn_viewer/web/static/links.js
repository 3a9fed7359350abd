/** One token, head or view in maps that differ: the same prompt through two models, two prompts, parts of one model. */

import { findOffset } from "./data.js";
import { SCORED, hasPair, listChoices } from "./state.js";

/** What is pointed at, {query, key} as tokens (either may be absent), in other maps; null where they lack it. */
export function movePlace(place, from, to) {
  const moved = {};
  for (const axis of ["query", "key"]) if (axis in place) moved[axis] = moveToken(place[axis], axis, from, to);
  return moved;
}

function moveToken(token, axis, from, to) {
  if (token === null) return null;
  const first = from.links ? from.links[axis][token] ?? null : token;
  if (first === null) return null;
  const found = to.links ? to.links[axis].indexOf(first) : first;
  return found >= 0 && found < countTokens(to, axis) ? found : null;
}

function countTokens({ kind, tokens_query, tokens_key }, axis) {
  return (kind === "cross" && axis === "query" && tokens_query ? tokens_query : tokens_key).length;
}

export function findQuery(meta, row) {
  return (meta.kind === "cross" ? 0 : meta.first_query) + row * meta.cell[0];
}

export function findRow(meta, query) {
  const row = Math.floor((query - findQuery(meta, 0)) / meta.cell[0]);
  return query !== null && row >= 0 && row < meta.rows ? row : null;
}

/** A state, or a change of one, as other maps have it: the same layer, or the nearest; the same tokens, where they are. */
export function moveState(state, from, to) {
  if (from === to) return state;
  const moved = { ...state };
  if ("layer" in state) {
    const distance = (layer) => Math.abs(layer - state.layer);
    moved.layer = to.layers.reduce((best, layer) => (distance(layer) < distance(best) ? layer : best));
  }
  const choices = listChoices(to, moved.layer ?? to.layers[0]);
  if ("head" in state && !choices.includes(state.head)) moved.head = choices[0];
  if (state.on) moved.on = state.on.filter((head) => choices.includes(head));
  for (const name of SCORED) {
    if (state[name] && !to.scores.some((score) => score.name === state[name])) moved[name] = null;
  }
  if ("pair" in state && !hasPair(to)) moved.pair = "all";
  const move = (token, axis) => moveToken(token, axis, from, to);
  if (state.pin) {
    const row = findRow(to, move(findQuery(from, state.pin[0]), "query"));
    const key = move(state.pin[1] * from.cell[1], "key");
    moved.pin = row === null || key === null ? null : [row, Math.floor(key / to.cell[1])];
  }
  for (const [name, axis] of [["observed", "key"], ["observer", "query"]]) {
    const tokens = state[name]?.map((token) => move(token, axis)).filter((token) => token !== null);
    if (name in state) moved[name] = tokens?.length ? tokens.sort((a, b) => a - b) : null;
  }
  if (Number.isInteger(state.line)) {
    const row = findRow(to, move(findQuery(from, state.line - findOffset(from)), "query"));
    moved.line = row === null ? null : row + findOffset(to);
  }
  if (Number.isInteger(state.lineKey)) {
    const key = move(state.lineKey * from.cell[1], "key");
    moved.lineKey = key === null ? null : Math.floor(key / to.cell[1]);
  }
  return moved;
}

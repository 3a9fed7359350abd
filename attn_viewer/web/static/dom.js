/** Elements from plain values. Strings become text nodes, never markup. */

import { listMeant } from "./state.js";

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Pixels above and below what is in sight that canvases cover too. */
export const MARGIN = 300;
export const FONT = "11.5px ui-sans-serif, system-ui, sans-serif";

/** Give a canvas a size in CSS pixels and return its context, scaled so that one unit is one CSS pixel. */
export function sizeCanvas(canvas, width, height, ratio = window.devicePixelRatio || 1) {
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const drawing = canvas.getContext("2d");
  drawing.setTransform(ratio, 0, 0, ratio, 0, 0);
  drawing.clearRect(0, 0, width, height);
  return drawing;
}

export function shorten(text, longest) {
  const characters = text.length > longest ? [...text.slice(0, 4 * longest)] : [];
  return characters.length > longest ? `${characters.slice(0, longest - 1).join("")}…` : text;
}

/** A prompt's text on one line; one without words has its hash for a name. */
export function nameText(text, hash) {
  return text.replace(/\s+/g, " ").trim() || `(no words) ${hash}`;
}

/** What a map of a layer is, for people: a head, a mean of heads as the state has it, or the mean that came alone. */
export function nameHead(meta, head, state = {}) {
  if (head !== "mean") return meta.averaged ?? `head ${head}`;
  const meant = listMeant(state)?.join(", ");
  return `mean of heads${meant ? ` ${shorten(meant, 40)}` : ""}${state.over === "layers" ? " of all layers" : ""}`;
}

/** The same with its layer, where it is of one. */
export function nameMap(meta, { layer, ...state }, head) {
  const name = nameHead(meta, head, state);
  return head === "mean" && state.over === "layers" ? `M${name.slice(1)}` : `Layer ${layer}, ${name}`;
}

/** The part of the prompt (system, user, …) that a token is in, as words to put behind its label. */
export function nameSegment({ segments, kind }, token, axis = "key") {
  const found = kind === "cross" && axis === "query" ? null : segments.find(([, start, stop]) => token >= start && token < stop);
  return found ? `  (${shorten(found[0], 24)})` : "";
}

export function plural(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}

/** Write a weight so that small ones keep two figures. */
export function formatWeight(weight) {
  if (weight === 0) return "0";
  if (weight < 0) return `−${formatWeight(-weight)}`;
  if (weight >= 0.1) return weight.toFixed(3);
  if (weight >= 1e-4) return weight.toPrecision(2);
  return weight.toExponential(1).replace("e-", "·10⁻").replace(/⁻(\d+)$/, (_, digits) => `⁻${raise(digits)}`);
}

/** A weight as these maps know it: 8-bit codes are near it, and their 0 is a bound; differences of such are near. */
export function tellWeight(weight, { type, power, scale, zero }) {
  if (type === "float32") return formatWeight(weight);
  if (type === "difference") return `≈ ${formatWeight(weight)}`;
  return weight ? `≈ ${formatWeight(weight)}` : `< ${formatWeight(scale * (0.5 / (zero || 255)) ** power)}`;
}

function raise(digits) {
  return [...digits].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
}

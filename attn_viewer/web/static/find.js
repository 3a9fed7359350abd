/** A field that looks for tokens by what they say, or goes to a position. */

import { make } from "./dom.js";

/** Where a text stands, or a position: {query, key} as tokens; of cross attention one of both. */
function findPlaces(meta, text) {
  const sides = meta.kind === "cross" ? [["key", meta.tokens_key], ["query", meta.tokens_query ?? meta.tokens_key]] : [["", meta.tokens_key]];
  const wanted = text.replaceAll(" ", "␣").toLowerCase();
  return sides.flatMap(([side, labels]) => {
    const tokens = searchLabels(labels, wanted);
    if (/^\d+$/.test(text) && Number(text) < labels.length) tokens.unshift(Number(text));
    return [...new Set(tokens)].map((token) => (side ? { [side]: token } : { query: token, key: token }));
  });
}

/** The tokens at which a text begins, which may go on in those after. */
function searchLabels(labels, wanted) {
  const lower = labels.map((label) => label.toLowerCase());
  const all = lower.join("");
  const tokens = [];
  let [token, end] = [0, lower[0].length];
  for (let at = all.indexOf(wanted); at >= 0 && wanted; at = all.indexOf(wanted, at + 1)) {
    while (end <= at) end += lower[++token].length;
    tokens.push(token);
  }
  return tokens;
}

/** `getPanes()` tells what is shown: each view goes to a place by `goTo(place)`. */
export function createFind(getPanes) {
  let places = [];
  let at = -1;
  const input = make("input", {
    type: "search",
    class: "av-input",
    maxlength: 200,
    "aria-label": "Find a token or position",
    placeholder: "text or position",
    oninput: () => {
      at = -1;
      places = findPlaces(getPanes()[0].context.meta, input.value.trim());
      count.textContent = input.value.trim() ? `${places.length} found` : "";
    },
    onkeydown: (event) => {
      if (event.key !== "Enter" || !places.length) return;
      event.preventDefault();
      at = (at + (event.shiftKey ? places.length - Number(at >= 0) : 1)) % places.length;
      const { view, context } = getPanes()[0];
      const place = places[at];
      view.goTo?.(place);
      count.textContent = `${at + 1} of ${places.length}`;
      const token = place.key ?? place.query;
      const labels = "key" in place ? context.meta.tokens_key : context.meta.tokens_query ?? context.meta.tokens_key;
      context.announce(`${"key" in place ? "token" : "query"} ${token}, ${labels[token]}; ${count.textContent}`);
    },
  });
  const count = make("output", {});
  const element = make("label", { class: "av-field av-find" }, make("span", {}, "Find ", count), input);
  return {
    element,
    focus: () => input.focus(),
    /** Only views that show tokens have them to find. */
    show() {
      element.hidden = !getPanes()[0].view.goTo;
    },
  };
}

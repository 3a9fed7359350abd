/** The heads of a layer as coloured switches, for the views that lay several heads over each other. */

import { make } from "./dom.js";
import { listChoices, listMeant, spellMap } from "./state.js";
import { colorHead } from "./theme.js";

/** Heads that a tooltip tells of. */
export const MOST_TOLD = 12;

/** The heads that are on: [{head, color}], in the layer's order, the mean last. */
export function listHeads({ meta, state, theme }) {
  const heads = meta.heads[meta.layers.indexOf(state.layer)];
  const on = new Set(state.on ?? heads);
  const chosen = heads.map((head, i) => ({ head, color: colorHead(theme, i, heads.length) }));
  if (heads.length > 1) chosen.push({ head: "mean", color: colorHead(theme, "mean") });
  return chosen.filter(({ head }) => on.has(head));
}

/** Promise of the weights of the heads that are on. */
export async function loadHeads(context) {
  const { state, store, meta } = context;
  const chosen = listHeads(context);
  const found = await Promise.all(chosen.map(({ head }) => store.load(state.layer, spellMap(state, head))));
  return { layer: state.layer, heads: chosen.map((one, i) => ({ ...one, found: found[i] })), meta };
}

function tellCount(shown, all) {
  return shown === all ? "" : `${shown} of ${all} heads shown`;
}

/**
 * The switches; `isMean` where the mean of those that are on is shown, and not each. They are the same elements while the
 * heads are the same: a click that takes long ends on the switch on which it began.
 */
export function createLegend(context, isMean = false) {
  const { meta, update } = context;
  const element = make("div", { class: "av-heads", role: "group", "aria-label": "Heads" });
  // At the end, so that a switch stays under the pointer that clicks it twice.
  const count = make("span", { class: "av-label" });
  let built = null;
  let chips = [];

  function read() {
    const heads = meta.heads[meta.layers.indexOf(context.state.layer)];
    const choices = isMean ? heads : listChoices(meta, context.state.layer);
    return { heads, choices, on: new Set((isMean ? listMeant(context.state) : context.state.on) ?? heads) };
  }

  function turn(head) {
    const { heads, choices, on } = read();
    const next = choices.filter((other) => (other === head) !== on.has(other));
    const isAll = next.length === heads.length && !next.includes("mean");
    update({ on: isAll || (isMean && !next.length) ? null : next });
  }

  function build(choices) {
    const focused = element.contains(document.activeElement) ? document.activeElement.dataset.head : null;
    chips = choices.map((head) =>
      make(
        "button",
        {
          type: "button",
          "data-head": head,
          "aria-label": head === "mean" ? "Mean of heads" : `Head ${head}`,
          title: "Click to switch, double click for this one alone",
          onclick: () => turn(head),
          ondblclick: () => update({ on: [head] }),
        },
        make("i"),
        meta.averaged ? "mean" : String(head),
      ),
    );
    const all = make("button", { type: "button", class: "av-plain", "data-head": "all", onclick: () => update({ on: null }) }, "All");
    const none = make("button", { type: "button", class: "av-plain", "data-head": "none", onclick: () => update({ on: [] }) }, "None");
    element.replaceChildren(make("span", { class: "av-label" }, "Heads"), ...chips, all, ...(isMean ? [] : [none]), count);
    if (focused) element.querySelector(`[data-head="${focused}"]`)?.focus();
    built = String(choices);
  }

  function show() {
    const { heads, choices, on } = read();
    if (built !== String(choices)) build(choices);
    choices.forEach((head, i) => {
      chips[i].setAttribute("aria-pressed", String(on.has(head)));
      chips[i].firstChild.style.background = colorHead(context.theme, head === "mean" ? head : heads.indexOf(head), heads.length);
    });
    count.textContent = tellCount(heads.filter((head) => on.has(head)).length, heads.length);
  }

  return { element, show };
}

/** Which of several maps is shown: one, or two side by side. */

import { make, shorten } from "./dom.js";

/** Two maps, not counting the difference between them, can stand side by side. */
function findPair(metas) {
  const own = [...metas.keys()].filter((i) => !metas[i].difference);
  return own.length === 2 ? own : null;
}

/** The positions of the maps that are shown, which two are at first. */
export function listShown({ maps }, metas) {
  return maps ?? findPair(metas) ?? [0];
}

export function readMaps(text, metas) {
  const words = new URLSearchParams(text ?? "").get("maps") ?? "";
  const choices = [...metas.keys()].map((i) => [i]);
  return choices.find((maps) => maps.join(".") === words) ?? null;
}

export function describePair(metas) {
  return metas.map(({ name, model_id }) => `${name}: ${model_id}`).join(" · ");
}

export function createSwitch(metas, update) {
  const pair = findPair(metas);
  const choices = metas.map(({ name, model_id }, i) => ({ maps: [i], name, title: model_id }));
  if (pair) choices.push({ maps: null, name: "Side by side", title: describePair(pair.map((i) => metas[i])) });
  const buttons = choices.map(({ maps, name, title }) =>
    make("button", { type: "button", title: shorten(title, 200), "data-maps": (maps ?? pair).join("."), onclick: () => update({ maps }) }, name),
  );
  const group = make("div", { class: "av-choice", role: "group", "aria-label": "Maps" }, ...buttons);
  const reason = metas[0].no_difference;
  const why = reason ? [make("p", { class: "av-hint" }, `There is no difference B − A: ${reason}.`)] : [];
  return {
    element: make("div", { class: "av-maps" }, group, ...why),
    show(state) {
      const shown = listShown(state, metas).join(".");
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.maps === shown));
    },
  };
}

/** What the page with a prompt box says beside the views: effects, heads that differ, likeliest next tokens. */

import { formatWeight, make, plural } from "./dom.js";

const MOST_HEADS = 5;
/** A share that moved and is no more than rounding. */
const ROUNDING = 1e-5;

export function describeEffect({ description, loss, before, after }) {
  const [old, now] = loss.map((value) => value.toFixed(3));
  const table = (title, rows) =>
    make(
      "table",
      {},
      make("caption", {}, title),
      make("tr", {}, ...["next token", "before", "after"].map((name) => make("th", { scope: "col" }, name))),
      ...rows.map(([label, ...values]) => make("tr", {}, make("td", {}, label), ...values.map((value) => make("td", {}, formatWeight(value))))),
    );
  const [[was], [is]] = [before[0], after[0]];
  const turn = was === is ? `The likeliest next token is ${was} with and without the change.` : `The likeliest next token was ${was} and is ${is} with the change: ${was} is no longer predicted.`;
  return [
    make("p", {}, `A: the model as it is; B: ${description}. ${turn} Mean loss of the prompt ${old} → ${now} nats.`),
    make("div", { class: "al-tables" }, table("Likeliest before", before), table("Likeliest after", after)),
  ];
}

/** Which heads two prompts differ in most, as buttons that open each; `open(layer, head)`. */
export function describeComparison({ changed, distances, maps: [meta] }, open) {
  const all = distances.flatMap((row, i) => row.map((value, j) => ({ value, layer: meta.layers[i], head: meta.heads[i][j] })));
  const ranked = all.filter(({ value }) => value > ROUNDING).sort((one, other) => other.value - one.value);
  const buttons = ranked
    .slice(0, MOST_HEADS)
    .map(({ layer, head, value }) => make("button", { class: "al-do", type: "button", onclick: () => open(layer, head) }, `${layer}.${head}: ${formatWeight(value)}`));
  const most = ranked.length ? "Heads that changed most, by the share of a row's weight that moved among the tokens of both:" : "Among the tokens of both, no head looks elsewhere.";
  const text = `A: the prompt before; B: this one, with ${plural(changed, "token")} changed. ${most}`;
  return [make("p", {}, text), make("div", { class: "al-row" }, ...buttons)];
}

/** The prompt's tokens, and the likeliest ones after the one that is chosen; `onTry(ids)` is given the ids to go on with. */
export function describeNext({ next, ids, maps: [meta] }, onTry) {
  const list = make("div", { class: "al-row" });
  const tokens = meta.tokens_key.map((label, i) => make("button", { type: "button", onclick: () => choose(i) }, label));
  function choose(at) {
    tokens.forEach((token, i) => token.setAttribute("aria-pressed", String(i === at)));
    const tries = next[at].map(([id, label, share]) => {
      const bar = make("meter", { value: share, "aria-hidden": true });
      const title = `Go on with ${label} after token ${at}`;
      return make("button", { class: "al-do", type: "button", title, onclick: () => onTry([...ids.slice(0, at + 1), id]) }, `${label} ${formatWeight(share)} `, bar);
    });
    list.replaceChildren(...tries);
  }
  choose(next.length - 1);
  return [
    make("p", {}, "Choose a token to see what the model expects after it; choose one of these to go on with it."),
    make("div", { class: "al-tokens", role: "group", "aria-label": "Tokens" }, ...tokens),
    list,
  ];
}

/** One pattern: the viewer over the prompt's weights, which come a head at a time, and the figures of the chosen head. */

import { makePicture } from "./browser_gallery.js";
import { PATTERN } from "./browser_state.js";
import { make, nameText } from "./dom.js";
import { mountViewer } from "./viewer.js";

export function createSingle(context) {
  const place = make("div", { class: "ab-viewer" });
  const text = make("p", { class: "ab-prompt" });
  const strip = make("div", { class: "ab-strip" });
  const element = make(
    "section",
    { class: "ab-single", hidden: true },
    make(
      "div",
      { class: "ab-title" },
      make("button", { class: "ab-back", onclick: () => context.update({ open: null, view: "" }) }, "← All figures"),
      text,
    ),
    place,
    strip,
  );
  let viewer = null;
  let key = null;
  let figures = [];
  let start = null;

  function close() {
    viewer?.destroy();
    viewer = null;
    key = null;
    place.replaceChildren();
    strip.replaceChildren();
  }

  async function open() {
    const { model, prompt, layer, head } = context.state.open;
    const mine = (key = JSON.stringify([model, prompt]));
    viewer?.destroy();
    viewer = null;
    text.textContent = "";
    strip.replaceChildren();
    place.replaceChildren(make("p", { class: "ab-empty" }, "Loading…"));
    const { source } = context;
    const reply = await context.ask(source.getPrompt({ model, prompt }));
    if (mine !== key) return;
    text.textContent = reply ? nameText(reply.text, prompt).slice(0, 400) : "";
    text.title = reply?.text.slice(0, 2000) ?? "";
    figures = reply?.figures ?? [];
    place.replaceChildren();
    if (!reply) return; // the page says why
    if (!reply.meta) {
      place.append(make("p", { class: "ab-empty" }, `${reply.error[0].toUpperCase()}${reply.error.slice(1)}.`));
      showFigures(layer, head);
      return;
    }
    start = { layer: reply.meta.layers[0], head: reply.meta.heads[0][0] };
    const getHead = (l, h) => source.getHead({ model, prompt, layer: l, head: h });
    const getScores = (l) => source.getScores({ model, prompt, layer: l });
    viewer = mountViewer(
      place,
      [{ meta: reply.meta, getHead, getScores }],
      {
        state: context.state.view || `view=heatmap&layer=${layer}&head=${head}`,
        allKeys: true,
        theme: context.state.theme,
        hasTheme: false,
        onState: follow,
      },
    );
    follow(viewer.state); // a link may name a head that is not there
  }

  function follow(view) {
    const words = new URLSearchParams(view);
    const layer = Number(words.get("layer") ?? start.layer);
    const head = words.get("head") === "mean" ? null : Number(words.get("head") ?? start.head);
    const now = context.state.open;
    showFigures(layer, head);
    context.update({ view, open: { ...now, layer, head: head ?? now.head } }, false);
  }

  function showFigures(layer, head) {
    const chosen = figures.filter((figure) => figure !== PATTERN);
    const shown = head === null ? [] : chosen;
    const name = `L${layer} H${head}`;
    if (strip.dataset.shown === `${key} ${name} ${shown}`) return;
    strip.dataset.shown = `${key} ${name} ${shown}`;
    strip.replaceChildren(
      ...shown.map((figure) => {
        const image = makePicture(context, { ...context.state.open, layer, head, figure });
        return make("figure", {}, image, make("figcaption", {}, make("b", {}, name), ` ${figure}`));
      }),
    );
  }

  function show() {
    const { open: wanted } = context.state;
    element.hidden = wanted === null;
    if (!wanted) close();
    else if (key !== JSON.stringify([wanted.model, wanted.prompt])) open();
    else if (viewer) viewer.setTheme(context.state.theme);
    if (wanted && viewer && context.state.view && context.state.view !== viewer.state) viewer.setState(context.state.view);
  }

  return { element, show };
}

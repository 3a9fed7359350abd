/** Which models, heads and figure functions: the other sections of the browser's side. */

import { PATTERN, mergeHeads, parseHeads, spellHeads } from "./browser_state.js";
import { make, plural } from "./dom.js";

const PATTERN_DOC =
  "The attention weights themselves, drawn from disk: rows are queries, columns keys. Colours follow the square root " +
  "of a weight, up to the head's largest; long prompts show the largest weight of each cell.";

export function createModels(context) {
  const chips = context.folder.models.map(({ name, title, heads, n_prompts }) => {
    const total = heads.reduce((sum, [, count]) => sum + count, 0);
    return make(
      "button",
      { class: "ab-chip", onclick: () => toggle(name) },
      make("b", {}, title),
      make("span", {}, [plural(heads.length, "layer"), plural(total, "head"), plural(n_prompts, "prompt")].join(", ")),
    );
  });
  const element = make(
    "section",
    { class: "ab-section" },
    make("div", { class: "ab-title" }, make("h2", {}, "Models")),
    make("div", { class: "ab-chips" }, ...chips),
  );

  function toggle(name) {
    const { models } = context.state;
    const next = models.includes(name) ? models.filter((m) => m !== name) : [...models, name];
    if (next.length) context.update({ models: next, page: 0 });
  }

  function show() {
    for (const [i, { name }] of context.folder.models.entries())
      chips[i].setAttribute("aria-pressed", String(context.state.models.includes(name)));
  }

  return { element, show };
}

export function createHeads(context) {
  const input = make("input", {
    class: "ab-input",
    placeholder: "L0-3H*  L5H2,7",
    "aria-label": "Heads, such as L0-3H*",
    spellcheck: "false",
    maxlength: 500,
    onchange: () => context.update({ heads: input.value.trim(), page: 0 }),
  });
  const message = make("p", { class: "ab-error", role: "alert" });
  const count = make("span", { class: "ab-count" });
  const grid = make("div", {
    class: "ab-grid",
    role: "group",
    "aria-label": "Layers and heads, arrow keys move",
    onclick: handleClick,
    onkeydown: handleKey,
    onfocusin: ({ target }) => rest(target),
  });
  const box = make("div", { class: "ab-gridbox" }, grid);
  const set = (heads) => context.update({ heads, page: 0 });
  const element = make(
    "section",
    { class: "ab-section" },
    make(
      "div",
      { class: "ab-title" },
      make("h2", {}, "Heads"),
      count,
      make("button", { class: "ab-small", onclick: () => set("L*H*") }, "All"),
      make("button", { class: "ab-small", onclick: () => set("") }, "None"),
    ),
    input,
    message,
    box,
  );
  let built = "";
  let resting = null;

  function build(available) {
    const widest = Math.max(0, ...available.values());
    const key = JSON.stringify([...available]);
    if (key === built) return;
    built = key;
    grid.style.gridTemplateColumns = `28px repeat(${widest}, minmax(13px, 1fr))`;
    grid.style.maxWidth = `${28 + widest * 24}px`;
    const parts = [make("span", {})];
    for (let head = 0; head < widest; head++)
      parts.push(make("button", { class: "ab-label", "data-head": head, title: `Head ${head} of every layer` }, String(head)));
    for (const [layer, heads] of available) {
      parts.push(make("button", { class: "ab-label", "data-layer": layer, title: `All heads of layer ${layer}` }, `L${layer}`));
      for (let head = 0; head < widest; head++)
        parts.push(
          head < heads
            ? make("button", { class: "ab-cell", "data-layer": layer, "data-head": head, "aria-label": `L${layer} H${head}`, title: `L${layer} H${head}` })
            : make("span", {}),
        );
    }
    grid.replaceChildren(...parts);
    const buttons = grid.querySelectorAll("button");
    for (const button of buttons) button.tabIndex = -1;
    resting = buttons[0];
    rest(resting);
  }

  /** The grid is one stop of the tab key: the button last used. */
  function rest(button) {
    resting.tabIndex = -1;
    resting = button;
    button.tabIndex = 0;
  }

  function handleKey(event) {
    const wide = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide }[event.key];
    if (!by) return;
    event.preventDefault();
    const parts = [...grid.children];
    const at = parts.indexOf(event.target);
    const isSide = Math.abs(by) === 1 && Math.floor((at + by) / wide) !== Math.floor(at / wide);
    const next = parts[at + by];
    if (!isSide && next?.tagName === "BUTTON") next.focus();
  }

  function handleClick(event) {
    const { layer, head } = event.target.dataset;
    if (layer === undefined && head === undefined) return;
    const available = mergeHeads(context.models);
    const chosen = context.heads;
    const wanted = [...available]
      .filter(([number]) => layer === undefined || number === Number(layer))
      .flatMap(([number, heads]) => Array.from({ length: heads }, (_, h) => [number, h]))
      .filter(([, h]) => head === undefined || h === Number(head));
    const isOn = wanted.every(([l, h]) => chosen.get(l)?.has(h));
    for (const [l, h] of wanted) {
      if (!chosen.has(l)) chosen.set(l, new Set());
      if (isOn) chosen.get(l).delete(h);
      else chosen.get(l).add(h);
    }
    set(spellHeads(chosen, available));
  }

  function show() {
    const available = mergeHeads(context.models);
    build(available);
    let error = "";
    try {
      parseHeads(context.state.heads, available);
    } catch (problem) {
      error = problem.message;
    }
    message.textContent = error;
    if (document.activeElement !== input || !error) input.value = context.state.heads;
    let total = 0;
    for (const cell of grid.querySelectorAll(".ab-cell")) {
      const isOn = context.heads.get(Number(cell.dataset.layer))?.has(Number(cell.dataset.head)) ?? false;
      cell.setAttribute("aria-pressed", isOn);
      total += isOn;
    }
    count.textContent = `${total} of ${[...available.values()].reduce((sum, heads) => sum + heads, 0)}`;
  }

  return { element, show };
}

export function createFigures(context) {
  const boxes = context.functions.map(({ name }) => make("input", { type: "checkbox", onchange: () => toggle(name) }));
  const rows = context.functions.map((func, i) =>
    make(
      "div",
      { class: "ab-function" },
      make("label", {}, boxes[i], make("span", {}, func.name)),
      make("button", { class: "ab-small", "aria-label": `About ${func.name}`, onclick: () => explain(func) }, "About"),
    ),
  );
  const dialog = make("dialog", { class: "ab-dialog" });
  const title = make("div", { class: "ab-title" }, make("h2", {}, "Figures"));
  const element = make("section", { class: "ab-section" }, title, ...rows, dialog);

  function toggle(name) {
    const { figures } = context.state;
    const next = figures.includes(name) ? figures.filter((f) => f !== name) : [...figures, name];
    context.update({ figures: next, page: 0 });
  }

  function explain({ name, doc, code }) {
    const close = make("button", { class: "ab-small", onclick: () => dialog.close() }, "Close");
    dialog.replaceChildren(
      make("div", { class: "ab-title" }, make("h2", {}, name), close),
      makeText(doc || "This function says nothing about itself."),
      ...(code ? [make("h3", {}, "Source"), make("pre", { tabindex: "0" }, code)] : []),
    );
    dialog.showModal();
  }

  function show() {
    for (const [i, { name }] of context.functions.entries()) boxes[i].checked = context.state.figures.includes(name);
  }

  return { element, show };
}

/** A docstring, each line as far in as it was written, up to a quarter of the width: where it wraps, it stays there. */
function makeText(text) {
  const lines = text.split("\n").map((line) => {
    const words = line.trimStart();
    if (!words) return make("br");
    const element = make("span", {}, words);
    element.style.paddingLeft = `min(${line.length - words.length}ch, 25%)`;
    return element;
  });
  return make("p", { class: "ab-doc" }, ...lines);
}

export const PATTERN_FUNCTION = { name: PATTERN, doc: PATTERN_DOC, code: "" };

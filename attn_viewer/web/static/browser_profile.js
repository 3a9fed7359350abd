/** One head over a data set: its scores, examples as running text, tokens, curves by position, and its weights alone. */

import { FONT, formatWeight, make, plural, sizeCanvas } from "./dom.js";

/** Tokens that are shown before the first one that is marked, and behind the last. */
const [BEFORE, BEHIND] = [14, 6];
const [PLOT_WIDTH, PLOT_HEIGHT] = [460, 180];
const TOP_TOKENS = 12;

export function formatValue(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(3);
}

/** A colour for a share of a scale from 0 to 1, strong where large on either ground. */
export function colourShare(share, look) {
  const [from, to] = look === "dark" ? [0.45, 0.85] : [0.85, 0.45];
  return `oklch(${from + share * (to - from)} ${0.05 + 0.13 * share} ${260 - 235 * share})`;
}

export function readColours(element) {
  const style = getComputedStyle(element);
  return Object.fromEntries(["ink", "muted", "line", "accent"].map((name) => [name, style.getPropertyValue(`--${name}`)]));
}

export function createProfile(context) {
  const element = make("div", { class: "ab-profile", hidden: true });
  let key = null;

  async function show(index) {
    const { atlas: model, profile, score } = context.state;
    element.hidden = !profile;
    const now = JSON.stringify([model, profile, score, context.look]);
    if (!profile || now === key) return;
    key = now;
    const [layer, head] = profile.split(".");
    const entry = await context.ask(context.source.getAtlas({ model, name: `L${layer}H${head}` }));
    if (now !== key) return;
    if (!entry) {
      key = null; // the page says why, and it is asked for again
      return void element.replaceChildren(makeTop(layer, head));
    }
    const name = entry.strongest.some(([one]) => one === score) ? score : chooseScore(entry);
    const labels = Object.fromEntries(index.scores.map(([one, label]) => [one, label]));
    const examples = [["Strongest", "strongest"], ["From lowest to highest, in steps of a tenth of the prompts", "deciles"]];
    const lists = await Promise.all(examples.map(([, kind]) => listExamples(entry[kind].find(([one]) => one === name)[1], index)));
    if (now !== key) return;
    element.replaceChildren(
      makeTop(layer, head),
      part("Scores over prompts", make("div", { class: "ab-scores" }, ...entry.distributions.map((one) => makeScore(one, labels, name)))),
      part(`Examples by ${labels[name]}`, ...examples.flatMap(([title], i) => [make("h3", {}, title), lists[i]])),
      part("Tokens", ...makeTokens(entry)),
      part("By position", makeCurves(entry.curves, labels)),
      part("Weights alone", make("p", { class: "ab-count" }, entry.remark), ...entry.circuits.map(makeCircuit)),
    );
    for (const canvas of element.querySelectorAll("canvas")) canvas.draw();
  }

  /** The score with most to show: the one whose values differ most from prompt to prompt, on its own scale. */
  function chooseScore({ distributions }) {
    return distributions.some(([name]) => name === "induction") ? "induction" : distributions[0][0];
  }

  function part(title, ...children) {
    return make("section", { class: "ab-part" }, make("h2", {}, title), ...children);
  }

  function makeTop(layer, head) {
    const back = make("button", { class: "ab-back", onclick: () => context.update({ profile: "", score: "" }) }, "← All heads");
    return make("div", { class: "ab-title" }, back, make("h2", {}, `Layer ${layer}, head ${head}`));
  }

  /** A canvas that is drawn once it is on the page. */
  function makeCanvas(width, height, label, paint) {
    const canvas = make("canvas", { role: "img", "aria-label": label });
    canvas.draw = () => {
      const drawing = sizeCanvas(canvas, width, height);
      drawing.font = FONT;
      paint(drawing, readColours(element));
    };
    return canvas;
  }

  function makeScore([name, low, high, counts, missing], labels, chosen) {
    const most = Math.max(...counts, 1);
    const total = counts.reduce((sum, count) => sum + count, 0);
    const center = (i) => low + ((i + 0.5) / counts.length) * (high - low);
    const mean = counts.reduce((sum, count, i) => sum + count * center(i), 0) / (total || 1);
    const told = `${plural(total, "prompt")} around ${formatValue(mean)}${missing ? `, ${missing} without` : ""}`;
    const canvas = makeCanvas(150, 44, `${labels[name]}: ${told}, from ${formatValue(low)} to ${formatValue(high)}`, (drawing, { muted, line }) => {
      drawing.fillStyle = line;
      drawing.fillRect(0, 43, 150, 1);
      drawing.fillStyle = muted;
      counts.forEach((count, i) => drawing.fillRect((i * 150) / counts.length, 43 - (40 * count) / most, 150 / counts.length - 1, (40 * count) / most));
    });
    return make(
      "button",
      { class: "ab-score", "aria-pressed": String(name === chosen), onclick: () => context.update({ score: name }) },
      make("b", {}, labels[name] ?? name),
      canvas,
      make("span", {}, told),
    );
  }

  async function listExamples(examples, index) {
    const numbers = [...new Set(examples.map(([number]) => Math.floor(number / index.part)))];
    const parts = await Promise.all(numbers.map((n) => context.ask(context.source.getAtlas({ model: context.state.atlas, name: `prompts-${n}` }))));
    const find = (number) => parts[numbers.indexOf(Math.floor(number / index.part))]?.prompts[number % index.part];
    return make("ol", { class: "ab-examples" }, ...examples.map((example) => makeExample(example, find(example[0]), index)));
  }

  function makeExample([, value, query, keys, weights], prompt, index) {
    if (!prompt) return make("li", {}, formatValue(value));
    const [hash, tokens] = prompt;
    const marked = [query, ...keys];
    const [first, last] = [Math.max(0, Math.min(...marked) - BEFORE), Math.min(tokens.length, Math.max(...marked) + BEHIND + 1)];
    const text = make("p", { class: "ab-running" }, first ? "… " : "");
    for (let i = first; i < last; i++) {
      const label = tokens[i].replaceAll("␣", " ");
      const at = keys.indexOf(i);
      if (i !== query && at < 0) {
        text.append(label);
        continue;
      }
      const told = [i === query ? "query" : "", at < 0 ? "" : `key, weight ${formatWeight(weights[at])}`].filter(Boolean).join(", ");
      const mark = make("mark", { class: i === query ? "ab-query" : "ab-key", title: told }, label, make("span", { class: "av-live" }, ` (${told})`));
      if (at >= 0) mark.style.setProperty("--weight", `${Math.round(100 * Math.min(1, weights[at]))}%`);
      text.append(mark);
    }
    if (last < tokens.length) text.append(" …");
    const { layer, head } = readPlace();
    const item = { layer, head, prompt: hash, model: context.state.atlas };
    const links = index.is_stored
      ? [
          make("a", { href: context.link({ open: item, view: "" }) }, "pattern"),
          make("a", { href: context.link({ open: item, view: `view=overview&layer=${layer}&head=${head}` }) }, "bird's eye"),
        ]
      : [];
    return make("li", {}, make("b", {}, formatValue(value)), text, ...links);
  }

  function readPlace() {
    const [layer, head] = context.state.profile.split(".").map(Number);
    return { layer, head };
  }

  function makeTokens({ looks_from, looks_to, classes_from, classes_to }) {
    const list = (title, rows) => {
      const cells = ([name, count, weight]) => [make("th", { scope: "row" }, name), make("td", {}, weight.toFixed(1)), make("td", {}, formatValue(count ? weight / count : null))];
      const heading = ["", "weight", "each"].map((text) => make("th", { scope: "col" }, text));
      const body = rows.slice(0, TOP_TOKENS).map((row) => make("tr", {}, ...cells(row)));
      return make("table", { class: "ab-table" }, make("caption", {}, title), make("thead", {}, make("tr", {}, ...heading)), make("tbody", {}, ...body));
    };
    const note = "Weight: summed over all prompts, in rows of attention. From: what queries with this token put past the first key; to: what keys with it get.";
    return [
      make("p", { class: "ab-count" }, note),
      make("div", { class: "ab-columns" }, list("Looks from", looks_from), list("Looks to", looks_to), list("From, by class", classes_from), list("To, by class", classes_to)),
    ];
  }

  function makeCurves(curves, labels) {
    const longest = Math.max(...curves.map(([, step, values]) => step * values.length));
    const colour = (i) => `oklch(${context.look === "dark" ? 0.74 : 0.55} 0.15 ${25 + 120 * i})`;
    const ends = curves.map(([name, , values]) => `${labels[name] ?? name} ${formatValue(values.find((value) => value !== null))} to ${formatValue(values.findLast((value) => value !== null))}`);
    const canvas = makeCanvas(PLOT_WIDTH, PLOT_HEIGHT, `Mean weight by position of the query: ${ends.join("; ")}`, (drawing, { muted, line }) => {
      const [left, bottom] = [30, PLOT_HEIGHT - 20];
      drawing.strokeStyle = line;
      drawing.strokeRect(left, 6, PLOT_WIDTH - left - 6, bottom - 6);
      drawing.fillStyle = muted;
      drawing.fillText("1", 16, 14);
      drawing.fillText("0", 16, bottom);
      drawing.fillText("0", left, PLOT_HEIGHT - 5);
      drawing.textAlign = "right";
      drawing.fillText(`position ${longest - 1}`, PLOT_WIDTH - 6, PLOT_HEIGHT - 5);
      curves.forEach(([, step, values], i) => {
        drawing.strokeStyle = colour(i);
        drawing.lineWidth = 1.6;
        drawing.beginPath();
        let isDown = false;
        values.forEach((value, n) => {
          if (value === null) return void (isDown = false);
          const at = [left + (((n + 0.5) * step) / longest) * (PLOT_WIDTH - left - 6), bottom - value * (bottom - 6)];
          if (isDown) drawing.lineTo(...at);
          else drawing.moveTo(...at);
          isDown = true;
        });
        drawing.stroke();
      });
    });
    const legend = curves.map(([name], i) => {
      const swatch = make("i", {});
      swatch.style.background = colour(i);
      return make("span", {}, swatch, labels[name] ?? name);
    });
    return make("div", {}, canvas, make("p", { class: "ab-key-line" }, ...legend));
  }

  function makeCircuit([kind, values, directions]) {
    const most = Math.max(...values, 1e-12);
    const canvas = makeCanvas(PLOT_WIDTH, 90, `Singular values of ${kind}, from ${formatValue(values[0])} to ${formatValue(values.at(-1))}`, (drawing, { muted, ink }) => {
      values.forEach((value, i) => {
        drawing.fillStyle = i < directions.length ? colourShare(1, context.look) : muted;
        drawing.fillRect((i * PLOT_WIDTH) / values.length, 88 - (70 * value) / most, PLOT_WIDTH / values.length - 1, (70 * value) / most);
      });
      drawing.fillStyle = ink;
      drawing.fillText(formatValue(values[0]), 0, 12);
    });
    const names = kind === "QK" ? ["query", "key"] : ["looked at", "written"];
    const heading = ["", ...names].map((text) => make("th", { scope: "col" }, text));
    const rows = directions.flatMap((ends, i) => [[ends[0], ends[2]], [ends[1], ends[3]]].map((pair, side) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, side ? "−" : `${formatValue(values[i])} +`),
        ...pair.map((tokens) => make("td", { class: "ab-ends" }, tokens.join("  "))),
      ),
    ));
    const table = make("table", { class: "ab-table" }, make("thead", {}, make("tr", {}, ...heading)), make("tbody", {}, ...rows));
    const title = kind === "QK" ? "Query–key product" : "Output–value product";
    return make("details", { open: true }, make("summary", {}, `${title}: ${plural(values.length, "singular value")}`), canvas, table);
  }

  return { element, show };
}

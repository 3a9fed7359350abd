/**
 * Where the browser's data come from: a server, or files that a site holds (attn_viewer/web/site.py). Both answer alike:
 *
 *   getFolder()  {name, models, functions}
 *   listPrompts({models, search, table, offset, limit})  {total, of, prompts}; `table` is text, n_tokens or hash, or -text …
 *   getPrompt({model, prompt})  {text, figures, meta, error}
 *   getAtlas({model, name})  a file of an atlas, as storage/atlas_files.py declares it
 *   getHead(item), getScores(item)  what a `source` of viewer.js answers for a head, and for a layer
 *   getPicture(item, theme)  {url, isPage}: what an image shows, or a frame where nothing runs
 *   recheck(url)  whether a picture that is no image is a page; it rejects with why there is none
 *
 * An item is {model, prompt, layer, head, figure}. Promises reject with an Error whose message is for a reader.
 */

import { PATTERN } from "./browser_state.js";
import { HeadStore, inflate, makeScale } from "./data.js";
import { paintCells } from "./overview.js";
import { startState } from "./state.js";
import { makeTheme } from "./theme.js";

/** Pixels a side of a thumbnail. */
const THUMBNAIL = 160;
/** Files of a site that are kept, and bytes of them. */
const [MOST_FILES, MOST_BYTES] = [200, 256 * 2 ** 20];

function explain(reason) {
  return new Error(`${reason[0].toUpperCase()}${reason.slice(1)}.`);
}

export function createServer() {
  async function request(path) {
    let reply;
    try {
      reply = await fetch(path);
    } catch {
      throw new Error("The server does not answer. Is it still running?");
    }
    if (reply.ok) return reply;
    const { error } = await reply.json().catch(() => ({ error: "the server refuses this" }));
    throw explain(error);
  }
  const getJson = async (path) => (await request(path)).json();
  const spell = (words) => new URLSearchParams(words);
  return {
    getFolder: () => getJson("api/folder"),
    listPrompts({ models, search, table, offset, limit }) {
      const words = spell({ q: search, sort: table, offset, limit });
      for (const model of models) words.append("models", model);
      return getJson(`api/prompts?${words}`);
    },
    getAtlas: ({ model, name }) => getJson(`api/atlas?${spell({ model, name })}`),
    getPrompt: ({ model, prompt }) => getJson(`api/prompt?${spell({ model, prompt })}`),
    async getHead({ model, prompt, layer, head }) {
      return new Uint8Array(await (await request(`api/weights?${spell({ model, prompt, layer, head })}`)).arrayBuffer());
    },
    getScores: ({ model, prompt, layer }) => getJson(`api/scores?${spell({ model, prompt, layer })}`),
    async getPicture({ model, prompt, layer, head, figure }, theme) {
      const words = spell({ model, prompt, layer, head });
      const path = figure === PATTERN ? `thumbnail?${words}&theme=${theme}` : `figure?${words}&${spell({ name: figure })}`;
      return { url: path, isPage: false };
    },
    async recheck(url) {
      const reply = await fetch(url).catch(() => null);
      if (!reply) throw new Error("the server does not answer");
      if (!reply.ok) throw new Error((await reply.json()).error);
      return reply.headers.get("content-type").startsWith("text/html");
    },
  };
}

/** `root` is the folder of the data, below the page. */
export function createFiles(root) {
  const kept = new Map();

  /** Promise of a file, read once: its path is names that are yet to be spelled. */
  function read(names, use) {
    const path = [root, ...names].flatMap((name) => name.split("/")).map(encodeURIComponent).join("/");
    const file = kept.get(path) ?? { job: fetchFile(path).then(use), size: 0 };
    kept.delete(path);
    kept.set(path, file); // the last one is the latest used
    file.job.then(
      ({ byteLength = 0 }) => forget((file.size = byteLength)),
      () => kept.delete(path),
    );
    return file.job;
  }

  function forget() {
    let size = [...kept.values()].reduce((sum, file) => sum + file.size, 0);
    for (const [path, file] of kept) {
      if (size <= MOST_BYTES && kept.size <= MOST_FILES) break;
      size -= file.size;
      kept.delete(path);
    }
  }

  async function fetchFile(path) {
    const reply = await fetch(path).catch(() => null);
    if (!reply) throw explain("the site does not answer");
    if (!reply.ok) throw explain("the site lacks a file; it may be changing, or half copied");
    return reply;
  }

  const getJson = (...names) => read(names, (reply) => reply.json());
  const getBytes = (...names) => read(names, async (reply) => inflate(new Uint8Array(await reply.arrayBuffer())));
  const getFolder = () => getJson("folder.json");

  /** All prompts of a model, or as many as its first `most`. */
  async function listOf(model, most) {
    const { part, models } = await getFolder();
    const count = Math.ceil(Math.min(most, models.find(({ name }) => name === model).n_prompts) / part);
    const parts = await Promise.all(Array.from({ length: count }, (_, number) => getJson(model, `prompts-${number}.json`)));
    return parts.flat();
  }

  async function listPrompts({ models, search, table, offset, limit }) {
    const { models: all } = await getFolder();
    const isPlain = models.length === 1 && !search && table === "text"; // as the index is
    const rows = new Map();
    for (const model of models) {
      for (const row of await listOf(model, isPlain ? offset + limit : Infinity)) {
        if (!rows.has(row.hash)) rows.set(row.hash, { ...row, models: [] });
        rows.get(row.hash).models.push(model);
      }
    }
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const isFound = ({ text, hash }) => words.every((word) => text.toLowerCase().includes(word) || word === hash.toLowerCase());
    const found = [...rows.values()].filter(isFound);
    const key = table.replace("-", "");
    const sign = table.startsWith("-") ? -1 : 1;
    const compare = (a, b) => Number(a > b) - Number(a < b);
    if (!isPlain) found.sort((a, b) => sign * (compare(a[key], b[key]) || compare(a.hash, b.hash)));
    const count = isPlain ? all.find(({ name }) => name === models[0]).n_prompts : rows.size;
    return { total: isPlain ? count : found.length, of: count, prompts: found.slice(offset, offset + limit) };
  }

  async function getPrompt({ model, prompt }) {
    const { models } = await getFolder();
    if (!models.some(({ name }) => name === model)) throw explain(`there is no model '${model}' in this site; there is ${models.map(({ name }) => name).join(", ")}`);
    return getJson(model, prompt, "prompt.json").catch(() => {
      throw explain(`there is no prompt '${prompt}' of model '${model}' in this site`);
    });
  }

  const getAtlas = ({ model, name }) => getJson(model, "atlas", `${name}.json`);

  async function getHead(item) {
    const { meta } = await getPrompt(item);
    const heads = meta.heads[meta.layers.indexOf(item.layer)];
    const at = heads?.indexOf(item.head) ?? -1;
    if (at < 0) throw explain(`there is no head ${item.head} in layer ${item.layer}`);
    const bytes = await getBytes(item.model, item.prompt, `L${item.layer}.bin`);
    const size = bytes.length / heads.length;
    return bytes.subarray(at * size, (at + 1) * size);
  }

  async function getScores({ model, prompt, layer }) {
    return (await getJson(model, prompt, "scores.json"))[layer];
  }

  async function getPicture(item, theme) {
    const { model, prompt, layer, head, figure } = item;
    if (figure === PATTERN) return { url: URL.createObjectURL(await drawThumbnail(item, theme)), isPage: false };
    const found = (await getJson(model, prompt, "figures.json"))[figure];
    const format = found?.formats[`${layer}.${head}`];
    if (!format) throw new Error(found?.reasons[`${layer}.${head}`] ?? "not made yet");
    const names = [model, prompt, `L${layer}`, `H${head}`, `${figure}.${format}`];
    const isPage = format === "html.bin";
    const type = { "svg.bin": "image/svg+xml", "html.bin": "text/html" }[format];
    const data = type ? new Blob([await getBytes(...names)], { type }) : await read(names, (reply) => reply.blob());
    return { url: URL.createObjectURL(data), isPage };
  }

  async function drawThumbnail(item, theme) {
    const { meta, error } = await getPrompt(item);
    if (!meta) throw new Error(error);
    const store = new HeadStore(meta, { getHead: (layer, head) => getHead({ ...item, layer, head }) });
    const found = await store.loadThumbnail(item.layer, item.head, THUMBNAIL, { rows: [0, meta.rows], columns: [0, meta.columns] });
    const canvas = new OffscreenCanvas(1, 1);
    paintCells(canvas, found, makeScale(startState(meta), found.max || 1), makeTheme(meta, theme === "dark"));
    return canvas.convertToBlob();
  }

  const recheck = async () => {
    throw new Error("this figure is damaged");
  };
  return { getFolder, listPrompts, getAtlas, getPrompt, getHead, getScores, getPicture, recheck };
}

/** The source of a page that holds its own weights, the heads of a layer as base64 of deflated bytes in one element. */

import { inflate } from "./data.js";
import { make } from "./dom.js";
import { mountViewer } from "./viewer.js";

function waitForAll() {
  if (document.readyState !== "loading") return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve, { once: true }));
}

export function openPage() {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const sources = [makeSource("")];
  for (let n = 1; document.getElementById(`m${n}.meta`); n++) sources.push(makeSource(`m${n}.`));
  const element = document.getElementById("viewer");
  try {
    return mountViewer(element, sources, { allKeys: true, ...read("options") });
  } catch (error) {
    element.replaceChildren(make("p", {}, error.message));
    return null;
  }

  function makeSource(prefix) {
    const meta = read(`${prefix}meta`);
    const waiting = new Map();
    async function getHead(layer, head) {
      if (!waiting.has(layer)) waiting.set(layer, readLayer(`${prefix}l${layer}`));
      try {
        const bytes = await waiting.get(layer);
        const heads = meta.heads[meta.layers.indexOf(layer)];
        const [size, at] = [bytes.length / heads.length, heads.indexOf(head)];
        return bytes.subarray(at * size, (at + 1) * size);
      } catch (error) {
        throw new Error(`The weights of layer ${layer} are damaged in this file; make it again.`, { cause: error });
      }
    }
    return { meta, isLocal: true, getHead };
  }

  async function readLayer(id) {
    // Until something stands after it, the parser may be in the midst of its text.
    if (!document.getElementById(id)?.nextSibling) await waitForAll();
    const text = document.getElementById(id).textContent;
    const decode = Uint8Array.fromBase64 ?? ((text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0)));
    return inflate(decode(text));
  }
}

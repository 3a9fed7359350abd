/** The source of a page that holds its own weights, each head as base64 of deflated bytes in an element of its own. */

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
    return { meta: read(`${prefix}meta`), isLocal: true, getHead: (layer, head) => readHead(`${prefix}h${layer}.${head}`, layer, head) };
  }

  async function readHead(id, layer, head) {
    if (!document.getElementById(id)) await waitForAll();
    try {
      const text = atob(document.getElementById(id).textContent);
      return await inflate(Uint8Array.from(text, (character) => character.charCodeAt(0)));
    } catch (error) {
      throw new Error(`The weights of layer ${layer}, head ${head} are damaged in this file; make it again.`, {
        cause: error,
      });
    }
  }
}

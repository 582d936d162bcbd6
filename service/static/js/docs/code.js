/**
 * A call's code in tabs, one a language. The choice holds for every call of the page and is kept.
 */

import { h } from "../lib/dom.js";
import { ofBrowser } from "../lib/memory.js";
import { LANGUAGES } from "./samples.js";

const KEPT = "latentd.docs.language";
const names = LANGUAGES.map(([name]) => name);
const kept = () => Math.max(0, names.indexOf(ofBrowser.get(KEPT)));

const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

export class Code {
  constructor(call) {
    this.call = call;
    this.panel = h("pre", { id: `${call.id}-code`, tabIndex: 0, role: "tabpanel" });
    this.tabs = LANGUAGES.map(([name], i) =>
      h(
        "button",
        {
          type: "button",
          id: `${call.id}-${name}`,
          role: "tab",
          "aria-controls": this.panel.id,
          onclick: () => choose(i),
        },
        name,
      ),
    );
    const list = h("div", { role: "tablist", "aria-label": "Language", onkeydown: (event) => this.#step(event) }, ...this.tabs);
    this.element = h("div", { className: "code" }, list, this.panel);
    document.addEventListener("language", () => this.draw());
    this.draw();
  }

  #step({ key }) {
    if (!(key in STEPS)) return;
    const next = (kept() + STEPS[key] + names.length) % names.length;
    choose(next);
    this.tabs[next].focus();
  }

  draw() {
    const chosen = kept();
    this.tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1;
    });
    this.panel.setAttribute("aria-labelledby", this.tabs[chosen].id);
    this.panel.textContent = LANGUAGES[chosen][1](this.call);
  }
}

function choose(index) {
  ofBrowser.set(KEPT, names[index]);
  document.dispatchEvent(new CustomEvent("language"));
}
